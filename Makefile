# `make run` and `make test` need Python 3.11 or newer and make. Everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test test-slow test-kernels check format notebooks docs clean

# Train a tLSTM to classify handwritten digits, read one pixel at a time.
run: $(VENV)/installed
	$(BIN)/python -m experiments.mnist --data digits

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# The tests marked slow, the notebooks among them.
test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 -m slow

# The GPU kernels, in an interpreter: all models with all options. With jax 0.10 (Python 3.11) they are skipped.
test-kernels: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 -m "slow or not slow" tests/core/test_cell_kernel.py tests/core/test_kernel_by_default.py

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Run every notebook from top to bottom and compare its outputs with the stored ones.
notebooks: $(VENV)/installed
	$(BIN)/python -m pytest -m slow tests/test_notebooks.py

# Build the site: README, the guide and the API reference. Fails on a broken link (with --quiet it would not). Open
# site/index.html, or for the search to work, run `python -m http.server --directory site`.
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.13 ..")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[experiments,test,notebooks,docs]'
	touch $@

clean:
	rm -rf $(VENV) site build dist .pytest_cache .ruff_cache .mypy_cache
