"""`python -m experiments.report`: from result lines to the page, its tables and its figures."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from experiments import report
from experiments.common.figures import spread_out
from experiments.reporting import lines, page, result_figures, summary
from tests.experiments.result_lines import line

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def make(drawn, monkeypatch):
    """The same without the time that figures take."""
    monkeypatch.setattr(result_figures, "draw", lambda path, rows: path.write_bytes(b"figure"))
    return drawn


@pytest.fixture
def drawn(tmp_path, capsys):
    """Runs the report on lines, in files by name; returns its exit status, its text and what it printed."""

    def run(*arguments, **files):
        for name, members in files.items():
            lines.add(tmp_path / "results" / f"{name}.jsonl", members)
        (tmp_path / "times").mkdir(exist_ok=True)
        out = tmp_path / "docs" / "results.md"
        where = ["--results", str(tmp_path / "results"), "--out", str(out), "--runtimes", str(tmp_path / "times")]
        status = report.main([*where, *arguments])
        pages = [path.read_text() for path in (out, out.with_name("runs.md")) if path.exists()]
        return status, "".join(pages), capsys.readouterr()

    return run


def rows(text, start, heading=None):
    """The cells of the rows below a heading that begin with these."""
    if heading is not None:
        text = text[text.index(f"\n{heading}\n") :].split("\n#", 2)[1]
    found = [row.strip("|").split("|") for row in text.splitlines() if row.startswith(f"| {start} |")]
    return [[cell.strip() for cell in row] for row in found]


def test_a_run_that_is_a_comparison_of_options_too_counts_once(make):
    """The runs that compare options are in a file of their own; some are results as well."""
    runs = [line("memorization n=10", "2D tLSTM+CN", seed=seed) for seed in (0, 1)]
    _, text, _ = make(memorization=runs, defaults=runs[:1])
    assert "This page compares 2 runs" in text


def test_the_committed_page_is_up_to_date(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert report.main(["--check"]) == 0
    assert all((ROOT / "docs" / link).exists() for link in re.findall(r"\]\(([^)#]+)\)", page_text()))


def page_text():
    return (ROOT / "docs" / "results.md").read_text()


def test_ours_stand_beside_the_papers(make):
    status, text, _ = make(
        memorization=[
            line(model="3D tLSTM+CN", depth=7, seed=s, end=0.995, samples=n) for s, n in ((0, 1000), (1, 2000))
        ],
        addition=[line("addition n=15", "sLSTM", depth=10, end=0.6)],
        language=[line("enwik8", "3D tLSTM+CN", depth=6, end=1.3)],
        mnist=[line("mnist permuted", "3D tLSTM+CN", depth=3, end=0.9493), line("mnist", "2D tLSTM", end=0.9)],
    )
    assert status == 0
    top = "## What was reproduced"
    assert "**Of the 9 results of the paper's own models: 1 reproduced, 1 bettered, 1 not reached, 6 not run.**" in text
    found = [row for number in "123" for row in rows(text, number, top)]
    sized = "12,345 parameters"
    assert [row[1:] for row in found] == [
        ["enwik8", "3D tLSTM+CN L=6", "1.264 (50.1M parameters)", "**not reached**", f"1.300, 1 seed, {sized}"],
        *(
            [
                "addition n=15",
                f"3D tLSTM+CN L={depth}",
                text,
                "**not run**",
                f"(instead: sLSTM L=10: not solved within 1,000 samples: 60.0%, 1 seed, {sized})",
            ]
            for depth, text in ((7, ">99% after 298K"), (10, ">99% after 317K"))
        ),
        [
            "memorization n=20",
            "3D tLSTM+CN L=7",
            ">99% after 115K",
            "**bettered**",
            f"solved after 1,500 (1,000 to 2,000) samples, 2 seeds, {sized}",
        ],
        [
            "memorization n=20",
            "3D tLSTM+CN L=10",
            ">99% after 54K",
            "**not run**",
            f"(instead: 3D tLSTM+CN L=7: solved after 1,500 (1,000 to 2,000) samples, 2 seeds, {sized})",
        ],
        ["mnist", "3D tLSTM+CN L=3", "99.2%", "**not run**", f"(instead: 2D tLSTM L=4: 90.0%, 1 seed, {sized})"],
        ["mnist", "3D tLSTM+CN L=5", "99.0%", "**not run**", f"(instead: 2D tLSTM L=4: 90.0%, 1 seed, {sized})"],
        ["mnist permuted", "3D tLSTM+CN L=3", "94.9%", "**reproduced**", f"94.9%, 1 seed, {sized}"],
        [
            "mnist permuted",
            "3D tLSTM+CN L=5",
            "95.7%",
            "**not run**",
            f"(instead: 3D tLSTM+CN L=3: 94.9%, 1 seed, {sized})",
        ],
    ]
    (row,) = rows(text, "BN-LSTM")
    assert row[2:] == ["99.0%", "not run", "95.4%", "not run"]
    second = "### Table 2 of the paper: test accuracy and training samples of the algorithmic tasks"
    ((_, *row),) = rows(text, "3D tLSTM+CN L=7", second)
    assert row == [
        "",
        ">99% after 298K",
        "not run",
        ">99% after 115K",
        f"**bettered**: solved after 1,500 (1,000 to 2,000) samples, 2 seeds, {sized}",
    ]


def test_what_is_not_there_is_named(make):
    _, text, _ = make(memorization=[line(model="3D tLSTM+CN", depth=7), line(), line(depth=10)])
    assert "- addition n=15: every model at L=1, 4, 7, 10\n" in text
    named = "2D tLSTM+CN at L=1, 7; 3D tLSTM+CN at L=1, 4, 10"
    others = "sLSTM, 2D tRNN, 2D tLSTM, 2D tLSTM-M, 2D tLSTM-F, 3D tLSTM, 3D tLSTM+LN at L=1, 4, 7, 10"
    assert f"- memorization n=20: {others}; {named}\n" in text
    assert "Not measured: there is no" in text


def test_nothing_has_been_run():
    nothing = page.Results([], [])
    text = page.text(nothing, [], "figures") + page.runs_text(nothing)
    assert len(rows(text, "Grid LSTM")) == 1
    assert "0 reproduced, 0 bettered, 0 not reached, 9 not run" in text
    assert "- mnist permuted: every model at L=1, 3, 5\n" in text
    assert text.endswith("explains the notation.\n\nNone.\n")
    assert "![" not in text


@pytest.mark.parametrize("option", ["--results", "--runtimes"])
def test_a_mistyped_folder_deletes_nothing(make, tmp_path, option):
    """Not even the figures for which there would be no data."""
    make(memorization=[line()])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    status, _, printed = make(option, str(tmp_path / "resutls"))
    assert status == 2
    assert re.fullmatch(rf"error: {option[2:]} must be a folder.*resutls.* give {option} another\n", printed.err)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_without_results_is_refused(make, tmp_path):
    (tmp_path / "results").mkdir()
    status, text, printed = make(growth=[line()])
    assert (status, text) == (2, "")
    assert f"got {tmp_path / 'results'}, which has none: give --results another" in printed.err


def test_a_figure_without_data_is_removed(make, tmp_path):
    _, text, _ = make(memorization=[line()], mnist=[line("digits")])
    assert text.count("![") == 2
    figures = tmp_path / "docs" / "figures"
    assert [path.name for path in sorted(figures.iterdir())] == ["figure-4.png", "figure-5.png"]
    (tmp_path / "results" / "mnist.jsonl").unlink()
    _, text, _ = make()
    assert text.count("![") == 1
    assert [path.name for path in figures.iterdir()] == ["figure-4.png"]


def test_settings_of_our_own_have_tables_of_their_own(make):
    runs = [
        line("memorization n=5", depth=depth, seed=seed, end=0.5 + seed / 10) for depth in (1, 8) for seed in (0, 1)
    ]
    _, text, _ = make(memorization=[*runs, line("memorization n=10", "sLSTM", depth=2)])
    found = rows(text, "2D tLSTM+CN", "### Our runs: memorization n=5")
    ended = ["55.0% (50.0% to 60.0%)", "not within 1,000", "2"]
    assert found == [["2D tLSTM+CN", depth, "100", "12,345", *ended] for depth in ("1", "8")]
    own = "### Our runs: memorization n=10\n\nA setting of our own, for which the paper has no numbers."
    assert own in text
    assert text.index("### Our runs: memorization n=5") < text.index(own)


def test_runs_of_other_options_are_not_averaged(make):
    runs = [line(forget_bias=bias, seed=seed, end=bias / 10) for bias in (1.0, 4.0) for seed in (0, 1)]
    _, text, _ = make(memorization=runs)
    heading = "### Our runs: memorization n=20"
    assert rows(text, "model", heading)[0][4] == "forget_bias"
    assert [row[4:] for row in rows(text, "2D tLSTM+CN", heading)] == [
        ["1", "10.0%", "not within 1,000", "2"],
        ["4", "40.0%", "not within 1,000", "2"],
    ]


def test_a_run_cut_short_is_no_result(make):
    cut = [line(end=0.4567, seed=1, finished=False), line("digits", "3D tLSTM", end=0.3456, finished=False)]
    _, text, _ = make(memorization=[line(), cut[0]], mnist=cut[1:])
    heading = "## Runs that were cut short"
    assert rows(text, "memorization n=20", heading) == [
        ["memorization n=20", "2D tLSTM+CN L=4 P=4 M=100", "", "1", "45.7% after 1,000 samples, cut short"]
    ]
    assert rows(text, "digits", heading)[0][-1] == "validation 34.6% after 1,000 samples, cut short"
    results, rest = text.split(heading)
    assert "45.7" not in results
    assert "34.6" not in results
    assert "### Our runs: digits\n\nA setting of our own, for which the paper has no numbers.\n\nNo run has" in results
    assert rows(results, "2D tLSTM+CN", "### Our runs: memorization n=20")[0][-1] == "1 of 2"
    assert rest.count("45.7%") == 2  # also in the list of every run
    assert "figure-5" not in text


def test_every_run_is_listed(make):
    _, text, _ = make(memorization=[line(forget_bias=1.0), line(forget_bias=4.0, seed=1, finished=False)])
    assert rows(text[text.index("# Every run") :], "2D tLSTM+CN L=4 P=4 M=100") == [
        [
            *("2D tLSTM+CN L=4 P=4 M=100", "0", "forget_bias=1", "2", "1,000"),
            *("ended with 0.5", "60", "12,345", "abacus", "0.1", "2026-01-02"),
        ],
        [
            *("2D tLSTM+CN L=4 P=4 M=100", "1", "forget_bias=4", "2", "1,000"),
            *("50.0% after 1,000 samples, cut short", "60", "", "", "", "2026-01-02"),
        ],
    ]
    assert "All with kernel_scale=1, norm_epsilon=1e-06, conveyor_bias=0, " in text


def test_runs_that_compare_options_have_a_table_of_their_own(make):
    runs = [line(forget_bias=10.0, seed=seed, end=0.995) for seed in (0, 1)]
    _, text, _ = make(
        memorization=[line(model="sLSTM")],
        defaults_bias=[*runs, line(forget_bias=4.0), line(forget_bias=4.0, seed=1, end=None, finished=False)],
        growth=[line("digits")],
    )
    heading = "### Our runs: memorization n=20"
    assert len(rows(text, "sLSTM", heading)) == 1
    assert not rows(text, "2D tLSTM+CN", heading)
    assert "digits" not in text
    assert [row[4:] for row in rows(text, "2D tLSTM+CN", "### Options: memorization n=20")] == [
        ["4", "50.0%", "not within 1,000", "1 of 2"],
        ["10", "99.5%", "1,000", "2"],
    ]
    assert len(rows(text[text.index("## Runs that compare options") :], "2D tLSTM+CN L=4 P=4 M=100")) == 4


def test_a_run_in_two_files_counts_once(make):
    _, text, printed = make(memorization=[line(end=0.9)], memorization_too=[line(end=0.9, finished=False)])
    assert "from 1 runs" in printed.out
    ended = ["90.0%", "not within 1,000", "1"]
    assert [row[-3:] for row in rows(text, "2D tLSTM+CN", "### Our runs: memorization n=20")] == [ended]


def test_check_compares_and_writes_nothing(make, tmp_path):
    status, _, printed = make("--check", memorization=[line()])
    assert status == 1
    stale = "".join(rf".*{name}.md is out of date: run python -m experiments.report\n" for name in ("results", "runs"))
    assert re.fullmatch(stale, printed.err)
    files = [path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert files == ["memorization.jsonl"]
    assert make()[0] == 0
    assert make("--check")[0] == 0
    before = (tmp_path / "docs" / "results.md").read_text()
    assert make("--check", memorization=[line(seed=1)])[0] == 1
    assert (tmp_path / "docs" / "results.md").read_text() == before


@pytest.mark.parametrize("name", ["results.md", "runs.md"])
def test_a_page_that_somebody_else_wrote_is_kept(make, tmp_path, name):
    path = tmp_path / "docs" / name
    path.parent.mkdir()
    path.write_text("# My thesis\n")
    status, _, printed = make(memorization=[line()])
    assert status == 2
    assert re.fullmatch(rf"error: {path} was not written by experiments.report: move it away.*\n", printed.err)
    assert [(each.name, each.read_text()) for each in path.parent.iterdir()] == [(name, "# My thesis\n")]


def test_the_page_is_not_the_list_of_every_run(make, tmp_path):
    status, _, printed = make("--out", str(tmp_path / "runs.md"), memorization=[line()])
    assert (status, (tmp_path / "runs.md").exists()) == (2, False)
    assert "out must not be called runs.md" in printed.err


def test_the_same_lines_give_the_same_bytes(drawn, tmp_path):
    def files():
        return {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    members = [
        line("memorization n=5", depth=d, seed=s, end=0.3 * d, finished=s < 2 or d > 1)
        for d in (1, 2, 3)
        for s in (0, 1, 2)
    ]
    drawn(memorization=members, more=[line(f"addition n={n}") for n in (3, 10)])
    first = files()
    assert first["figure-4.png"].startswith(b"\x89PNG")
    assert len(first["figure-4.png"]) > 20_000
    text = first["results.md"].decode()
    assert text.index("### Our runs: addition n=3") < text.index("### Our runs: addition n=10")
    drawn(memorization=members[::-1])
    assert files() == first


def test_a_series_has_the_most_depths_and_is_the_best_of_these():
    members = [line(depth=d, end=d * lr, lr=lr) for d in (1, 2) for lr in (0.1, 0.2)]
    members += [line(depth=3, lr=0.3), line(model="sLSTM", depth=1), line(model="sLSTM", depth=4), line("digits")]
    groups = summary.by_configuration(members[:-1])
    found = result_figures.series(groups)
    assert {name: [*depths] for name, depths in found.items()} == {"2D tLSTM+CN": [1, 2], "sLSTM": [1, 4]}
    assert {group.first.options["lr"] for group in found["2D tLSTM+CN"].values()} == {0.2}
    longer = [line(depth=d, end=0.1, lr=0.4) for d in (1, 2, 3)]
    assert [*result_figures.series(summary.by_configuration([*members[:-1], *longer]))["2D tLSTM+CN"]] == [1, 2, 3]
    drawn = result_figures.depth_panels(members, {})
    assert [(row.title, len(row.panels)) for row in drawn] == [
        ("memorization n=20", 2),
        ("Tasks that were run at one depth", 1),
    ]
    cut = [line(depth=d, end=0.5, finished=False) for d in (1, 2)]
    assert result_figures.depth_panels(cut, {}) == []


def test_a_series_joins_the_default_time_scales_of_its_depths():
    given = {"forget_bias": None, "conveyor_bias": None}
    members = [line(depth=d, time_scale=20.0 + d, **given) for d in (2, 3)]
    members += [line("mnist", depth=d, time_scale=784.0, **given) for d in (2, 3)]
    for alike in (members[:2], members[2:]):
        assert [*result_figures.series(summary.by_configuration(alike))["2D tLSTM+CN"]] == [2, 3]
    assert result_figures.series(summary.by_configuration([members[0], members[2]])) == {}
    other = line(depth=3, time_scale=46.0, **given)  # not the default of its depth, if 22 is that of L = 2
    assert result_figures.series(summary.by_configuration([members[0], other])) == {}


def test_a_long_run_has_a_learning_curve():
    long = line("mnist", end=0.97)
    history = [{"epoch": n, "samples": 100 * n, "validation_accuracy": n / 10} for n in range(1, 7)]
    rows = result_figures.depth_panels([dataclasses.replace(long, history=history), line("mnist permuted")], {})
    assert [row.title for row in rows] == ["Tasks that were run at one depth", "The longest of these runs"]
    axes = Figure().subplots()
    (end,) = rows[1].panels[0](axes)
    assert end[:3] == (600, 0.6, "mnist: 2D tLSTM+CN L=4, test 97.0%, 1 seed")
    (curve,) = axes.lines
    assert curve.get_ydata().tolist() == [n / 10 for n in range(1, 7)]


def test_models_side_by_side_say_what_they_cost():
    """The larger one that saw more samples is not shown as if they were equal."""

    def labels(*members):
        axes = Figure().subplots()
        result_figures.side_by_side(axes, summary.by_configuration(members), {})
        return {label.get_text() for label in axes.get_yticklabels()}

    assert labels(line("digits", parameters=51_149, samples=500_000), line("digits", "sLSTM")) == {
        "digits: 2D tLSTM+CN L=4, 51K parameters, 500K samples",
        "digits: sLSTM L=4, 12K parameters, 1K samples",
    }
    assert labels(line("addition n=4")) == {"addition n=4: 2D tLSTM+CN L=4, 12K parameters"}


def test_labels_do_not_overlap_and_move_as_little_as_possible():
    values = [0.0, 1.0, 1.5, 8.0, 20.0, 20.0]
    moved = spread_out(values, 2.0)
    assert all(b - a >= 2 - 1e-9 for a, b in itertools.pairwise(moved))
    assert moved[3] == 8.0
    assert moved[4:] == [19.0, 21.0]
    assert sum(moved[:3]) == pytest.approx(sum(values[:3]))


def test_the_runtime_is_drawn_where_it_was_measured(drawn, tmp_path):
    status, text, _ = drawn(memorization=[line()])
    assert status == 0
    assert "runtime.png" not in text
    timed = [
        {"model": model, "pass": "training", "precision": "highest", "depth": n, "ms_per_timestep_and_example": n / 10}
        for model in ("2d", "stack-shared", "of somebody else")
        for n in (1, 4)
    ]
    run = {
        "command": "python -m benchmarks.depth",
        "environment": {"device_kind": "abacus"},
        "options": {"features": 7, "batch_size": 3, "num_steps": 5},
        "rows": [*timed, {"model": "3d", "pass": "training", "precision": "highest", "depth": 1, "error": "no room"}],
    }
    (tmp_path / "times" / "depth-abacus.json").write_text(json.dumps(run))
    (tmp_path / "times" / "depth-abacus-quick.json").write_text("not read")
    status, text, _ = drawn()
    assert status == 0
    assert "- abacus: M=7 in 2D and as many parameters in the others, T=5, B=3 (`python -m benchmarks.depth`)\n" in text
    assert "![Runtime against depth](figures/runtime.png)" in text
    assert (tmp_path / "docs" / "figures" / "runtime.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("results/memorization.jsonl", "{\n", "memorization.jsonl, line 1 is damaged"),
        (
            "results/defaults.jsonl",
            json.dumps(line().to_json()) + "\n{}\n",
            "defaults.jsonl, line 2 is damaged (id is missing",
        ),
        (
            "results/x.jsonl",
            json.dumps({**line().to_json(), "depth": "?"}),
            'x.jsonl, line 1 is damaged (depth is "?")',
        ),
        (
            "results/x.jsonl",
            json.dumps({**line().to_json(), "task": "chess"}),
            "line 1 is damaged (task must be one of",
        ),
        ("results/x.jsonl", json.dumps({"config": {"task": "mnist"}}), "line 1 is damaged (data is missing)"),
        ("results/x.jsonl", json.dumps({"config": []}), "line 1 is damaged (config is [])"),
        ("results/x.jsonl", json.dumps({**line().to_json(), "summary": {}}), "the summary has no test_accuracy"),
        ("results/x.jsonl", json.dumps({**line().to_json(), "history": []}), "the history is empty"),
        ("results/x.jsonl", json.dumps({**line().to_json(), "samples": "many"}), 'samples is "many"'),
        ("times/depth-cpu.json", "{}", "depth-cpu.json was not written by benchmarks.depth"),
    ],
)
def test_damaged_files_are_named_in_one_line(make, tmp_path, name, contents, message):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(contents)
    status, text, printed = make(addition=[line("addition n=15")])
    assert status == 2
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not text
