"""The rivals in the report: beside the published numbers, at equal parameters, and in the figure."""

import dataclasses

import pytest
from matplotlib.figure import Figure

from experiments import report
from experiments.reporting import lines as result_lines
from experiments.reporting import overview, paper, result_figures, rival_figures, rivals, summary, tables
from experiments.rivals import RIVALS
from tests.experiments.result_lines import group, line

HEAD = 101 * 65
"""The parameters of the head of a model with M=100 and the 65 symbols of memorization."""


def run(model, core=120_000, setting="memorization n=10", **options):
    """A run of a task that can be solved, with a limit of 75,000 samples."""
    learned = {"end": 0.5, "samples": 75_000, "step_seconds": 0.02, "learning_rate": 0.002, **options}
    limit = learned.pop("limit", 75_000)
    made = line(setting, model, parameters=core + HEAD, **learned)
    options = {**made.options, "samples": limit}
    return dataclasses.replace(made, options=options, id=str((model, core, setting, *learned.items(), limit)))


def names(contest):
    return [entry.name for entry in contest.entries]


def test_the_time_scale_is_chosen_with_the_first_seed():
    started = {"time_scale": 11.0, "forget_bias": None}
    best = [run("rhn", end=end, seed=seed, **started) for seed, end in enumerate((0.8, 0.2))]
    (found,) = rivals.contests([*best, run("rhn", end=0.7, forget_bias=1.0), run("lstm", end=0.6)])
    assert names(found) == ["lstm", "rhn"]
    assert (found.entries[1].group.values, found.entries[1].tried) == ([0.8, 0.2], 2)


def test_the_learning_rate_is_chosen_with_the_first_seed():
    """The other seeds do not change the choice, nor does a rate that was tried with one seed and was worse there."""
    best = [run("rhn", learning_rate=0.002, end=0.8, seed=0), run("rhn", learning_rate=0.002, end=0.2, seed=1)]
    tried = [run("rhn", learning_rate=rate, end=0.7, seed=0) for rate in (0.001, 0.004)]
    cut = [run("rhn", learning_rate=0.008, end=0.9, seed=seed, finished=seed == 0) for seed in (0, 1)]  # no result
    (found,) = rivals.contests([*tried, *best, *cut, run("lstm", end=0.6)])
    assert names(found) == ["lstm", "rhn"]
    entry = found.entries[1]
    assert entry.group.values == [0.8, 0.2]
    assert entry.tried == 3
    header, _, row = rivals.table(found)
    assert dict(zip(header, row, strict=True)) == {
        "model": "rhn",
        "L": "10",
        "M": "100",
        "core parameters": "120,000",
        "all": "126,565",
        "lr": "0.002",
        "configurations": "3",
        "test accuracy": "50.0% (20.0% to 80.0%)",
        "samples until solved": "not within 75,000",
        "seeds": "2",
        "time of a step": "20 ms (abacus)",
    }


def test_only_equals_are_compared():
    equal = [run("2D tLSTM+CN", 128_703), run("lstm", 120_000), run("grid", 124_000)]
    others = [
        run("milstm", 360_000),
        run("irnn", batch_size=5),
        run("rhn", limit=30_000, samples=30_000),
        run("tcn", finished=False, end=0.9),
        run("sru", setting="memorization n=5"),
    ]
    (found,) = rivals.contests([*equal, *others])
    assert sorted(names(found)) == ["2D tLSTM+CN", "grid", "lstm"]
    assert found.title == "memorization n=10, about 124K core parameters, batches of 15, at most 75,000 samples"
    assert "grid" not in found.absent
    assert {"milstm", "tcn", "neuralgpu"} <= {*found.absent}


def test_a_run_with_another_limit_counts_if_it_would_have_ended_as_it_did():
    ours = run("2D tLSTM+CN", samples=30_000, end=0.995, limit=200_000)
    (found,) = rivals.contests([ours, run("lstm")])
    assert names(found) == ["2D tLSTM+CN", "lstm"]
    later = run("2D tLSTM+CN", samples=90_000, end=0.995, limit=200_000)
    assert rivals.contests([later, run("lstm")]) == []
    unsolved = run("2D tLSTM+CN", samples=60_000, limit=60_000)
    assert rivals.contests([unsolved, run("lstm")]) == []


