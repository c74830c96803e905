"""Populations: several runs in one program, each with its own files, as if it were alone."""

import contextlib
import dataclasses
import io
import json
import signal
import sys

import jax
import numpy as np
import pytest

from experiments import memorization, tasks
from experiments.common.errors import Interrupted
from experiments.running import runs, steps, symbols, training
from experiments.running import workdir as wd
from experiments.running.checkpoints import CheckpointError
from experiments.running.members import Training, resume
from experiments.running.models import ModelOptions
from tests.experiments.small_runs import Killed, assert_same_run, killed_at, metrics, saved

SMALL = memorization.Options(
    length=1,
    num_symbols=3,
    model=dataclasses.replace(tasks.MEMORIZATION.model, model="slstm", features=4, num_layers=1),
    train=symbols.SampleOptions(batch_size=5, samples=90, check_every=30, steps_per_dispatch=2),
)
"""Three epochs of six steps, and a model that is compiled fast."""
DIFFERENT = [(0, 0.01, 3.0), (1, 0.01, 3.0), (2, 0.03, 6.0)]
"""Seed, learning rate and time scale of each run."""


def planned(folder, different=DIFFERENT, options=SMALL, **changes):
    """A population, whose workdirs are 0, 1, .. in the folder."""
    members = []
    for number, (seed, rate, scale) in enumerate(different):
        train = dataclasses.replace(
            options.train, seed=seed, learning_rate=rate, workdir=folder / str(number), **changes
        )
        model = dataclasses.replace(options.model, time_scale=scale)
        own = dataclasses.replace(options, train=train, model=model)
        members.append(runs.plan(lambda own=own: memorization.build(own), train))
    return members


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """A folder with the workdirs of a population that was trained without a break."""
    folder = tmp_path_factory.mktemp("together")
    ended = []
    assert runs.train(planned(folder), ended.append) == {}
    assert sorted(ended) == [0, 1, 2]
    return folder


def test_each_run_ends_with_files_of_its_own(together):
    for number, (seed, rate, scale) in enumerate(DIFFERENT):
        config = json.loads((together / str(number) / wd.CONFIG).read_text())
        assert (config["seed"], config["learning_rate"], config["time_scale"]) == (seed, rate, scale)
        summary = json.loads((together / str(number) / wd.SUMMARY).read_text())
        assert summary["trained_together"] == 3
        records = metrics(together / str(number))
        assert summary["test_accuracy"] == max(record["test_accuracy"] for record in records)
    assert len({json.dumps(metrics(together / str(number))) for number in range(3)}) == 3


def test_runs_that_start_differently_are_evaluated_by_one_program(tmp_path, monkeypatch):
    """Also if they end one after the other."""
    traced, sums, results = set(), symbols.Labeling.sums, training.Population.results

    def recording(self, *arguments):
        traced.add(self)
        return sums(self, *arguments)

    monkeypatch.setattr(symbols.Labeling, "sums", recording)
    monkeypatch.setattr(
        training.Population, "results", lambda self, over: (each for run in over for each in results(self, [run]))
    )
    steps.release()  # what other tests have left
    members = planned(tmp_path, samples=30)
    assert len({each.task.objective for each in members}) == 2
    runs.train(members)
    assert traced == {members[0].task.objective}


