"""`python -m experiments.sweep`: the grid of runs, their processes, and their result lines."""

import dataclasses
import io
import itertools
import json
import os
import re
import signal
import sys

import pytest

from experiments import addition, sweep
from experiments.common import commandline
from experiments.common.files import write_json, write_lines
from experiments.reporting import lines
from experiments.running import runs, together, training
from experiments.running import workdir as wd
from experiments.running.models import ModelOptions
from experiments.running.progress import asked_to_stop
from experiments.sweeping import processes
from experiments.sweeping.grid import Run

TINY = ["--length", "1", "--num-symbols", "9", "--features", "3", "--samples", "30", "--check-every", "15"]
SAVED = 128 + signal.SIGTERM
"""The exit status of a run that saved a checkpoint after SIGTERM."""


def write_run(workdir, epochs=5, finished=True, **options):
    """Writes the files of a run of memorization, except for checkpoints."""
    model = ModelOptions(preset=options.pop("preset", "2d+CN"), depth=4).resolved(ModelOptions())
    config = {"task": "memorization", "length": 5, **dataclasses.asdict(model), "seed": 0, **options}
    history = [
        {"epoch": n, "samples": 100 * n, "test_accuracy": 0.1 * n + 1 / 3e7, "seconds": 1.5}
        for n in range(1, epochs + 1)
    ]
    workdir.mkdir(parents=True)
    write_json(workdir / wd.CONFIG, config)
    write_lines(workdir / wd.METRICS, history)
    if finished:
        found = {"headline": "solved", "parameters": 7, "samples": 100 * epochs, "solved": True, "test_accuracy": 0.995}
        write_json(workdir / wd.SUMMARY, {"title": f"memorization n=5, {model.title}", **found})
    return workdir


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def of_scripts(monkeypatch, folder, *scripts):
    """Replaces the runs of a sweep by these scripts, one per seed."""
    runs = [
        Run("2d", 4, seed, folder / str(seed), [sys.executable, "-c", script, str(folder / str(seed))])
        for seed, script in enumerate(scripts)
    ]
    monkeypatch.setattr(sweep, "grid", lambda options, rest: runs)
    return ["memorization", "--folder", str(folder), "--results", str(folder / "lines.jsonl")]


def leaving(tmp_path, status, **run):
    """A script that writes the files of a run."""
    source = write_run(tmp_path / f"source{len(list(tmp_path.iterdir()))}", **run)
    return f"import shutil, sys; shutil.copytree({str(source)!r}, sys.argv[1]); sys.exit({status})"


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
            model = parsed.model.resolved(default.model)
            found.append((model.recurrent_size, model.features, run.workdir.name))
        return [list(column) for column in zip(*found, strict=True)]

    default = addition.Options()
    sizes, channels, names = features("--digits", "3")
    assert sizes == pytest.approx([default.model.recurrent_size] * 4, rel=0.03)
    assert len({*channels}) == 4
    assert all(name.endswith("-params120900") for name in names)
    for told in (["--features", "9"], ["--params=5K"]):
        sizes, channels, names = features(*told)
        assert (channels == [9] * 4) == (told[0] == "--features")
        assert not any("params120900" in name for name in names)
    assert features("--digits", "3", equal_params=False)[1:] == [
        [100] * 4,
        [f"addition-{preset}-L4-seed0-digits-3-2442f726" for preset in presets],
    ]
    default = addition.PAPER
    assert features("--paper")[0] == pytest.approx([default.model.recurrent_size] * 4, rel=0.03)
    options = ["addition", "--presets", *presets, "--depths", "4", "--dry-run"]
    assert sweep.main(options) == 0
    assert "nearest to 120,900: slstm M=123: 121,032; trnn M=201: 121,203" in capsys.readouterr().err


def test_the_papers_grid_is_the_default():
    depths = {task: {run.depth for run in sweep.grid(sweep.Options(task=task), [])} for task in ("language", "mnist")}
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
        (["mnist", "--jobs", "0"], "jobs must be at least 1, got 0"),
        (["mnist", "--seconds-per-run", "0"], "seconds_per_run must be a positive number, got 0"),
        (["mnist", "--", "--seed=3"], "--seed cannot follow --"),
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


