"""`python -m experiments.sweep`: the grid of runs, their processes, and their result lines."""

import itertools
import json
import sys

import pytest

from experiments import addition, sweep
from experiments.common import commandline
from experiments.reporting import lines, tables
from experiments.running import workdir as wd
from tests.experiments.sweeps import lines_of, write_run


def test_every_model_at_every_depth_first_of_one_seed():
    options = sweep.Options(
        task="memorization", presets=("2d", "slstm"), depths=(1, 4), seeds=(3, 5), equal_params=False
    )
    runs = sweep.grid(options, ["--length", "20"])
    assert [run.name for run in runs[:5]] == [
        "2d L=1 seed 3",
        "slstm L=1 seed 3",
        "2d L=4 seed 3",
        "slstm L=4 seed 3",
        "2d L=1 seed 5",
    ]
    told = ["--preset", "2d", "--depth", "1", "--seed", "3", "--workdir", str(runs[0].workdir), "--length", "20"]
    assert runs[0].command == [sys.executable, "-m", "experiments.memorization", *told]
    assert len({run.workdir for run in runs}) == len(runs) == 8


def test_models_have_equally_many_parameters_unless_the_task_is_told_how_many(capsys):
    """Within 3%: M is an integer. --paper has a larger default model, and the former workdirs can still be named."""
    presets = ("slstm", "trnn", "2d-M", "3d+CN")

    def features(*rest, **options):
        grid = sweep.grid(sweep.Options(task="addition", presets=presets, depths=(4,), seeds=(0,), **options), rest)
        found = []
        for run in grid:
            parsed = commandline.parse(addition.Options, run.command[3:], prog="", default=default)
            model = parsed.model.resolved(default.model, inputs=11)
            found.append((model.core_size(11), model.features, run.workdir.name))
        return [list(column) for column in zip(*found, strict=True)]

    default = addition.Options()
    sizes, channels, names = features("--digits", "3")
    assert sizes == pytest.approx([default.model.core_size(11)] * 4, rel=0.03)
    assert len({*channels}) == 4
    assert all(name.endswith("-params123303") for name in names)
    for told in (["--features", "9"], ["--params=5K"]):
        sizes, channels, names = features(*told)
        assert (channels == [9] * 4) == (told[0] == "--features")
        assert not any("params123303" in name for name in names)
    assert features("--digits", "3", equal_params=False)[1:] == [
        [100] * 4,
        [f"addition-{preset}-L4-seed0-digits-3-2442f726" for preset in presets],
    ]
    assert features(params="5K")[0] == pytest.approx([5000] * 4, rel=0.1)
    default = addition.PAPER
    assert features("--paper")[0] == pytest.approx([default.model.core_size(11)] * 4, rel=0.03)
    options = ["addition", "--presets", *presets, "--depths", "4", "--dry-run"]
    assert sweep.main(options) == 0
    assert (
        "nearest to 123,303 (with 11 input features): slstm M=123: 123,000; trnn M=201: 123,816"
        in capsys.readouterr().err
    )


def test_models_that_cannot_be_trained_on_the_task_are_named(capsys):
    arguments = ["--models", "all", "--seeds", "0", "--no-equal-params", "--dry-run"]
    told = "left out, since they cannot be trained on mnist: neuralgpu, only for memorization and addition"
    for task, expected in (("mnist", [told]), ("memorization", [])):
        assert sweep.main([task, *arguments]) == 0
        shown = capsys.readouterr()
        assert [line for line in shown.err.splitlines() if line.startswith("left out")] == expected
        assert ("--model neuralgpu" in shown.out) == (not expected)
        assert "--model mingru" in shown.out


def test_the_papers_grid_is_the_default():
    depths = {
        task: {run.model.depth for run in sweep.grid(sweep.Options(task=task), [])} for task in ("language", "mnist")
    }
    assert depths == {"language": {1, 2, 3, 4}, "mnist": {1, 3, 5}}
    assert len(sweep.grid(sweep.Options(task="addition"), [])) == 9 * 4 * 3


def test_the_former_name_of_a_task_is_its_alias():
    """Its workdirs keep their names, and its result lines go to the file of the task."""
    options = sweep.Options(task="wikipedia", presets=("2d",), depths=(1,), seeds=(0,), equal_params=False)
    (run,) = sweep.grid(options, [])
    assert run.command[:3] == [sys.executable, "-m", "experiments.wikipedia"]
    assert run.workdir.name == "wikipedia-2d-L1-seed0"
    assert sweep.default_path("wikipedia").name == "language.jsonl"