def test_several_sizes_have_tables_of_their_own():
    runs = [
        run(model, core, end=0.995, samples=samples, kernel_scale=core / 1e5)  # so that their configurations differ
        for model, samples in (("lstm", 2), ("grid", 4))
        for core in (90_000, 400_000)
    ]
    small, large = rivals.contests(runs)
    assert (small.core, large.core) == (90_000, 400_000)
    assert names(small) == names(large) == ["lstm", "grid"]


@pytest.mark.parametrize(
    ("model", "options"), [("hmlstm", {"num_layers": 1}), ("full-urnn", {}), ("grid (read_memory=true)", {})]
)
def test_core_parameters_are_not_always_all_but_a_head(model, options):
    """A part of the model does the work of a head, the parameters are not independent, or the head is wider."""
    made = line(model=model, parameters=1, **options)
    assert rivals.core_parameters(made) == made.model_options.core_size(65)


def test_the_time_of_a_step_is_without_the_compilation():
    made = group(line("digits", "lstm", step_seconds=0.25))
    assert [record["seconds"] for record in made.first.history] == [5.0, 2.5]
    assert rivals.step_time(made) == "250 ms (abacus)"
    together = group(line("digits", "lstm", step_seconds=0.25, summary_too={"trained_together": 6}))
    assert rivals.step_time(together) == "250 ms (abacus, 6 runs together)"
    assert rivals.step_time(group(line("digits", "lstm"))) == ""


def cells(table, name, lines):
    (row,) = (row for row in overview.paper_table(paper.TABLES[table], lines) if row[0] == name)
    return row[2:]


def test_one_layer_of_the_papers_stack_is_an_lstm_too():
    lines = [line("mnist", "lstm", end=0.8), line("mnist", "sLSTM", depth=1, end=0.9)]
    assert cells(3, "LSTM", lines)[1].startswith("**not reached**: sLSTM: 90.0%")
    assert cells(3, "LSTM", [*lines, line("mnist", "sLSTM", depth=2, end=0.95)]) == cells(3, "LSTM", lines)
    assert cells(3, "iRNN", lines)[1] == "not run"


def test_ours_stand_beside_what_the_paper_quotes():
    lines = [
        line("mnist", "bnlstm", end=0.981, step_seconds=0.02, summary_too={"epochs": 7}),
        line("mnist permuted", "bnlstm", end=0.9, finished=False),
        line("mnist", "lstm", end=0.97),
        line("mnist permuted", "lstm", end=0.97),
        line("mnist permuted", "lstm (output_peephole=true)", end=0.93),
        line("memorization n=20", "grid", end=0.995, samples=1500),
    ]
    assert cells(3, "BN-LSTM", lines) == [
        "99.0%",
        "**not reached**: 98.1%, 1 seed, 12,345 parameters, 7 epochs, 20 ms (abacus) a step",
        "95.4%",
        "not run",
    ]
    plain, published = cells(3, "LSTM", lines)[1::2]
    assert plain == "**not reached**: lstm: 97.0%, 1 seed, 12,345 parameters, 2 epochs"
    assert published == "**bettered**: 93.0%, 1 seed, 12,345 parameters, 2 epochs"
    addition, memorization = cells(2, "Grid LSTM", lines)[1::2]
    assert addition == "not run"
    assert memorization == "**bettered**: solved after 1,500 samples, 1 seed, 12,345 parameters"
    unsolved = [
        line("memorization n=20", "lstm", end=end, samples=1500, seed=seed) for seed, end in enumerate((0.4, 0.6))
    ]
    stacked = cells(2, "Stacked LSTM", unsolved)[3]  # an accuracy, of a task that can be solved
    assert stacked.startswith("**reproduced**: not solved within 1,500 samples: 50.0% (40.0% to 60.0%)")
    assert cells(2, "Stacked LSTM", unsolved[:1])[3].startswith("**not reached**")
    for table in paper.TABLES.values():
        assert {quoted.model for quoted in table.quoted.values()} <= {*RIVALS}