def test_members_equal_their_lone_runs(tmp_path):
    """After 20 steps in float64."""
    train = dataclasses.replace(SMALL.train, samples=100, check_every=50)
    options = dataclasses.replace(SMALL, model=ModelOptions(features=4, tensor_shape=(2,)), train=train)
    with jax.enable_x64(True):
        for folder, groups in ((tmp_path / "one", [DIFFERENT]), (tmp_path / "alone", [[each] for each in DIFFERENT])):
            for number, group in enumerate(groups):
                members = planned(folder / str(number), group, options)
                double = [
                    dataclasses.replace(
                        each,
                        experiment=dataclasses.replace(
                            each.experiment,
                            params=jax.tree.map(lambda z: np.asarray(z, np.float64), each.experiment.params),
                        ),
                    )
                    for each in members
                ]
                runs.train(double)
    for number in range(3):
        step, leaves = saved(tmp_path / "one" / "0" / str(number))
        other, lone = saved(tmp_path / "alone" / str(number) / "0")
        assert step == other == 20
        assert any(leaf.dtype == np.float64 for leaf in leaves)
        for a, b in zip(leaves, lone, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_killed_five_times_it_ends_with_the_same_bits(together, tmp_path, monkeypatch):
    for moment in (3, 6, 9, 11, 16):
        with killed_at(moment, monkeypatch):
            runs.train(planned(tmp_path, checkpoint_seconds=0.0))
    runs.train(planned(tmp_path))
    for number in range(3):
        assert_same_run(tmp_path / str(number), together / str(number))


@pytest.mark.parametrize(
    ("saves", "seconds"),
    [(1, 0.0), pytest.param(4, 0.0, marks=pytest.mark.slow), pytest.param(3, 60.0, marks=pytest.mark.slow)],
)
def test_killed_between_the_checkpoints_of_two_runs(together, tmp_path, monkeypatch, saves, seconds):
    """All go back to a step that they have in common, here also to the beginning, or when the first run is over."""
    save, count = training.Training.save, iter(range(100))

    def until(self, step):
        if next(count) > saves:
            raise Killed
        save(self, step)

    with monkeypatch.context() as context:
        context.setattr(training.Training, "save", until)
        context.setattr(training, "SAVING", 1e9)
        with contextlib.suppress(Killed):
            runs.train(planned(tmp_path, checkpoint_seconds=seconds))
            pytest.fail("not killed")
    runs.train(planned(tmp_path))
    for number in range(3):
        assert_same_run(tmp_path / str(number), together / str(number))


def test_a_signal_saves_every_run(together, tmp_path, monkeypatch):
    check = training.check_finite

    def stopping(step, *rest):
        check(step, *rest)
        if step == 7:
            signal.raise_signal(signal.SIGTERM)
            monkeypatch.setattr(training, "check_finite", check)

    monkeypatch.setattr(training, "check_finite", stopping)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        runs.train(planned(tmp_path))
    assert len({saved(tmp_path / str(number))[0] for number in range(3)}) == 1
    runs.train(planned(tmp_path))
    for number in range(3):
        assert_same_run(tmp_path / str(number), together / str(number))


@contextlib.contextmanager
def opened(folder, different=DIFFERENT):
    """The runs of a population, with their checkpoints open and nothing compiled."""
    with contextlib.ExitStack() as held:
        members = planned(folder, different)
        for each in members:
            held.enter_context(wd.claimed(each.workdir, each.config, overwrite=False))
        params = [each.experiment.params for each in members]
        starts = steps.starting_states([each.task for each in members], params, members[0].options, 5)
        yield [held.enter_context(Training(n, *each)) for n, each in enumerate(zip(members, starts, strict=True))]


def saved_at(run, step):
    """Writes a checkpoint after so many steps, of which every six have a record."""
    history = [{"epoch": n, "step": 6 * n, "test_accuracy": 0.1, "test_loss": 2.0 - n / 10} for n in range(1, 4)]
    run.history = [record | {"samples": 5 * record["step"], "seconds": 0.0} for record in history[: step // 6]]
    run.state = run.start._replace(step=np.int32(step))
    run.save(step)


def test_checkpoints_outlive_a_larger_population(tmp_path):
    """With one more run, which has no checkpoint, there is no step in common."""
    with opened(tmp_path, DIFFERENT[:2]) as runs_so_far:
        for step in (2, 4):
            for run in runs_so_far:
                saved_at(run, step)
    with pytest.raises(CheckpointError, match="no step in common"), opened(tmp_path) as all_runs:
        resume(all_runs, print)
    with opened(tmp_path, DIFFERENT[:2]) as runs_so_far:
        assert resume(runs_so_far, print) == 4


@pytest.mark.parametrize(("step", "diverged_at"), [(8, 7), (18, None)])
def test_a_resumed_program_is_as_large_as_it_was(tmp_path, monkeypatch, step, diverged_at):
    """It is made smaller after an epoch, and after the test of the runs that are over."""
    with opened(tmp_path) as all_runs:
        for run in all_runs:
            saved_at(run, step)
        for run in all_runs[1:] if diverged_at else []:
            run.mark_diverged(diverged_at)

    def placed(state, mesh):
        raise Killed(len(state.step))

    monkeypatch.setattr(steps, "placed", placed)
    with pytest.raises(Killed, match="3"):
        runs.train(planned(tmp_path))


def test_runs_that_diverged_are_reported_again(tmp_path):
    with opened(tmp_path) as all_runs:
        for run in all_runs:
            run.mark_diverged(7)
    errors = runs.train(planned(tmp_path))
    assert sorted(errors) == [0, 1, 2]
    assert "infinite or NaN at step 7: try a --learning-rate below 0.03" in str(errors[2])


def test_a_long_history_is_judged_once(tmp_path, monkeypatch):
    """Not after every step of every run."""
    with opened(tmp_path, DIFFERENT[:1]) as (run,):
        saved_at(run, 12)
        monkeypatch.setattr("experiments.running.members.is_over", lambda *_: pytest.fail("judged again"))
        assert run.over_at is None


def test_results_are_not_printed_into_the_progress_bar(tmp_path, monkeypatch):
    """On a terminal, where both are."""
    with opened(tmp_path, DIFFERENT[:1]) as (run,):
        saved_at(run, 18)
    terminal = io.StringIO()
    monkeypatch.setattr(training.Population, "results", lambda self, over: iter([(run.number, {}) for run in over]))
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    training.fit(planned(tmp_path, DIFFERENT[:1]), lambda *_: print("the result"))
    assert "the result" in terminal.getvalue().splitlines()