def test_finished_runs_are_not_started_again(tmp_path, capsys, monkeypatch):
    arguments = ["memorization", "--presets", "2d", "--depths", "1", "4", "--folder", str(tmp_path)]
    options = sweep.Options(task="memorization", presets=("2d",), depths=(1, 4), folder=tmp_path)
    for run in sweep.grid(options, []):
        write_run(run.workdir, seed=run.seed, preset=run.preset)
    started = []
    monkeypatch.setattr(processes, "start", started.append)
    path = tmp_path / "lines.jsonl"
    assert sweep.main([*arguments, "--results", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("(already finished)") == 6
    assert "6 runs finished, 0 cut short, 0 failed" in shown
    assert not started
    assert sweep.main([*arguments, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("  # finished\n") == 6


def test_the_dry_run_shows_the_commands_and_does_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sweep.main(["addition", "--dry-run", "--", "--digits", "2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 108
    assert all(" -m experiments.addition --preset " in line and line.endswith(" --digits 2") for line in shown)
    assert not list(tmp_path.iterdir())


def test_a_failing_run_is_reported_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    failing = "import sys; print('of no interest'); sys.exit('error: length must be at least 1')"
    boxed = "import sys; print('╭─ Unrecognized ─╮\\n│ no --x │\\n│ For full helptext, run │\\n╰──╯'); sys.exit(2)"
    nothing = "pass"
    scripts = [failing, leaving(tmp_path, 0), leaving(tmp_path, SAVED, finished=False, seed=2), boxed, nothing]
    arguments = of_scripts(monkeypatch, tmp_path / "runs", *scripts)
    monkeypatch.setattr(processes, "TELL", 0)
    assert sweep.main([*arguments, "--jobs", "2"]) == 1
    shown = capsys.readouterr().out
    assert "2d L=4 seed 2: started, run 3 of 5; " in shown
    assert re.search("2d L=4 seed 0: (no message|of no interest)", shown)  # while it runs
    assert "2d L=4 seed 0: FAILED with status 1: error: length must be at least 1" in shown
    assert "2d L=4 seed 1: solved" in shown
    assert "2d L=4 seed 2: 50.0% after 500 samples, cut short" in shown
    assert "2d L=4 seed 3: FAILED with status 2: no --x" in shown
    assert "2d L=4 seed 4: FAILED: " in shown
    assert "1 runs finished, 1 cut short, 3 failed" in shown
    assert [line["finished"] for line in lines_of(tmp_path / "runs" / "lines.jsonl")] == [True, False]


def test_a_run_whose_time_is_over_is_asked_to_stop_once(tmp_path, capsys, monkeypatch):
    saving = (
        "import signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(0.5)\n"  # time for a second signal to arrive
        f"    {leaving(tmp_path, SAVED, finished=False).replace('; ', chr(10) + '    ')}\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "time.sleep(60)"
    )
    arguments = of_scripts(monkeypatch, tmp_path / "runs", saving, "import time; time.sleep(60)")
    assert sweep.main([*arguments, "--jobs", "2", "--seconds-per-run", "1"]) == 0
    shown = capsys.readouterr().out
    assert "2d L=4 seed 0: 50.0% after 500 samples, cut short" in shown
    assert "2d L=4 seed 1: stopped before it began" in shown
    assert "0 runs finished, 2 cut short, 0 failed" in shown


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_stopped_it_stops_its_runs_and_starts_no_others(tmp_path, capsys, monkeypatch, signum):
    stopping = f"import os, time; os.kill(os.getppid(), {int(signum)}); time.sleep(60)"
    arguments = of_scripts(monkeypatch, tmp_path / "runs", leaving(tmp_path, 0), stopping, "never")
    assert sweep.main(arguments) == 128 + signum
    shown = capsys.readouterr()
    assert f"stopped by {signum.name}: run the same command again to resume" in shown.err
    assert "1 runs finished, 1 cut short, 0 failed" in shown.out
    assert "seed 2" not in shown.out


@pytest.mark.slow
def test_real_runs(tmp_path, capfd):
    path = tmp_path / "lines.jsonl"
    grid = ["memorization", "--presets", "slstm", "--depths", "1", "--seeds", "0"]
    arguments = [*grid, "--folder", str(tmp_path / "runs"), "--results", str(path), "--", *TINY]
    assert sweep.main(arguments) == 0
    (line,) = lines_of(path)
    (workdir,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert line["finished"]
    assert lines.Line.from_json(line) == lines.collect(workdir)
    assert (line["setting"], line["model"], line["depth"], line["features"]) == ("memorization n=1", "sLSTM", 1, 3)
    assert [record["samples"] for record in line["history"]] == [15, 30]
    assert "NOT solved after 30 training samples" in capfd.readouterr().out
    before = path.read_text()
    assert sweep.main(arguments) == 0
    assert "(already finished)" in capfd.readouterr().out
    assert path.read_text() == before


@pytest.mark.slow
def test_a_real_run_cut_short_goes_on_to_the_same_end(tmp_path):
    grid = ["memorization", "--presets", "2d+CN", "--depths", "2", "--seeds", "0"]
    task = ["--length", "2", "--num-symbols", "9", "--features", "8", "--samples", "3000", "--check-every", "150"]
    broken = [*grid, "--folder", str(tmp_path / "broken"), "--results", str(tmp_path / "broken.jsonl")]
    whole = [*grid, "--folder", str(tmp_path / "whole"), "--results", str(tmp_path / "whole.jsonl")]
    seconds = 8
    while not (tmp_path / "broken.jsonl").exists() or not lines_of(tmp_path / "broken.jsonl")[0]["history"]:
        assert sweep.main([*broken, "--seconds-per-run", str(seconds), "--", *task]) == 0
        seconds += 4  # until there was an evaluation, on a slow machine too
    assert sweep.main([*broken, "--", *task]) == 0
    assert sweep.main([*whole, "--", *task]) == 0
    (one,), (other,) = lines_of(tmp_path / "broken.jsonl"), lines_of(tmp_path / "whole.jsonl")
    assert one["finished"]
    for line in (one, other):
        for record in line["history"]:
            del record["seconds"]
    assert one["history"] == other["history"]


@pytest.mark.parametrize("name", ["lines.jsonl", "1.log"])
def test_a_file_that_cannot_be_written_fails_one_run_and_not_the_others(tmp_path, capsys, monkeypatch, name):
    """The results file is replaced by a folder while the sweep runs; the log of one run cannot be opened."""
    in_the_way = f"from pathlib import Path; Path({str(tmp_path / 'runs' / 'lines.jsonl')!r}).mkdir(); "
    scripts = [leaving(tmp_path, 0, seed=seed) for seed in range(3)]
    if name == "lines.jsonl":
        scripts[0] = in_the_way + scripts[0]
    arguments = of_scripts(monkeypatch, tmp_path / "runs", *scripts)
    if name == "1.log":
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert sweep.main(arguments) == 1
    shown = capsys.readouterr().out
    assert shown.count("FAILED") == {"lines.jsonl": 3, "1.log": 1}[name]
    assert all((tmp_path / "runs" / str(seed)).is_dir() for seed in (0, 2))
    (tmp_path / "runs" / name).rmdir()
    assert sweep.main(arguments) == 0  # which adds the lines of the finished runs
    assert [line["seed"] for line in lines_of(tmp_path / "runs" / "lines.jsonl")] == [0, 1, 2]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_it_unless_it_was_ignored(signum):
    """SIGHUP is ignored below nohup, and SIGINT in the background jobs of a script."""
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        with asked_to_stop() as stop:
            signal.raise_signal(signum)
            assert not stop
        signal.signal(signum, signal.default_int_handler)
        with asked_to_stop() as stop:
            signal.raise_signal(signum)
            assert stop == [signum]
    finally:
        signal.signal(signum, before)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_without_a_reader_it_ends_quietly(tmp_path, monkeypatch, stream):
    reading, written = os.pipe()
    os.close(reading)
    with open(written, "w") as pipe:  # which fails on closing if something is left to be written
        monkeypatch.setattr(sys, stream, pipe)
        arguments = ["mnist", *(["--dry-run"] if stream == "stdout" else ["--depths", "0"])]
        assert sweep.main(arguments) == 128 + signal.SIGPIPE
        monkeypatch.undo()


def test_output_that_the_terminal_cannot_show_is_escaped(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    grid = ["mnist", "--presets", "2d", "--depths", "1", "--seeds", "0", "--folder", "\N{SNOWMAN}"]
    assert sweep.main([*grid, "--dry-run"]) == 0
    assert rb"\u2603" in sys.stdout.buffer.getvalue()


TOGETHER = ["memorization", "--presets", "slstm", "--depths", "1", "--together", "--seeds", "0", "1"]
SLSTM = ["--length", "1", "--num-symbols", "3", "--features", "4", "--batch-size", "5", "--samples", "20"]


def test_together_one_run_diverges_and_the_other_ends(tmp_path, capsys, monkeypatch):
    """The same command reports it again."""
    check = training.check_finite

    def diverging(step, mean, options):
        check(step, mean if options.seed == 0 or step < 2 else {"train_loss": float("nan")}, options)

    monkeypatch.setattr(training, "check_finite", diverging)
    monkeypatch.setattr(together, "memory", lambda group: 0.0)
    monkeypatch.setattr(together, "speed", lambda group: together.Speed(2.0, 0.5))
    monkeypatch.setattr(runs, "learning_curves", lambda path, *_: path.write_bytes(b"figure"))
    path = tmp_path / "lines.jsonl"
    arguments = [*TOGETHER, "--folder", str(tmp_path / "runs"), "--results", str(path), "--", *SLSTM]
    for told in (1, 0):  # there is nothing to say of a single run that is left
        assert sweep.main(arguments) == 1
        printed = capsys.readouterr().out
        assert printed.count("on this CPU one process a run is faster") == told
        assert re.search("slstm L=1 seed 1: FAILED: the loss became .* at step 2: try a --learning-rate", printed)
        assert "1 runs finished, 0 cut short, 1 failed" in printed
        (line,) = lines.read(path)
        assert (line.seed, line.finished) == (0, True)


def test_together_is_one_process(tmp_path, capsys):
    arguments = [*TOGETHER, "--folder", str(tmp_path / "runs"), "--results", str(tmp_path / "lines.jsonl")]
    assert sweep.main([*arguments, "--", *SLSTM, "--distributed"]) == 1
    assert capsys.readouterr().out.count("FAILED: distributed cannot be combined with --together") == 2