def test_rivals_do_not_stand_for_the_papers_own_models():
    """Neither in the overview, nor in the figures against depth, nor where plain LSTMs are compared."""
    lines = [line("mnist", "tcn", end=0.99), line("mnist", "sLSTM", end=0.5)]
    _, table = overview.overview(lines)
    assert {row[-1] for row in table if row[1] == "mnist"} == {"(instead: sLSTM L=4: 50.0%, 1 seed, 12,345 parameters)"}
    _, row = tables.learnt([line(), line(model="sLSTM", features=123), line(model="grid", end=0.9)])
    assert "L=4 M=123 (12K): not solved within 1,000 samples: 50.0%" in row[2]


def test_the_page_has_the_rivals(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        result_figures, "draw", lambda path, rows: drawn.update({path.name.split(".")[0]: rows}) or path.touch()
    )
    found = [run("2D tLSTM+CN", end=0.995, samples=30_000), run("lstm", end=0.6), run("grid"), run("irnn", end=0.1)]
    result_lines.add(tmp_path / "memorization.jsonl", found)
    out = tmp_path / "results.md"
    arguments = ["--results", str(tmp_path), "--out", str(out), "--runtimes", str(tmp_path)]
    assert report.main(arguments) == 0
    text = out.read_text()
    begin = text.index("### At equal parameters: memorization n=10, about 120K core parameters")
    rows = [each.split(" | ")[0] for each in text[begin : text.index("Not run at this size: milstm")].split("\n| ")[1:]]
    assert rows == ["model", "**2D tLSTM+CN**", "lstm", "grid", "irnn"]
    assert "![Accuracy against training samples at equal parameters](figures/rivals.png)" in text
    ours = text[text.index("### Our runs: memorization n=10") : begin]
    assert "2D tLSTM+CN" in ours
    assert "| irnn |" not in ours
    assert {name: [row.title for row in rows] for name, rows in drawn.items()} == {
        "figure-4": ["Tasks that were run at one depth"],
        "rivals": ["memorization n=10, about 120K core parameters, batches of 15, at most 75,000 samples"],
    }


def test_the_figure_names_ours_and_the_best_six(tmp_path):
    others = ["lstm", "grid", "irnn", "rhn", "tcn", "sru", "qrnn", "stanh"]
    runs = [run(model, end=0.9 - n / 10) for n, model in enumerate(others)]
    ours = [run("2D tLSTM+CN", end=0.05, seed=seed) for seed in (0, 1)]
    assert rival_figures.contest_panels(rivals.contests([*ours, *runs[:2]])) == []
    (contest,) = rivals.contests([*ours, *runs])
    (row,) = rival_figures.contest_panels([contest])
    first, best, rest = rival_figures.ranked(contest.entries)
    assert [entry.name for entry in (*first, *best)] == ["2D tLSTM+CN", *others[:6]]
    assert [entry.name for entry in rest] == others[6:]
    path = tmp_path / "rivals.png"
    result_figures.draw(path, [row])
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_rival_has_one_color_in_all_panels():
    """Whatever its place is there."""
    models = ["lstm", "tcn", "sru", "irnn"]
    runs = [run(model, end=0.9 - n / 10) for n, model in enumerate(models)]
    runs += [run(model, end=0.5 + n / 10, setting="memorization n=20") for n, model in enumerate(models)]
    found = []
    for row in rival_figures.contest_panels(rivals.contests(runs)):
        axes = Figure().subplots()
        row.panels[0](axes)
        labelled = [each for each in axes.lines if "L=" in each.get_label()]
        found.append({each.get_label().split(":")[0]: each.get_color() for each in labelled})
    assert len(found) == 2
    assert found[0] == found[1]
    assert len(set(found[0].values())) == len(models)


def test_a_run_that_is_over_keeps_its_last_accuracy_in_the_mean():
    short = run("lstm", end=1.0, samples=100)
    long = run("lstm", end=0.5, samples=400, seed=1)
    (made,) = summary.by_configuration([short, long])
    assert rival_figures.curve(made) == ([50, 100, 200, 400], [0.5, 1.0, 0.625, 0.75])
