"""`python -m experiments.report`: from result lines to tables and figures, and what is said of what is not there."""

import json
import re

import pytest

from experiments import report, sweep
from experiments.reporting import outcomes, paper, results, tables
from experiments.running.models import ModelOptions

TASKS = {"enwik8": "wikipedia", "digits": "mnist"}
"""Of the settings that are not called by their task."""


def line(setting="memorization n=20", model="2D tLSTM+CN", depth=4, seed=0, end=0.5, samples=1000, **options):
    """A result line; ``end`` is None before the first test, and more than 0.99 is solved."""
    finished = options.pop("finished", True)
    name = setting.split()[0]
    task = TASKS.get(name, name)
    until_solved = task in outcomes.UNTIL_SOLVED
    measure = "bits" if task == "wikipedia" else "accuracy"
    watched = f"{'test' if until_solved else 'validation'}_{measure}"
    config = {"task": task, "model": "tlstm", "norm": model, "tensor_shape": [depth], "seed": seed, "batch_size": 15}
    config |= options
    title = f"{setting}, {model} L={depth} P={depth} M=100"
    summary = {
        "headline": f"ended with {end}",
        "samples": samples,
        "solved": until_solved and end > 0.99 if end else False,
    }
    summary |= {f"test_{measure}": end, "device": "abacus", "jax": "0.1"}
    history = [] if end is None else [{"epoch": n, "samples": samples * n // 2, watched: end * n / 2} for n in (1, 2)]
    return {
        "id": results.checksum([title, config]),
        "task": task,
        "title": title,
        "config": config,
        "finished": finished,
        "summary": summary if finished else None,
        "history": history,
        "parameters": 12345 if finished else None,
        "samples": samples if history else 0,
        "seconds": 60.0,
        "date": "2026-01-02",
    }


@pytest.fixture
def make(drawn, monkeypatch):
    """The same without the time that figures take."""
    monkeypatch.setattr(report, "depth_figure", lambda path, *_: path.write_bytes(b"figure"))
    return drawn


@pytest.fixture
def drawn(tmp_path, capsys):
    """Runs the report on lines, in files by name; returns its exit status, its text and what it printed."""

    def run(*arguments, **files):
        for name, lines in files.items():
            results.add(tmp_path / "results" / f"{name}.jsonl", lines)
        out = tmp_path / "RESULTS.md"
        where = ["--results", str(tmp_path / "results"), "--out", str(out), "--runtimes", str(tmp_path / "times")]
        status = report.main([*where, *arguments])
        return status, out.read_text() if out.exists() else "", capsys.readouterr()

    return run


def cells(text, start):
    """The cells of the one row of all tables that begins with these."""
    rows = [row.strip("|").split("|") for row in text.splitlines() if row.startswith(f"| {start} |")]
    assert len(rows) == 1, rows
    return [cell.strip() for cell in rows[0]]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([line(end=0.995, samples=300)], "solved after 300 (1 seed)"),
        (
            [line(seed=s, end=0.995, samples=n) for s, n in enumerate((1000, 3000, 8000))],
            "solved after 4,000 (1,000..8,000, 3 seeds)",
        ),
        ([line(end=0.5), line(seed=1, end=0.75)], "not solved within 1,000: 62.5% (50.0%..75.0%, 2 seeds)"),
        (
            [line(end=0.995), line(seed=1, end=0.9), line(seed=2, end=0.941, samples=90_000, finished=False)],
            "solved after 1,000 (1 seed); not solved within 1,000: 90.0% (1 seed); "
            "94.1% after 90,000 samples, cut short (seed 2)",
        ),
        ([line("digits", end=0.97), line("digits", seed=1, end=0.95)], "96.0% (95.0%..97.0%, 2 seeds)"),
        ([line("digits", end=0.9, finished=False)], "validation 90.0% after 1,000 samples, cut short (seed 0)"),
        ([line("enwik8", end=1.2641)], "1.264 (1 seed)"),
        ([line("enwik8", end=2.5, finished=False)], "validation 2.500 after 1,000 characters, cut short (seed 0)"),
        ([line(end=None, seed=3, finished=False)], "cut short before the first test (seed 3)"),
        ([], ""),
    ],
)
def test_what_came_of_runs_that_differ_in_their_seeds(lines, text):
    assert outcomes.outcome(lines) == text


