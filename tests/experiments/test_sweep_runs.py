"""`python -m experiments.sweep` while it runs: processes and their ends, signals, damaged files, `--together`."""

import io
import os
import re
import signal
import sys

import pytest

from experiments import sweep
from experiments.reporting import lines
from experiments.running import steps, together, training
from experiments.running.progress import asked_to_stop
from experiments.sweeping import processes
from tests.experiments.sweeps import SAVED, TINY, leaving, lines_of, of_scripts, write_run


def test_finished_runs_are_not_started_again(tmp_path, capsys, monkeypatch):
    arguments = ["memorization", "--presets", "2d", "--depths", "1", "4", "--folder", str(tmp_path)]
    options = sweep.Options(task="memorization", presets=("2d",), depths=(1, 4), folder=tmp_path)
    for run in sweep.grid(options, []):
        write_run(run.workdir, seed=run.seed, preset=run.model.name)
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


@pytest.mark.parametrize(("task", "option"), [("memorization", "--foo"), ("mnist", "--length")])
def test_a_wrong_option_is_reported_before_the_first_run(tmp_path, capsys, monkeypatch, task, option):
    monkeypatch.chdir(tmp_path)
    for dry in (["--dry-run"], []):
        with pytest.raises(SystemExit) as stop:
            sweep.main([task, "--presets", "2d", "--depths", "2", *dry, "--", option, "3"])
        assert stop.value.code == 2
        shown = capsys.readouterr()
        assert option in shown.err + shown.out
        assert f"experiments.{task} --preset" not in shown.out
    assert not [path for path in tmp_path.rglob("*") if path.is_dir()]


def test_a_failing_run_is_reported_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    told, last_words = tmp_path / "told", processes.last_words

    def telling(log):
        words = last_words(log)
        told.touch()
        return words

    failing = (  # it fails once the sweep has told about it
        f"import pathlib, sys, time; told = pathlib.Path({str(told)!r})\n"
        "while not told.exists(): time.sleep(0.05)\n"
        "print('of no interest')\n"
        "sys.exit('error: length must be at least 1')"
    )
    boxed = "import sys; print('╭─ Unrecognized ─╮\\n│ no --x │\\n│ For full helptext, run │\\n╰──╯'); sys.exit(2)"
    nothing = "pass"
    scripts = [failing, leaving(tmp_path, 0), leaving(tmp_path, SAVED, finished=False, seed=2), boxed, nothing]
    arguments = of_scripts(monkeypatch, tmp_path / "runs", *scripts)
    monkeypatch.setattr(processes, "TELL", 0)
    monkeypatch.setattr(processes, "last_words", telling)
    assert sweep.main([*arguments, "--jobs", "2"]) == 1
    shown = capsys.readouterr().out
    assert "2d L=4 seed 2: started, run 3 of 5; " in shown
    assert re.search("2d L=4 seed 0: running for [0-9]+ s, nothing printed yet: it may still be compiling", shown)
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


@pytest.fixture
def heeded():
    """The signals are not ignored, as they are if the tests run in the background of a script or below nohup."""
    previous = {signum: signal.signal(signum, signal.SIG_DFL) for signum in (signal.SIGINT, signal.SIGHUP)}
    yield
    for signum, handler in previous.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_stopped_it_stops_its_runs_and_starts_no_others(tmp_path, capsys, monkeypatch, heeded, signum):
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


class Slow:
    """A step that takes longer for two runs together than one after the other."""

    memory = 0

    def __init__(self, group):
        self._runs = len(group)

    def seconds(self):
        return {1: 0.5, 2: 2.0}[self._runs]


def test_together_one_run_diverges_and_the_other_ends(tmp_path, capsys, monkeypatch):
    """The same command reports it again."""
    check = training.check_finite

    def diverging(step, mean, options):
        check(step, mean if options.seed == 0 or step < 2 else {"train_loss": float("nan")}, options)

    monkeypatch.setattr(training, "check_finite", diverging)
    monkeypatch.setattr(together, "Trial", Slow)
    released = []
    monkeypatch.setattr(steps, "release", lambda: released.append(True))
    path = tmp_path / "lines.jsonl"
    arguments = [*TOGETHER, "--folder", str(tmp_path / "runs"), "--results", str(path), "--", *SLSTM]
    for told in (1, 0):  # there is nothing to say of a single run that is left
        assert sweep.main(arguments) == 1
        printed = capsys.readouterr().out
        assert printed.count("on this CPU one process a run is faster") == told
        assert released, "compiled programs are kept"
        assert re.search("slstm L=1 seed 1: FAILED: the loss became .* at step 2: try a --learning-rate", printed)
        assert "1 runs finished, 0 cut short, 1 failed" in printed
        (line,) = lines.read(path)
        assert (line.seed, line.finished) == (0, True)


def test_together_is_one_process(tmp_path, capsys):
    arguments = [*TOGETHER, "--folder", str(tmp_path / "runs"), "--results", str(tmp_path / "lines.jsonl")]
    assert sweep.main([*arguments, "--", *SLSTM, "--distributed"]) == 1
    assert capsys.readouterr().out.count("FAILED: distributed cannot be combined with --together") == 2


def test_rivals_from_their_names_to_their_lines(tmp_path, capsys):
    """The run is in this process, which spares starting another."""
    rivals, path = ("irnn", "mingru", "tt-gru"), tmp_path / "lines.jsonl"
    sizes = ["--params", "100", "--seeds", "0", "--folder", str(tmp_path / "runs"), "--results", str(path)]
    task = ["--length", "1", "--num-symbols", "3", "--batch-size", "5", "--samples", "20"]
    assert sweep.main(["memorization", "--models", *rivals, *sizes, "--dry-run", "--", *task]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert [re.search("experiments.memorization --model ([a-z-]+) ", line)[1] for line in commands] == [*rivals]
    assert not path.exists()
    assert sweep.main(["memorization", "--models", "irnn", "--together", *sizes, "--", *task]) == 0
    assert "1 runs finished, 0 cut short, 0 failed" in capsys.readouterr().out
    (line,) = lines.read(path)
    assert (line.model, line.options["model"], line.finished, line.samples) == ("irnn", "irnn", True, 20)
    assert abs(line.parameters - line.features * 3 - 3 - 100) < 20  # without the head
