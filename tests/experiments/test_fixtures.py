"""Runs that earlier versions wrote and left in the middle can be resumed; see fixtures/README.md."""

import importlib
import json
import shutil
from pathlib import Path

import jax
import pytest

from experiments import inspect, tasks
from experiments.running import workdir as wd
from tests.experiments.fixtures import make
from tests.experiments.small_runs import metrics

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def stopped(tmp_path, task):
    """The workdir of the stopped run of a task, and its options."""
    workdir = tmp_path / "run"
    shutil.unpack_archive(FIXTURES / f"{task}.tar.xz", workdir, filter="data")
    _, arguments = make.RUNS[task]
    if task == "wikipedia":
        arguments = [*arguments, "--data-file", str(FIXTURES / "text"), "--prepared-dir", str(tmp_path / "prepared")]
    return workdir, [*arguments, "--steps-per-dispatch", "1", "--workdir", str(workdir)]


@pytest.mark.parametrize("task", make.RUNS)
def test_a_run_of_an_earlier_version_resumes(stopped, task, capsys):
    """By the command that started it, without the time scale, and today's command of the task knows the run, too."""
    workdir, arguments = stopped
    arguments = [*arguments, "--time-scale", "0"]
    config = (workdir / wd.CONFIG).read_text()
    begun = metrics(workdir)
    expected = json.loads((FIXTURES / f"{task}.json").read_text())
    assert 0 < len(begun) < len(expected["metrics"])
    (step,) = (path.name for path in (workdir / wd.CHECKPOINTS).iterdir())
    assert importlib.import_module(f"experiments.{task}").main(arguments) == 0
    assert f"resuming from step {step} in {workdir}" in capsys.readouterr().err
    assert (workdir / wd.CONFIG).read_text() == config
    assert metrics(workdir)[: len(begun)] == begun
    for record, wanted in zip(metrics(workdir), expected["metrics"], strict=True):
        assert_close(record, wanted)
    if not tasks.find(task).until_solved:
        assert expected["summary"].pop("solved") is False  # which said nothing of such a task
        assert "solved" not in wd.read_summary(workdir)
    assert_close(wd.read_summary(workdir), expected["summary"])
    assert tasks.find(task).module.main(arguments) == 0
    assert "holds this run, finished" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["memorization"])
def test_without_the_option_that_resumes_it(stopped, task, capsys):
    workdir, arguments = stopped
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    assert importlib.import_module(f"experiments.{task}").main(arguments) == 2
    message = (
        "started without a time scale, with forget_bias 4.0 and conveyor_bias 0.0: add --time-scale 0 to resume it"
    )
    assert message in capsys.readouterr().err
    assert before.items() <= {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}.items()


def assert_close(found, wanted):
    """Compares metrics, up to the rounding of another CPU or of another version of jax than the fixtures' own."""
    tolerance = 1e-5 if jax.__version__ == "0.10.2" else 1e-3
    for name, value in wanted.items():
        if not isinstance(value, float):
            assert found[name] == value or name == "headline"  # which contains rounded metrics
        else:
            assert found[name] == pytest.approx(value, rel=tolerance, abs=0.02 if "accuracy" in name else 0)


@pytest.mark.parametrize("task", list(make.RUNS))
def test_the_results_of_an_earlier_version_are_read(stopped, task):
    """By inspect and by the registry, under the task's former name too."""
    workdir, _ = stopped
    config = wd.read_config(workdir)
    info = tasks.find(config["task"])
    assert task in (info.name, *info.former_names)
    expected = json.loads((FIXTURES / f"{task}.json").read_text())
    assert expected["summary"]["title"].startswith(f"{info.setting(config)}, ")
    assert f"test_{info.measure}" in expected["summary"]
    if "data_file" not in info.data_options:
        options = inspect.Options(workdir)
    else:
        options = inspect.Options(workdir, data_file=FIXTURES / "text", prepared_dir=workdir.parent / "prepared")
    _, example = inspect.example_of(config, options)
    _, state = inspect.trained(workdir, example)
    assert state.startswith("NOT FINISHED: the best of the first ")
