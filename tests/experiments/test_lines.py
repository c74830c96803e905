"""Result lines: reading them, statistics over seeds, and the comparison with the paper's numbers."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from experiments.common.files import FileError
from experiments.common.tables import markdown
from experiments.reporting import grid, lines, overview, page, paper, result_figures, summary, tables
from experiments.running.models import ModelOptions
from experiments.running.options import to_record
from experiments.running.symbols import SampleOptions
from tests.experiments.result_lines import group, line

ROOT = Path(__file__).parent.parent.parent


def test_renaming_a_task_keeps_the_ids_of_its_runs():
    config = {"data": "enwik8", "seed": 3}
    assert lines.identity({"task": "language", **config}) == lines.checksum({"task": "wikipedia", **config})
    assert lines.identity({"task": "wikipedia", **config}) == lines.checksum({"task": "wikipedia", **config})
    assert lines.identity({"task": "mnist", **config}) == lines.checksum({"task": "mnist", **config})


def test_every_committed_line_is_read():
    paths = sorted((ROOT / "results").glob("*.jsonl"))
    assert len(paths) == 6
    for path in paths:
        records = [json.loads(text) for text in path.read_text().splitlines()]
        found = lines.read(path)
        assert len(found) == len(records) > 0
        assert [each.to_json() for each in found] == records  # which are in today's format
        for each in found:
            assert lines.description(each.options) == {
                name: each.to_json()[name] for name in lines.description(each.options)
            }


@pytest.mark.parametrize("setting", ["memorization n=20", "enwik8 prefix", "mnist permuted"])
def test_a_line_in_the_former_format_is_read_and_written_anew(tmp_path, setting):
    new = line(setting)
    added = ("setting", "model", "depth", "features", "seed", "options")
    old = {name: value for name, value in new.to_json().items() if name not in added}
    old |= {"config": dict(new.options), "title": new.title}
    if setting.startswith("enwik8"):
        old["task"] = old["config"]["task"] = "wikipedia"  # as it was called
    path = tmp_path / "old.jsonl"
    path.write_text(json.dumps(old) + "\n")
    (read,) = lines.read(path)
    assert read.to_json() == {**new.to_json(), "options": old["config"]}
    lines.add(path, [line(setting, seed=1)])
    assert [json.loads(text)["setting"] for text in path.read_text().splitlines()] == [setting, setting]
    assert lines.read(path)[0] == read


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([line(end=0.995, samples=300)], "solved after 300 samples, 1 seed"),
        (
            [line(seed=s, end=0.995, samples=n) for s, n in enumerate((1000, 3000, 8000))],
            "solved after 4,000 (1,000 to 8,000) samples, 3 seeds",
        ),
        (
            [line(end=0.5), line(seed=1, end=0.75)],
            "not solved within 1,000 samples: 62.5% (50.0% to 75.0%), 2 seeds",
        ),
        (
            [line(end=0.995), line(seed=1, end=0.9), line(seed=2, end=0.941, samples=90_000, finished=False)],
            "solved after 1,000 for 1 of 3 seeds; not within 1,000; cut short after 90,000 samples, 2 of 3 seeds",
        ),
        (  # no mean over the runs that ended first
            [
                line(end=0.995, samples=300),
                line(seed=1, end=0.995, samples=500),
                line(seed=2, end=0.1, samples=900, finished=False),
            ],
            "solved after 300 to 500 for 2 of 3 seeds; cut short after 900 samples, 2 of 3 seeds",
        ),
        ([line("digits", end=0.97), line("digits", seed=1, end=0.95)], "96.0% (95.0% to 97.0%), 2 seeds"),
        ([line("digits", end=0.9, finished=False)], ""),
        ([line("enwik8", end=1.2641)], "1.264, 1 seed"),
        ([line(end=None, seed=3, finished=False)], ""),
    ],
)
def test_the_result_of_runs_that_differ_in_their_seeds(members, text):
    assert summary.outcome(group(*members)) == text


@pytest.mark.parametrize(
    ("member", "text"),
    [
        (line(end=0.941, samples=90_000, finished=False), "94.1% after 90,000 samples, cut short"),
        (line("digits", end=0.9, finished=False), "validation 90.0% after 1,000 samples, cut short"),
        (line("enwik8", end=2.5, finished=False), "validation 2.500 after 1,000 characters, cut short"),
        (line(end=None, finished=False), "cut short before the first evaluation"),
    ],
)
def test_what_a_run_had_reached_when_it_was_cut_short(member, text):
    assert summary.cut_short(member) == summary.headline(member) == text


def test_an_option_that_older_runs_did_not_have():
    members = [line(), line(kernel_scale=0.5)]
    assert [summary.label(one, members) for one in members] == ["kernel_scale=1", "kernel_scale=0.5"]
    assert "kernel_scale" not in to_record(ModelOptions())
    assert to_record(ModelOptions(kernel_scale=0.5))["kernel_scale"] == 0.5
    assert ModelOptions.recorded(to_record(ModelOptions())) == ModelOptions()


def test_where_the_samples_were_made_is_stated_if_it_was_on_the_device():
    members = [line(), line(seed=1, data_on="device")]
    assert [summary.label(one, members) for one in members] == ["", "data_on=device"]
    assert "data_on" not in to_record(SampleOptions())
    assert to_record(SampleOptions(data_on="device"))["data_on"] == "device"


def test_a_time_scale_replaces_the_biases():
    with_it = {"time_scale": 30.0, "forget_bias": None, "conveyor_bias": None}
    members = [line(), line(seed=1, **with_it), line(seed=2, **{**with_it, "time_scale": 60.0})]
    expected = ["forget_bias=4, conveyor_bias=0", "time_scale=30", "time_scale=60"]
    assert [summary.label(one, members) for one in members] == expected
    header, *rows = tables.configurations(members)
    columns = [header.index(name) for name in ("time_scale", "forget_bias", "conveyor_bias")]
    assert sorted([row[i] for i in columns] for row in rows) == [["", "4", "0"], ["30", "", ""], ["60", "", ""]]
    for alike, shown in ((members[:1], "forget_bias=4, "), (members[1:2], "time_scale=30, ")):
        assert "time_scale" not in tables.configurations(alike)[0]
        common = tables.common(alike)
        assert shown in common
        assert "=," not in common
        assert ("time_scale" in common) == ("forget_bias" not in common)
    drawn = {"2D tLSTM+CN": {4: group(members[0])}}
    assert result_figures.titled("n=20", drawn, [], members) == "n=20, forget_bias=4, conveyor_bias=0"


def test_runs_of_two_configurations_have_no_mean():
    members = [line(end=0.5, conveyor_bias=0.0), line(end=0.7, seed=1, conveyor_bias=3.0)]
    cut = line(end=0.6, seed=2, conveyor_bias=3.0, finished=False)
    assert len(summary.by_configuration(members)) == 2
    assert grid.cell([grid.Result("", 4, one, False) for one in [*members, cut]]) == (
        "not solved within 1,000 samples: 50.0%, 1 seed (conveyor_bias=0); "
        "not solved within 1,000; cut short after 1,000 samples: 70.0%, 1 of 2 seeds; "
        "60.0% after 1,000 samples, cut short (seed 2) (conveyor_bias=3)"
    )


def test_runs_that_were_cut_short_have_no_mean_in_the_table():
    members = [line("digits", seed=seed, end=end) for seed, end in enumerate((0.9, 0.96))]
    cut = line("digits", seed=2, end=0.5, finished=False)
    assert tables.configurations(members)[1][-2:] == ["93.0% (90.0% to 96.0%)", "2"]
    assert tables.configurations([*members, cut])[1][-2:] == ["90.0% to 96.0%", "2 of 3"]


CAPS = ((2000, 0.9), (1000, 0.8), (900, 0.995))


def test_runs_that_give_up_after_different_numbers_of_samples_are_one_configuration():
    members = [line(seed=seed, samples=1000 * (seed + 1), remat=seed) for seed in (0, 1)]
    assert [summary.label(one, members) for one in members] == ["remat=0", "remat=1"]
    members = [
        line(seed=seed, end=end).to_json() | {"samples": samples, "id": str(seed)}
        for seed, (samples, end) in enumerate(CAPS)
    ]
    for member, (samples, _) in zip(members, CAPS, strict=True):
        member["options"]["samples"] = max(samples, 1000)
    together = group(*map(lines.Line.from_json, members))
    assert summary.outcome(together) == (
        "solved after 900 for 1 of 3 seeds; not within 1,000; not within 2,000 samples, 3 seeds"
    )
    assert tables.configurations(together.lines)[1][-2:] == [
        "900 for 1 of 3 seeds; not within 1,000; not within 2,000",
        "3",
    ]


SOLVED = paper.solved(115)


@pytest.mark.parametrize(
    ("number", "members", "status"),
    [
        (SOLVED, [], "not run"),
        (SOLVED, [line(end=0.995, samples=115_400)], "reproduced"),
        (SOLVED, [line(end=0.995, samples=114_000)], "bettered"),
        (SOLVED, [line(end=0.995, samples=116_000)], "not reached"),
        (SOLVED, [line(end=0.9, samples=50_000)], "not reached"),
        (SOLVED, [line(seed=s, end=0.995, samples=n) for s, n in enumerate((90_000, 130_000))], "reproduced"),
        (SOLVED, [line(end=0.995, samples=90_000), line(seed=1, end=0.9, samples=200_000)], "reproduced"),
        (SOLVED, [line(seed=s, end=0.995, samples=n) for s, n in enumerate((90_000, 100_000))], "bettered"),
        (paper.accuracy(94.9), [line("mnist permuted", end=0.9494)], "reproduced"),
        (paper.accuracy(94.9), [line("mnist permuted", end=0.9496)], "bettered"),
        (paper.accuracy(94.9), [line("mnist permuted", end=0.9484)], "not reached"),
        (paper.bits(1.264, "50M"), [line("enwik8", end=1.2643)], "reproduced"),
        (paper.bits(1.264, "50M"), [line("enwik8", end=1.2)], "bettered"),
        (paper.bits(1.264, "50M"), [line("enwik8", end=1.3)], "not reached"),
    ],
)
def test_the_status_of_a_number_of_the_paper(number, members, status):
    assert overview.compared(number, group(*members) if members else None) == status


def test_a_configuration_with_a_run_cut_short_is_not_the_best():
    better = [line(end=0.995, samples=100, lr=0.1), line(seed=1, end=0.5, finished=False, lr=0.1)]
    worse = [line(end=0.995, samples=900, lr=0.2)]
    found = summary.best(summary.by_configuration([*better, *worse]))
    assert found.lines == tuple(worse)
    assert summary.best(summary.by_configuration(better)) is None
    unsolved = [line(end=0.8, lr=0.3), line(end=0.9, lr=0.4)]
    assert summary.best(summary.by_configuration(unsolved)).lines == (unsolved[1],)
    assert summary.best(summary.by_configuration([*unsolved, *worse])).lines == tuple(worse)
    bits = [line("enwik8", end=end, lr=end) for end in (1.5, 1.3, 1.4)]
    assert summary.best(summary.by_configuration(bits)).lines == (bits[1],)


def test_our_models_are_called_as_in_the_papers_tables():
    ours = {"2D tLSTM+CN", "3D tLSTM+CN", "sLSTM", "2D tRNN", "2D tLSTM-M", "2D tLSTM-F", "3D tLSTM+LN"}
    assert ours <= {*summary.model_names()}
    for table in paper.TABLES.values():
        assert {column.setting for column in table.columns} <= {
            line(column.setting).setting for column in table.columns
        }
        for column in table.columns:
            assert lines.tasks.find(column.task).name == column.task == line(column.setting).task
        quoted = [row.numbers for row in table.quoted.values()]
        assert all(len(row) == len(table.columns) for row in [*quoted, *table.own.values()])
        assert {model for model, _ in table.own} <= {*summary.model_names()}
        text = markdown(overview.paper_table(table, []))
        assert all(f"| {name} |" in text for name in table.quoted)
        assert all(f"| {model} L={depth} |" in text for model, depth in table.own)
    assert sum(len(numbers) for table in paper.TABLES.values() for numbers in table.own.values()) == 9
    assert {section.table for section in page.SECTIONS} == {*paper.TABLES}


def test_the_table_of_what_it_learns_has_the_best_of_each_model():
    members = [
        *(line(depth=8, seed=s, end=0.995, samples=500, batch_size=5) for s in (0, 1)),
        line(depth=8, end=0.995, samples=900),
        line(depth=8, end=0.995, samples=100, batch_size=2),
        line(depth=8, end=0.5, seed=1, samples=100, batch_size=2, finished=False),
        *(line(model="sLSTM", depth=depth, end=0.1 * depth, features=123, batch_size=5) for depth in (1, 2)),
        line("addition n=4", end=0.3),
        line("addition n=4", "sLSTM", end=0.2, features=123),
        line("addition n=9", end=0.2),
        line("addition n=9", "sLSTM", end=0.1, features=123),
        line("digits", "3D tLSTM+CN", end=0.9),
    ]
    within = "not solved within 1,000 samples"
    assert tables.learnt(summary.in_order(members))[1:] == [
        [
            "memorization n=20",
            "2D L=8 M=100 (12K): solved after 500 samples, 2 seeds",
            f"L=2 M=123 (12K): {within}: 20.0%, 1 seed",
        ],
        [
            "addition n=4<br>addition n=9",
            f"2D L=4 M=100 (12K): {within}: 30.0%, 1 seed<br>2D L=4 M=100 (12K): {within}: 20.0%, 1 seed",
            f"L=4 M=123 (12K): {within}: 20.0%, 1 seed<br>L=4 M=123 (12K): {within}: 10.0%, 1 seed",
        ],
    ]


def test_the_plain_lstm_beside_ours_is_the_best_of_as_many_parameters():
    unshared = line("digits", "sLSTM (unshared)", end=0.7, shared=False, features=61)
    larger = line("digits", "sLSTM", end=0.9, depth=2, features=200)
    smaller = line("digits", "sLSTM", end=0.95, features=100)
    members = [smaller, line("digits", end=0.8), line("digits", "sLSTM", end=0.6, features=123), unshared, larger]
    assert tables.learnt(summary.in_order(members))[1:] == [
        ["digits (accuracy)", "2D L=4 M=100 (12K): 80.0%, 1 seed", "unshared L=4 M=61 (12K): 70.0%, 1 seed"]
    ]


@pytest.mark.parametrize("longer", [{"epochs": 9}, {"batch_size": 99}])
def test_the_plain_lstm_beside_ours_is_trained_alike(longer):
    """A tLSTM that was trained for longer is not compared, nor is such an LSTM."""
    ours, theirs = line("digits", end=0.8), line("digits", "sLSTM", end=0.6, features=123)
    alike = tables.learnt([ours, theirs])
    assert len(alike) == 2
    assert tables.learnt([ours, theirs, line("digits", end=0.9, **longer)]) == alike
    assert tables.learnt([ours, theirs, line("digits", "sLSTM", end=0.9, features=123, **longer)]) == alike
    assert tables.learnt([line("digits", end=0.9, **longer), theirs])[1:] == []


def test_a_pair_in_which_the_plain_lstm_is_best_is_not_hidden():
    best = [line("digits", end=0.8), line("digits", "sLSTM", end=0.9, features=123)]
    other = [line("digits", end=0.85, epochs=1), line("digits", "sLSTM", end=0.6, features=123, epochs=1)]
    assert tables.learnt([*other, *best])[1:] == [
        ["digits (accuracy)", "2D L=4 M=100 (12K): 80.0%, 1 seed", "L=4 M=123 (12K): 90.0%, 1 seed"]
    ]


def test_a_tlstm_without_a_plain_lstm_of_its_size_does_not_hide_one_with_it():
    alone = line("digits", end=0.95, features=200)
    cut = line("digits", "sLSTM", end=0.9, features=246, finished=False)
    members = [alone, cut, line("digits", end=0.8), line("digits", "sLSTM", end=0.85, features=123)]
    assert tables.learnt(summary.in_order(members))[1:] == [
        ["digits (accuracy)", "2D L=4 M=100 (12K): 80.0%, 1 seed", "L=4 M=123 (12K): 85.0%, 1 seed"]
    ]
    assert tables.learnt([alone])[1:] == []


def test_lines_that_are_added_at_the_same_time_are_all_kept(tmp_path):
    """Each thread takes the lock by itself, as each process does."""
    path = tmp_path / "lines.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: lines.add(path, [line(seed=seed)]), range(12)))
    assert [each.seed for each in lines.read(path)] == list(range(12))


def test_a_lock_that_another_process_keeps_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LOCK_SECONDS", 0)
    path = tmp_path / "lines.jsonl"
    with lines.locked(path), pytest.raises(FileError, match=r"held the lock .*\.lines\.jsonl\.lock"):
        lines.add(path, [line()])
    lines.add(path, [line()])


def test_a_seed_that_was_run_twice_counts_once():
    """Runs with another limit are in one group."""
    same = dataclasses.replace(line(end=0.995), id="other")
    twice = group(line(end=0.995), same, line(end=0.995, seed=1))
    assert summary.count_seeds(twice) == "2 (3 runs)"
    assert summary.seeds(twice) == "2 seeds, 3 runs"
    assert summary.outcome(twice).endswith("samples, 2 seeds, 3 runs")
    assert summary.seeds(group(line(), same)) == "1 seed, 2 runs"