def test_an_option_that_older_runs_did_not_have():
    lines = [line(), line(kernel_scale=0.5)]
    assert [outcomes.label(one, lines) for one in lines] == ["kernel_scale=1", "kernel_scale=0.5"]
    assert "kernel_scale" not in ModelOptions().record
    assert ModelOptions(kernel_scale=0.5).record["kernel_scale"] == 0.5
    assert ModelOptions.recorded(ModelOptions().record) == ModelOptions()


def test_runs_of_two_configurations_have_no_mean():
    lines = [line(end=0.5, conveyor_bias=0.0), line(end=0.7, seed=1, conveyor_bias=3.0)]
    assert outcomes.came_of(lines, lines, apart="; ") == (
        "not solved within 1,000: 50.0% (1 seed) (conveyor_bias=0); "
        "not solved within 1,000: 70.0% (1 seed) (conveyor_bias=3)"
    )
    assert sweep.cell([sweep.Ended(None, one, False) for one in lines]) == outcomes.came_of(lines, lines, apart="; ")


def test_after_how_many_samples_a_run_gives_up_is_told_once():
    lines = [line(seed=seed) for seed in (0, 1)]
    for found, samples in zip(lines, (1000, 2000), strict=True):
        found["config"] |= {"samples": samples, "remat": samples // 1000}
    assert outcomes.label(lines[0], lines) == "samples=1000, remat=1"
    assert outcomes.sizes(lines[0], lines) == "M=100, remat=1"
    lines = [line(seed=seed, samples=samples, end=end) for seed, (samples, end) in enumerate(CAPS)]
    for found, (samples, _) in zip(lines, CAPS, strict=True):
        found["config"]["samples"] = 1000 if samples < 1000 else samples
    (together,) = outcomes.by_configuration(lines)
    assert outcomes.outcome(together) == (
        "solved after 900 (1 seed); not solved within 1,000: 80.0% (1 seed); not solved within 2,000: 90.0% (1 seed)"
    )


CAPS = ((2000, 0.9), (1000, 0.8), (900, 0.995))


def test_ours_stand_beside_the_papers(make):
    status, text, _ = make(
        memorization=[
            line(model="3D tLSTM+CN", depth=7, seed=s, end=0.995, samples=n) for s, n in ((0, 1000), (1, 2000))
        ],
        addition=[line("addition n=15", "sLSTM", depth=10, end=0.6)],
        wikipedia=[line("enwik8", "3D tLSTM+CN", depth=6, end=1.3)],
        mnist=[line("mnist permuted", "3D tLSTM+CN", depth=3, end=0.94), line("mnist", "2D tLSTM", end=0.9)],
    )
    assert status == 0
    assert cells(text, "3D tLSTM+CN L=6")[1:] == ["1.264 (50.1M parameters)", "M=100: 1.300 (1 seed)"]
    assert cells(text, "3D tLSTM+CN L=7")[1:] == [
        ">99% after 298K",
        "",
        ">99% after 115K",
        "M=100: solved after 1,500 (1,000..2,000, 2 seeds)",
    ]
    assert cells(text, "3D tLSTM+CN L=10")[1:] == [">99% after 317K", "", ">99% after 54K", ""]
    assert cells(text, "sLSTM L=10")[1:] == ["", "M=100: not solved within 1,000: 60.0% (1 seed)", "", ""]
    assert cells(text, "3D tLSTM+CN L=3")[1:] == ["99.2%", "", "94.9%", "M=100: 94.0% (1 seed)"]
    assert cells(text, "2D tLSTM L=4")[1:] == ["", "M=100: 90.0% (1 seed)", "", ""]
    assert cells(text, "BN-LSTM")[1:] == ["99.0%", "", "95.4%", ""]


def test_what_is_not_there_is_named(make):
    _, text, _ = make(memorization=[line(model="3D tLSTM+CN", depth=7), line(), line(depth=10)])
    assert "Not run here: 3D tLSTM+CN L=7 (addition n=15); 3D tLSTM+CN L=10 (addition n=15, memorization n=20)." in text
    assert "Numbers of others, which the paper quotes: Stacked LSTM, Grid LSTM." in text
    assert "- addition n=15: every model at L=1, 4, 7, 10\n" in text
    named = "2D tLSTM+CN at L=1, 7; 3D tLSTM+CN at L=1, 4, 10"
    others = "sLSTM, 2D tRNN, 2D tLSTM, 2D tLSTM-M, 2D tLSTM-F, 3D tLSTM, 3D tLSTM+LN at L=1, 4, 7, 10"
    assert f"- memorization n=20: {others}; {named}\n" in text
    assert "Runtime: not measured here" in text


def test_nothing_has_been_run(make, tmp_path):
    status, text, printed = make()
    assert status == 0
    assert "from 0 runs" in printed.out
    assert text.count("| Grid LSTM |") == 1
    assert "- mnist permuted: every model at L=1, 3, 5\n" in text
    assert text.endswith("## Every run\n\nNone.\n")
    assert [path.name for path in sorted((tmp_path / "results").iterdir())] == [f"figure-{n}.png" for n in (3, 4, 5)]


def test_settings_of_our_own_have_tables_of_their_own(make):
    runs = [
        line("memorization n=5", depth=depth, seed=seed, end=0.5 + seed / 10) for depth in (1, 8) for seed in (0, 1)
    ]
    _, text, _ = make(memorization=[*runs, line("memorization n=10", "sLSTM", depth=2)])
    section = text[text.index("### memorization n=5") : text.index("### memorization n=10")]
    assert "can be compared with the paper" in section
    within = "not solved within 1,000: 55.0% (50.0%..60.0%, 2 seeds)"
    assert cells(section, "2D tLSTM+CN, M=100")[1:] == [within, within]
    assert "| model | L=1 | L=8 |" in section
    assert "- memorization n=5: sLSTM, 2D tRNN, " in text


def test_runs_of_other_options_are_not_averaged(make):
    runs = [line(forget_bias=bias, seed=seed, end=bias / 10) for bias in (1.0, 4.0) for seed in (0, 1)]
    _, text, _ = make(memorization=runs)
    assert cells(text, "2D tLSTM+CN L=4")[4] == (
        "M=100, forget_bias=1: not solved within 1,000: 10.0% (10.0%..10.0%, 2 seeds)<br>"
        "M=100, forget_bias=4: not solved within 1,000: 40.0% (40.0%..40.0%, 2 seeds)"
    )


def test_every_run_is_listed(make):
    _, text, _ = make(memorization=[line(forget_bias=1.0), line(forget_bias=4.0, seed=1, finished=False)])
    listed = text[text.index("## Every run") :]
    rows = [row for row in listed.splitlines() if row.startswith("| 2D")]
    assert rows == [
        "| 2D tLSTM+CN L=4 P=4 M=100 | 0 | forget_bias=1 | 2 | 1,000 "
        "| ended with 0.5 | 60 | 12,345 | abacus | 0.1 | 2026-01-02 |",
        "| 2D tLSTM+CN L=4 P=4 M=100 | 1 | forget_bias=4 | 2 | 1,000 "
        "| 50.0% after 1,000 samples, cut short | 60 |  |  |  | 2026-01-02 |",
    ]
    assert "All with kernel_scale=1, batch_size=15." in listed


def test_runs_that_tell_what_makes_it_learn_are_told_apart(make):
    runs = [line(forget_bias=10.0, seed=seed, end=0.995) for seed in (0, 1)]
    _, text, _ = make(
        memorization=[line(model="sLSTM")],
        defaults_bias=[*runs, line(forget_bias=4.0), line(forget_bias=4.0, seed=1, end=None, finished=False)],
    )
    assert "| sLSTM L=4 |" in text
    assert "| 2D tLSTM+CN L=4 |" not in text
    section = text[text.index("## What makes it learn") : text.index("## Every run")]
    rows = [row for row in section.splitlines() if row.startswith("| 2D")]
    assert rows == [
        "| 2D tLSTM+CN L=4 P=4 M=100 | 4 | 50.0% (1 seed), 1 cut short | none within 1,000 |",
        "| 2D tLSTM+CN L=4 P=4 M=100 | 10 | 99.5% (99.5%..99.5%, 2 seeds) | after 1,000 (1,000..1,000, 2 seeds) |",
    ]
    assert text.count("| 2D tLSTM+CN L=4 P=4 M=100 |") == 2 + 4


def test_a_run_in_two_files_counts_once(make):
    _, text, printed = make(memorization=[line(end=0.9)], memorization_too=[line(end=0.9, finished=False)])
    assert "from 1 runs" in printed.out
    assert cells(text, "2D tLSTM+CN L=4")[4] == "M=100: not solved within 1,000: 90.0% (1 seed)"


def test_check_compares_and_writes_nothing(make, tmp_path):
    status, _, printed = make("--check", memorization=[line()])
    assert status == 1
    assert re.fullmatch(r".*RESULTS.md is not what .* gives: run python -m experiments.report\n", printed.err)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["memorization.jsonl"]
    assert make()[0] == 0
    assert make("--check")[0] == 0
    before = (tmp_path / "RESULTS.md").read_text()
    assert make("--check", memorization=[line(seed=1)])[0] == 1
    assert (tmp_path / "RESULTS.md").read_text() == before


def test_the_same_lines_give_the_same_bytes(drawn, tmp_path):
    def files():
        return {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    lines = [
        line("memorization n=5", depth=d, seed=s, end=0.3 * d, finished=s < 2) for d in (1, 2, 3) for s in range(3)
    ]
    drawn(memorization=lines, more=[line(f"addition n={n}") for n in (3, 10)])
    first = files()
    assert first["figure-4.png"].startswith(b"\x89PNG")
    assert len(first["figure-4.png"]) > 30_000
    text = first["RESULTS.md"].decode()
    assert text.index("### addition n=3") < text.index("### addition n=10")
    drawn(memorization=lines[::-1])
    assert files() == first


def test_the_runtime_is_drawn_where_it_was_measured(drawn, tmp_path):
    empty = (drawn()[0], (tmp_path / "results" / "figure-3.png").read_bytes())
    rows = [
        {"model": model, "pass": "training", "precision": "highest", "depth": n, "ms_per_timestep_and_example": n / 10}
        for model in ("2d", "stack-shared")
        for n in (1, 4)
    ]
    run = {
        "command": "python -m benchmarks.depth",
        "environment": {"device_kind": "abacus"},
        "options": {"features": 7, "batch_size": 3, "num_steps": 5},
        "rows": [*rows, {"model": "3d", "pass": "training", "precision": "highest", "depth": 1, "error": "no room"}],
    }
    (tmp_path / "times").mkdir()
    (tmp_path / "times" / "depth-abacus.json").write_text(json.dumps(run))
    (tmp_path / "times" / "depth-abacus-quick.json").write_text("not read")
    status, text, _ = drawn()
    assert status == empty[0] == 0
    assert "on abacus (`python -m benchmarks.depth`: 7 channels in 2D" in text
    assert (tmp_path / "results" / "figure-3.png").read_bytes() != empty[1]


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("results/memorization.jsonl", "{\n", "memorization.jsonl, line 1 is damaged"),
        ("results/defaults.jsonl", json.dumps(line()) + "\n{}\n", "defaults.jsonl, line 2 is damaged (id is missing)"),
        ("results/x.jsonl", json.dumps({**line(), "title": "?"}), "x.jsonl, line 1 is damaged (the title '?'"),
        ("results/x.jsonl", json.dumps({**line(), "summary": {}}), "the summary has no test_accuracy"),
        ("results/x.jsonl", json.dumps({**line(), "samples": "many"}), 'samples is "many"'),
        ("times/depth-cpu.json", "{}", "depth-cpu.json is not of benchmarks.depth"),
    ],
)
def test_damaged_files_are_named_in_one_line(make, tmp_path, name, contents, message):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(contents)
    status, text, printed = make()
    assert status == 2
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not text


def test_our_models_are_called_as_in_the_papers_tables():
    ours = {"2D tLSTM+CN", "3D tLSTM+CN", "sLSTM", "2D tRNN", "2D tLSTM-M", "2D tLSTM-F", "3D tLSTM+LN"}
    assert ours <= {*outcomes.model_names()}
    for table in paper.TABLES.values():
        assert all(len(row) == len(table.settings) == len(table.tasks) for row in table.rows.values())
        text = tables.paper_table(table, {setting: [] for setting in table.settings})
        assert all(name in text[0] for name in table.rows)
