# `make run` and `make test` need Python 3.11 or newer and make; the rest is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check format notebooks docs clean

# The main job: a tLSTM reads handwritten digits one pixel at a time.
run: $(VENV)/installed
	$(BIN)/python -m experiments.mnist --data digits

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Runs every notebook from top to bottom, and compares what it says with what is stored in it.
notebooks: $(VENV)/installed
	$(BIN)/python -m pytest -m slow tests/test_notebooks.py

# The API reference, docs/api/index.html. (The warnings left out: pdoc does not look up shapes in a NamedTuple.)
docs: $(VENV)/installed
	$(BIN)/python -W ignore::UserWarning -m pdoc tlstm_jax --docformat google --output-directory docs/api

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.13 ..")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[experiments,test,notebooks,docs]'
	touch $@

clean:
	rm -rf $(VENV) docs/api build dist .pytest_cache .ruff_cache .mypy_cache