def test_a_workdir_is_named_for_everything_that_the_run_is_told():
    def name(*rest):
        options = sweep.Options(task="mnist", presets=("2d-F",), depths=(3,), seeds=(0,), equal_params=False)
        return sweep.grid(options, rest)[0].workdir.name

    assert name() == "mnist-2d-F-L3-seed0"
    named = name("--data", "digits", "--data-dir", "/some where/with *")
    assert named.startswith("mnist-2d-F-L3-seed0-data-digits-data-dir-some-where-with-")
    assert not set(named) & set(" /*'")
    assert name("--any-environment") == name()  # it resumes the same run
    others = [name("--x", "-3"), name("--x", "3"), name("--x=3"), name("--x", "3" * 200), name("--x", "3" * 201)]
    assert len(set(others)) == len(others)
    assert max(map(len, others)) < 120


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a task to run, or --collect"),
        (["mnist", "--collect", "somewhere"], "give a task to run, or --collect"),
        (["mnist", "--depths", "0"], "depths must be at least 1, got 0"),
        (["chess"], "task must be one of memorization, addition, mnist, language, got 'chess'"),
        (["mnist", "--seeds", "1", "-2"], "seeds must be at least 0, got -2"),
        (["mnist", "--dry-run", "--learning-rates", "nan"], "learning_rates must be positive numbers, got nan"),
        (["mnist", "--dry-run", "--learning-rates", "1e-3", "0"], "learning_rates must be positive numbers, got 0"),
        (["mnist", "--time-scales", "inf"], "time_scales must be finite numbers of at least 0, got inf"),
        (["mnist", "--jobs", "0"], "jobs must be at least 1, got 0"),
        (["mnist", "--seconds-per-run", "0"], "seconds_per_run must be a positive number, got 0"),
        (["mnist", "--", "--seed=3"], "--seed cannot follow --"),
        (["mnist", "--params", "12X"], "params must be a positive number like 10M, 250K or 4000, got '12X'"),
        (["mnist", "--params", "9K", "--no-equal-params"], "params gives all models equally many parameters"),
        (["mnist", "--params", "9K", "--", "--features", "3"], "--features cannot follow --: --params sets the size"),
        (["mnist", "--", "--overwrite"], "--overwrite cannot follow --"),
    ],
)
def test_bad_options_exit_with_2_and_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert sweep.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("models", [["tlstm", "slstm"], ["slstm", "tlstm"]])
def test_an_option_that_only_some_models_have_does_not_refuse_the_sweep(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sweep.main(["memorization", "--models", *models, "--seeds", "0", "--dry-run", "--", "--no-shared"]) == 0
    assert sweep.main(["memorization", "--models", "tlstm", "--seeds", "0", "--dry-run", "--", "--no-shared"]) == 2


def test_a_line_tells_of_a_run_what_is_to_be_kept(tmp_path):
    permutation = list(range(784))
    workdir = write_run(tmp_path / "run", epochs=500, permutation=permutation)
    line = lines.collect(workdir)
    assert (line.task, line.setting, line.model) == ("memorization", "memorization n=5", "2D tLSTM+CN")
    assert (line.depth, line.features, line.seed) == (4, 64, 0)
    assert line.title == "memorization n=5, 2D tLSTM+CN L=4 P=4 M=64"
    assert (line.finished, line.samples, line.seconds, line.parameters) == (True, 50_000, 750.0, 7)
    assert line.options["tensor_shape"] == [4]
    assert line.options["permutation"] == f"784 items, sha256 {lines.checksum(permutation)}"
    assert line.summary == json.loads((workdir / wd.SUMMARY).read_text())
    epochs = [record["epoch"] for record in line.history]
    assert (epochs[0], epochs[-1], len(epochs)) == (1, 500, 60)
    assert {b - a for a, b in itertools.pairwise(epochs)} == {8, 9}
    assert line.history[0]["test_accuracy"] == 0.1  # to five digits
    assert len(json.dumps(line.to_json())) < 10_000
    assert lines.Line.from_json(json.loads(json.dumps(line.to_json()))) == line
    other = write_run(tmp_path / "other", epochs=500, permutation=permutation[::-1])
    assert lines.collect(other).id != line.id


def test_a_run_cut_short_has_a_line_that_says_so(tmp_path):
    line = lines.collect(write_run(tmp_path / "run", epochs=3, finished=False))
    assert (line.finished, line.summary, line.samples) == (False, None, 300)
    assert line.title == "memorization n=5, 2D tLSTM+CN L=4 P=4 M=64"
    assert lines.collect(write_run(tmp_path / "early", epochs=0, finished=False)).history == []
    assert line.devices == []  # an earlier version wrote that workdir
    assert "devices" not in line.to_json()
    kinds = [{"device": device, "jax": "0.11"} for device in ("NVIDIA H100", "NVIDIA H200", "NVIDIA H100")]
    line = lines.collect(write_run(tmp_path / "moved", epochs=3, finished=False, environments=kinds))
    assert line.devices == line.to_json()["devices"] == ["NVIDIA H100", "NVIDIA H200"]
    assert lines.Line.from_json(line.to_json()) == line
    assert "NVIDIA H100, NVIDIA H200" in tables.run_row(line, [line])


@pytest.mark.parametrize(
    ("config", "title"),
    [
        ({"task": "addition", "digits": 15}, "addition n=15"),
        ({"task": "mnist", "data": "digits", "permutation": [1, 0]}, "digits permuted"),
        ({"task": "mnist", "data": "mnist", "permutation": None}, "mnist"),
        ({"task": "wikipedia", "data": "enwik8 prefix"}, "enwik8 prefix"),
    ],
)
def test_what_a_configuration_says_before_there_is_a_summary(config, title):
    stack = {"model": "slstm", "num_layers": 3, "features": 10, "unknown": 1}
    described = lines.description({**config, **stack})
    assert (described["setting"], described["model"], described["depth"], described["features"]) == (
        title,
        "sLSTM",
        3,
        10,
    )


def test_collected_by_hand_and_replaced_when_the_run_has_ended(tmp_path, capsys):
    path = tmp_path / "new" / "lines.jsonl"
    cut = write_run(tmp_path / "cut", epochs=2, finished=False)
    other = write_run(tmp_path / "other", seed=1)
    arguments = ["--results", str(path), "--collect"]
    assert sweep.main([*arguments, str(other), str(cut)]) == 0
    assert "20.0% after 200 samples, cut short" in capsys.readouterr().out
    assert [(line["seed"], line["finished"]) for line in lines_of(path)] == [(0, False), (1, True)]
    before = path.read_text().splitlines()
    assert sweep.main([*arguments, str(write_run(tmp_path / "whole"))]) == 0
    assert [(line["seed"], line["finished"]) for line in lines_of(path)] == [(0, True), (1, True)]
    assert path.read_text().splitlines()[1] == before[1]
    assert sweep.main([*arguments, str(cut)]) == 0  # which does not replace the finished run
    assert [line["finished"] for line in lines_of(path)] == [True, True]


def test_collected_lines_go_to_the_file_of_their_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sweep.main(["--collect", str(write_run(tmp_path / "run"))]) == 0
    assert len(lines_of(tmp_path / "results" / "memorization.jsonl")) == 1


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        (wd.CONFIG, None, "is not the workdir of a run"),
        (wd.CONFIG, "{}", "is not the workdir of a run"),
        (wd.CONFIG, '{"task": "memorization"}', "is not the configuration of a run (length is missing)"),
        (wd.CONFIG, '{"task": "chess"}', "is not the configuration of a run (task must be one of memorization"),
        (wd.SUMMARY, "{}", "summary.json is damaged"),
        (wd.METRICS, '{"epoch": 1}\n{"epo', "metrics.jsonl, line 2 is damaged"),
        (wd.METRICS, '{"epoch": 1}', "samples is null"),
        (wd.METRICS, '{"epoch": 1, "samples": 15}', "without epoch, samples or accuracy"),
    ],
)
def test_a_folder_that_is_no_run(tmp_path, capsys, name, contents, message):
    workdir = write_run(tmp_path / "run", finished=False)
    (workdir / name).unlink(missing_ok=True)
    if contents is not None:
        (workdir / name).write_text(contents)
    path = tmp_path / "lines.jsonl"
    assert sweep.main(["--results", str(path), "--collect", str(write_run(tmp_path / "good")), str(workdir)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not path.exists()


@pytest.mark.parametrize("damaged", ['{"task": "memor', "[]", '{"task": "memorization"}'])
def test_a_damaged_line_is_named_before_anything_is_run(tmp_path, capsys, damaged):
    path = tmp_path / "lines.jsonl"
    lines.add(path, [lines.collect(write_run(tmp_path / "run"))])
    path.write_text(f"{path.read_text()}{damaged}\n")
    before = path.read_text()
    assert sweep.main(["mnist", "--results", str(path), "--folder", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}, line 2 is damaged")
    assert len(error.splitlines()) == 1
    assert path.read_text() == before
    assert not (tmp_path / "runs").exists()
