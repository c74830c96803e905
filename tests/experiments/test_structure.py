"""The folders of `experiments/`: what may import what, and what works without optional packages."""

import ast
import graphlib
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks.commandline
import experiments
from experiments import __main__ as run_package
from experiments import mnist, sweep, tasks
from experiments.common import commandline

ROOT = Path(__file__).parents[2]
ORDER = ("common", "datasets", "rivals", "running", "tasks", "reporting", "sweeping", "reproducing", "commands")
"""The folders of experiments, of which each may import itself and those before it. ``tasks`` is the registry, and
``commands`` are the other modules at the root, none of which may import another."""
COMMANDS = {
    *("mnist", "memorization", "addition", "language", "wikipedia"),
    *("sweep", "reproduce", "report", "inspect", "readme", "idea", "memory_kernel"),
}


def modules(package):
    """The path of every module of a package, by its dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(source, name, known):
    """The modules among the ``known`` ones that the source of a module imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import"
            # `from package import module` imports a module, `from module import name` does not
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (submodules & known) or {node.module}
    return found & known


def graph(package):
    found = modules(package)
    known = {*found, *modules("experiments")}
    return {name: imported(path.read_text(), name, known) for name, path in found.items()}


def folder(name):
    """The entry of ORDER to which a module belongs; None for the package itself."""
    parts = name.split(".")
    if parts == ["experiments"]:
        return None
    return parts[1] if parts[1] in ORDER else "commands"


def upward(arrows):
    """The imports of a graph that ORDER forbids."""
    return [
        f"{name} imports {other}"
        for name, others in arrows.items()
        for other in sorted(others)
        if folder(name) and folder(other) and name != other
        if ORDER.index(folder(other)) > ORDER.index(folder(name)) or folder(name) == folder(other) == "commands"
    ]


def test_no_module_imports_one_above_it_nor_a_command_another():
    arrows = graph("experiments")
    assert {folder(name) for name in arrows} - {None} == set(ORDER)
    assert sum(map(len, arrows.values())) > 50
    assert not upward(arrows)
    assert not arrows["experiments"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("experiments.running.runs", "from experiments.reporting import tables"),
        ("experiments.running.runs", "from experiments.reporting.paper import TABLES"),
        ("experiments.running.runs", "def f():\n    import experiments.tasks"),
        ("experiments.common.files", "from experiments.running.workdir import CONFIG"),
        ("experiments.inspect", "from experiments import mnist, tasks"),
        ("experiments.tasks", "from experiments import mnist"),
    ],
)
def test_such_an_import_would_be_found(name, source):
    arrows = {name: imported(source, name, set(modules("experiments")))}
    assert len(upward(arrows)) == 1


def test_imports_have_no_cycles():
    tuple(graphlib.TopologicalSorter(graph("experiments")).static_order())


def test_the_root_has_the_commands_and_the_registry():
    found = {module.name for module in pkgutil.iter_modules(experiments.__path__) if not module.ispkg}
    assert found == {*COMMANDS, "tasks", "__main__"}
    for name in COMMANDS:
        module = importlib.import_module(f"experiments.{name}")
        assert module.__doc__
        assert callable(module.main)
    assert set(tasks.TASKS) <= COMMANDS


def test_the_package_lists_its_commands(capsys):
    assert run_package.main([]) == 0
    shown = capsys.readouterr().out.splitlines()[1:]
    assert {line.split()[0] for line in shown} == {*COMMANDS, "rivals"}
    assert "  report         Write docs/results.md, its figures and docs/runs.md from the result lines" in "\n".join(
        shown
    )
    assert run_package.main(["mnist"]) == 2
    assert capsys.readouterr().err.startswith("error: the command follows a dot, as in python -m experiments.mnist")


def test_benchmarks_and_the_library_know_of_experiments_only_what_is_shared():
    assert not any(other.startswith("experiments") for others in graph("tlstm_jax").values() for other in others)
    arrows = graph("benchmarks")
    found = {
        name: {folder(x) for x in others if x.startswith("experiments")} - {None} for name, others in arrows.items()
    }
    assert found.pop("benchmarks.rivals") == {"rivals", "running"}  # imported only when rivals are asked for
    assert found.pop("benchmarks.time_scale") == {"common", "running", "tasks"}  # it trains, as the experiments do
    assert set().union(*found.values()) == {"common"}


@pytest.mark.parametrize("info", tasks.TASKS.values(), ids=list(tasks.TASKS))
def test_a_task_has_what_the_registry_says(info):
    assert {"main", "build", "example", "Options", "PAPER"} <= vars(info.module).keys()
    assert info.module.Options().model == info.model
    assert info.model.resolved(info.model)
    assert tasks.find(info.name) is info
    for former in info.former_names:
        assert tasks.find(former) is info
    options = vars(importlib.import_module("experiments.inspect").Options(Path()))
    assert set(info.data_options) <= options.keys() & vars(info.module.Options()).keys()


WITHOUT = """
import importlib, pkgutil, sys
from pathlib import Path

sys.modules["tyro"] = sys.modules["tensorflow_datasets"] = None  # an import fails
import benchmarks.commandline
import experiments
from experiments import mnist, sweep, tasks
from experiments.common import commandline

for package in ("common", "running", "reporting", "datasets"):
    package = importlib.import_module(f"experiments.{package}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith(".builder"):  # of tensorflow-datasets, imported when data is prepared
            importlib.import_module(module.name)
for module in pkgutil.iter_modules(experiments.__path__):
    importlib.import_module(f"experiments.{module.name}")

from experiments import memorization
from experiments.running import runs, symbols
from experiments.running.models import ModelOptions

model = ModelOptions(features=2, tensor_shape=(2,))
train = symbols.SampleOptions(samples=10, check_every=10, batch_size=5, workdir=Path(sys.argv[1]))
options = memorization.Options(length=1, num_symbols=3, model=model, train=train)
assert runs.run(lambda: memorization.build(options), options.train) == 0
sys.exit(memorization.main([]))
"""


def test_training_needs_neither_tyro_nor_tensorflow_datasets(tmp_path):
    """Every module but the data builders can be imported, and a task trained; its command line says what is missing."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", WITHOUT, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "memorization n=1, 2D tLSTM+CN L=2 P=2 M=2: NOT solved" in done.stdout
    assert done.stderr.splitlines()[-1] == (
        "error: the command line needs tyro, which is not installed: pip install 'tlstm_jax[experiments]'"
    )


def test_a_tilde_in_any_path_option_is_the_home_folder(monkeypatch, tmp_path):
    """Shells expand ``--workdir ~/x`` but not ``--workdir=~/x``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    found = commandline.parse(sweep.Options, ["--folder=~/runs", "--collect", "~/a", "b~"], prog="")
    assert (found.folder, found.collect) == (tmp_path / "runs", (tmp_path / "a", Path("b~")))
    found = commandline.parse(mnist.Options, ["--workdir=~/x", "--data-dir=~"], prog="")
    assert (found.train.workdir, found.data_dir) == (tmp_path / "x", tmp_path)
    assert benchmarks.commandline.json_path("~/x.json") == tmp_path / "x.json"
