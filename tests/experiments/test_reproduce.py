"""`python -m experiments.reproduce`: every row at a small size, budgets, and what it leaves in its folder."""

import json
import signal

import jax
import pytest

from experiments import reproduce
from experiments.common.errors import CommandError, Interrupted
from experiments.reporting import lines, paper
from experiments.reproducing import archive, rows
from experiments.running import devices, steps, training

SMALL = rows.populations(rows.Data(), smoke=True)
FAST = [each for each in SMALL if each.options[0].model.model == "slstm" or each.options[0].model.preset == "slstm"]
"""Those whose model is compiled fast: stacks of two layers, and one layer."""
OF_RIVALS = [
    next(each for each in SMALL if each.row == row and each.options[0].model.model == model)
    for row, model in ((6, "lstm"), (7, "irnn"))
]
"""A population of each row of rivals that is compiled fast."""
OF_EACH = {(each.row, each.task): each for each in FAST}
"""One population of each task in each row."""
LIKE_OTHERS = {(3, "mnist"), (4, "memorization"), (4, "addition")}
"""Those whose tasks other rows have too: row 4 MNIST, rows 1 and 2 the others."""


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Trains on the first device only.

    With four host devices on two busy cores, XLA's collectives of two programs can wait for each other for ever.
    """
    data_mesh = devices.data_mesh
    monkeypatch.setattr(devices, "data_mesh", lambda count: data_mesh(count or 1))


@pytest.fixture
def only(monkeypatch):
    """Replaces all populations by some."""

    def replace(populations):
        monkeypatch.setattr(rows, "populations", lambda *_, **__: list(populations))

    return replace


@pytest.fixture
def no_runtime(monkeypatch):
    """Leaves out the measurement of the runtime, which the slow test has."""

    def measured(self):
        self.finished.append(reproduce.RUNTIME)
        self.keep()

    monkeypatch.setattr(reproduce.Session, "measure_runtime", measured)


def test_the_rows_are_the_papers():
    """Models, batch and learning rates, and three seeds of each."""
    found = rows.populations(rows.Data())
    assert {each.row for each in found} == {*rows.ROWS}
    assert {*rows.ORDER} == {*rows.ROWS}
    for each in found:
        grid = {(own.train.seed, own.train.learning_rate) for own in each.options}
        assert len(grid) == len(each.options) == 6
        assert {own.train.batch_size for own in each.options} == {{"mnist": 50, "language": 100}.get(each.task, 15)}
    best = next(each for each in found if each.name.startswith("memorization n=20, 3d+CN L=10"))
    assert (best.model.tensor_shape, best.model.features, best.options[0].num_symbols) == ((10, 10), 100, 65)
    sizes = {each.model.core_size(65) for each in found if each.row == 1 and "2d" not in each.name}
    assert max(sizes) < 1.03 * min(sizes)  # the norm's parameters grow with the number of locations


def test_the_rivals_are_those_of_the_papers_tables():
    """As many parameters as the tLSTM of the table, but for the uRNN, which has its published width."""
    found = rows.populations(rows.Data())
    assert len({each.name for each in found}) == len(found)
    for row, table in ((6, 2), (7, 3)):
        models = [own.model for each in found if each.row == row for own in each.options]
        assert {model.model for model in models} == {quoted.model for quoted in paper.TABLES[table].quoted.values()}
        assert all(model.core_size(1) + 10 * 1025 == 16_394 for model in models if not model.params)  # as published
    equal = next(each for each in found if each.row == 3).model.core_size(1)
    assert {own.model.params for each in found if each.row == 7 for own in each.options} == {None, str(equal)}
    noise = {
        (own.permuted, *own.model.rival_options)
        for each in found
        for own in each.options
        if own.model.model == "bnlstm"
    }
    assert noise == {(True,), (False, "state_noise=0.1")}


def smoke(out, *arguments):
    return reproduce.main(["--smoke", "--out", str(out), *arguments])


@pytest.mark.parametrize(
    "population",
    [
        pytest.param(each, marks=pytest.mark.slow if (each.row, each.task) in LIKE_OTHERS else ())
        for each in (*OF_EACH.values(), *OF_RIVALS)
    ],
    ids=lambda each: f"{each.row}-{each.task}",
)
def test_a_population_of_every_row(tmp_path, only, no_runtime, monkeypatch, population):
    only([population])
    released = []
    monkeypatch.setattr(steps, "release", lambda: released.append(True))
    assert smoke(tmp_path, "--rows", str(population.row)) == 0
    assert released, "compiled programs are kept"
    found = lines.read(tmp_path / reproduce.RESULTS)
    assert len(found) == 2
    assert all(line.finished and line.task == population.task for line in found)
    measured = [reproduce.RUNTIME] if population.row == rows.FIGURES_ROW else []
    assert archive.read(tmp_path) == {"finished": [population.name, *measured], "parts": []}


@pytest.mark.slow
@pytest.mark.parametrize("row", rows.ROWS)
def test_every_population_of_every_row(tmp_path, row):
    assert smoke(tmp_path, "--rows", str(row)) == 0
    measured = {f"small: {reproduce.RUNTIME}"} if row == rows.FIGURES_ROW else set()
    assert {*archive.read(tmp_path)["finished"]} == {each.name for each in SMALL if each.row == row} | measured


def test_it_goes_on_from_the_files_it_left(tmp_path, only, no_runtime, monkeypatch, capsys):
    """After a stop in the middle of the second population; the result is that of a call without a stop."""
    two = [FAST[0], FAST[2]]
    only(two)
    assert smoke(tmp_path / "whole") == 0
    check, stopped = training.check_finite, []

    def stopping(step, *rest):
        check(step, *rest)
        if step == 1 and archive.read(tmp_path / "parts")["finished"] and not stopped:
            stopped.append(step)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(training, "check_finite", stopping)
    monkeypatch.setattr(reproduce, "LEAST", -1e9)
    assert smoke(tmp_path / "parts") == 128 + signal.SIGTERM
    assert archive.read(tmp_path / "parts")["finished"] == [two[0].name]
    files = [path for path in (tmp_path / "parts").rglob("*") if path.is_file()]
    assert len(files) <= 8
    assert all(path.stat().st_size <= 16 * 10**6 for path in files)
    assert smoke(tmp_path / "parts") == 0
    assert "resuming from step" in capsys.readouterr().err

    def results(name):
        found = lines.read(tmp_path / name / reproduce.RESULTS)
        return [{k: v for k, v in line.summary.items() if k != "seconds"} for line in found]

    assert results("parts") == results("whole")
    assert len(results("parts")) == 4


def test_the_budget_ends_it_without_an_error(tmp_path, only, no_runtime, monkeypatch, capsys):
    only(FAST[:1])

    class Ended(reproduce.Session):
        """One whose budget is spent as soon as training begins; the timer then asks it to stop."""

        @property
        def left(self):
            return 0.0

    monkeypatch.setattr(reproduce, "Session", Ended)
    assert smoke(tmp_path, "--budget", "1000") == 0
    assert "0 of 1 populations are complete" in capsys.readouterr().out
    assert archive.read(tmp_path)["finished"] == []


def test_results_are_not_run_again(tmp_path, only, no_runtime, monkeypatch):
    only(FAST[:1])
    assert smoke(tmp_path) == 0
    (tmp_path / archive.MANIFEST).unlink()
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("it trains again"))
    assert smoke(tmp_path) == 0
    assert archive.read(tmp_path)["finished"] == [FAST[0].name]


def test_the_plan_times_a_step(tmp_path, only, capsys):
    only([*FAST[:1], next(each for each in rows.populations(rows.Data()) if each.row == 3)])
    assert reproduce.main(["--plan", "--results", str(tmp_path)]) == 0
    small, images = capsys.readouterr().out.splitlines()
    assert "2 runs of" in small
    assert "at most" in small
    assert images.endswith("left out, it needs --data-dir")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "out is required"),
        (["--rows", "99"], "rows must be among 1, 2, 3, 4, 5, 6, 7, got 99"),
        (["--plan", "--data-dir", "nowhere"], "data_dir must be a folder with the idx files of MNIST, got nowhere"),
        (["--plan", "--data-file", "nowhere"], "data_file must be enwik8 or its beginning, got nowhere"),
        (["--out", "x", "--rows", "8"], "rows must be among 1, 2, 3, 4, 5, 6, 7, got 8"),
        (["--out", "x", "--results", "elsewhere"], "results must be a folder, got elsewhere"),
        (["--out", "x", "--budget", "0"], "budget must be a positive number of seconds, got 0"),
    ],
)
def test_options_that_do_not_fit(capsys, arguments, message):
    assert reproduce.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_state_is_refused(tmp_path):
    (tmp_path / "folder" / "run").mkdir(parents=True)
    (tmp_path / "folder" / "run" / "config.json").write_text(json.dumps({"task": "memorization"}))
    archive.save(tmp_path, ["one"], tmp_path, [tmp_path / "folder"])
    (part,) = tmp_path.glob("*.part")
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(archive.ArchiveError, match="is missing or damaged"):
        archive.restore(tmp_path, tmp_path / "there")


def test_a_signal_outside_the_training_loop_saves_too(tmp_path, only, no_runtime, monkeypatch):
    only(FAST[:1])
    monkeypatch.setattr(training, "fit", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        reproduce.run(["--smoke", "--out", str(tmp_path), "--budget", "1000", "--results", str(tmp_path)])
    assert archive.read(tmp_path)["finished"] == []


def state(folder, *steps):
    """The files of a run that was trained with others."""
    for step in steps:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"task": "memorization"}))


def test_a_run_that_diverged_does_not_keep_the_others_from_resuming(tmp_path):
    """It has no later checkpoints, so there is none in common."""
    state(tmp_path / "0", 10, 20)
    state(tmp_path / "1", 60, 70)
    state(tmp_path / "2", 70, 80)
    (tmp_path / "0" / "diverged.json").write_text('{"step": 25}')
    kept = {str(path.relative_to(tmp_path)) for path in archive.kept(tmp_path)}
    assert {path for path in kept if "checkpoints" in path} == {"1/checkpoints/70", "2/checkpoints/70"}
    assert "0/diverged.json" in kept


def test_parts_that_a_killed_call_left_are_deleted(tmp_path):
    state(tmp_path / "folder" / "run", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state-0123456789ab.part").touch()
    archive.save(tmp_path / "out", [], tmp_path, [tmp_path / "folder"])
    (part,) = archive.read(tmp_path / "out")["parts"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [part["name"], archive.MANIFEST]


def test_the_state_of_other_rows_and_of_failures_is_kept(tmp_path, only, monkeypatch):
    """A population that fails, for example on a machine without a GPU, may go on elsewhere."""
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    only(FAST[:1])

    def fail(*_):
        raise CommandError("it fails")

    monkeypatch.setattr(training, "fit", fail)
    state(scratch / "another" / "run-0", 30)
    archive.save(out, [], scratch, [scratch / "another"])
    for _ in range(2):
        assert smoke(out) == 1
    archive.restore(out, tmp_path / "there")
    assert (tmp_path / "there" / "another" / "run-0" / "checkpoints" / "30").is_dir()
    assert len([*(tmp_path / "there").glob("small-*/run-*/config.json")]) == 2


def test_another_platform_is_refused_and_loses_nothing(tmp_path, only, monkeypatch, capsys):
    """The option that the message names is one of this command."""
    out, scratch, reached = tmp_path / "out", tmp_path / "scratch", []
    only(FAST[:1])

    def fit(*_):
        reached.append(1)
        raise CommandError("it fails")

    monkeypatch.setattr(training, "fit", fit)
    assert smoke(out) == 1
    archive.restore(out, scratch)
    (population,) = scratch.iterdir()
    for run in population.iterdir():
        config = json.loads((run / "config.json").read_text())
        config["environments"][-1]["platform"] = "elsewhere"
        state(run, 30)
        (run / "config.json").write_text(json.dumps(config))
    archive.save(out, [], scratch, [population])
    assert smoke(out) == 1
    assert len(reached) == 1
    assert "give --any-environment" in capsys.readouterr().err
    assert smoke(out, "--any-environment") == 1
    assert len(reached) == 2


def test_a_population_that_does_not_fit_the_memory_does_not_end_the_plan(tmp_path, only, monkeypatch, capsys):
    def trial(members):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr("experiments.running.together.Trial", trial)
    only(FAST[:2])
    assert reproduce.main(["--plan", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("cannot run: a step of all its runs does not fit the memory") == 2


def test_small_runs_do_not_stand_for_the_papers(tmp_path):
    """With the same --out."""
    names = {each.name for each in rows.populations(rows.Data())}
    assert names.isdisjoint(each.name for each in SMALL)


def test_runs_whose_state_is_too_large_together_are_trained_in_halves(tmp_path, only, no_runtime, monkeypatch, capsys):
    only(FAST[:1])
    fit, sizes = training.fit, []
    monkeypatch.setattr(reproduce, "most_seconds", lambda members: 1e9)
    monkeypatch.setattr(reproduce, "state_bytes", lambda members: len(members) * archive.MOST_BYTES)
    monkeypatch.setattr(training, "fit", lambda members, ended: sizes.append(len(members)) or fit(members, ended))
    assert reproduce.main(["--smoke", "--plan"]) == 0
    assert "it runs within one budget or in parts" in capsys.readouterr().out
    assert smoke(tmp_path, "--budget", "1000") == 0
    assert sizes == [1, 1]
    assert archive.read(tmp_path)["finished"][-1] == FAST[0].name
    monkeypatch.setattr(reproduce, "state_bytes", lambda members: 1 + len(members) * archive.MOST_BYTES)
    assert smoke(tmp_path / "other", "--budget", "1000") == 0
    assert sizes == [1, 1]  # one alone is too large, too
    assert "left out, its state is too large" in capsys.readouterr().out


def test_runs_that_do_not_fit_the_memory_are_trained_in_halves(tmp_path, only, no_runtime, monkeypatch):
    """Each half has a state of its own: stopped in the second one, the first is not trained again."""
    only(FAST[:1])
    fit, sizes = training.fit, []

    def limited(members, ended):
        sizes.append(len(members))
        if len(members) > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        if len(sizes) == 3:
            raise CommandError("it fails")
        return fit(members, ended)

    monkeypatch.setattr(training, "fit", limited)
    parts = [half.name for half in rows.halves(FAST[0])]
    assert smoke(tmp_path) == 1
    assert archive.read(tmp_path)["finished"] == parts[:1]
    assert smoke(tmp_path) == 0
    assert archive.read(tmp_path)["finished"] == [*parts, FAST[0].name]
    assert sizes == [2, 1, 1, 1]
    assert len(lines.read(tmp_path / reproduce.RESULTS)) == 2
