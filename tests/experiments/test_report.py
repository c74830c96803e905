"""`python -m experiments.report`: from result lines to the page, its tables and its figures."""

import itertools
import json
import re
from pathlib import Path

import pytest

from experiments import report, sweep
from experiments.common.figures import spread_out
from experiments.common.tables import markdown
from experiments.reporting import lines, overview, page, paper, result_figures, summary, tables
from experiments.running.models import PRESETS, ModelOptions

ROOT = Path(__file__).parent.parent.parent
PRESET_OF = dict(zip(summary.model_names(), PRESETS, strict=True))


def size(setting):
    """The options of a task that a setting stands for."""
    name, _, number = setting.partition(" n=")
    if name in ("memorization", "addition"):
        return {"task": name, {"memorization": "length", "addition": "digits"}[name]: int(number)}
    if name.startswith("enwik8"):
        return {"task": "language", "data": name}
    data, _, permuted = name.partition(" ")
    return {"task": "mnist", "data": data, "permutation": "784 items, sha256 0" if permuted else None}


def line(setting="memorization n=20", model="2D tLSTM+CN", depth=4, seed=0, end=0.5, samples=1000, **options):
    """A result line; ``end`` is None before the first test, and more than 0.99 is solved."""
    finished = options.pop("finished", True)
    chosen = ModelOptions(preset=PRESET_OF[model], depth=depth, features=100).resolved(ModelOptions())
    options = {**size(setting), **chosen.record, "seed": seed, "batch_size": 15, **options}
    options = json.loads(json.dumps(options))  # as it is read back
    info = lines.tasks.find(options["task"])
    watched = f"{'test' if info.until_solved else 'validation'}_{info.measure}"
    history = [] if end is None else [{"epoch": n, "samples": samples * n // 2, watched: end * n / 2} for n in (1, 2)]
    found = {"headline": f"ended with {end}", "samples": samples, f"test_{info.measure}": end, "device": "abacus"}
    found |= {"jax": "0.1", "solved": info.until_solved and end is not None and end > 0.99}
    record = {
        "id": lines.checksum(options),
        **lines.description(options),
        "options": options,
        "finished": finished,
        "summary": found if finished else None,
        "history": history,
        "parameters": 12345 if finished else None,
        "samples": samples if history else 0,
        "seconds": 60.0,
        "date": "2026-01-02",
    }
    made = lines.Line.of(record)
    assert made.setting == setting
    assert made.model == model
    return made


def group(*members):
    (found,) = summary.by_configuration(members)
    return found


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
        out = tmp_path / "docs" / "results.md"
        where = ["--results", str(tmp_path / "results"), "--out", str(out), "--runtimes", str(tmp_path / "times")]
        status = report.main([*where, *arguments])
        return status, out.read_text() if out.exists() else "", capsys.readouterr()

    return run


def rows(text, start, heading=None):
    """The cells of the rows below a heading that begin with these."""
    if heading is not None:
        text = text[text.index(f"\n{heading}\n") :].split("\n#", 2)[1]
    found = [row.strip("|").split("|") for row in text.splitlines() if row.startswith(f"| {start} |")]
    return [[cell.strip() for cell in row] for row in found]


def test_every_committed_line_is_read():
    paths = sorted((ROOT / "results").glob("*.jsonl"))
    assert len(paths) == 6
    for path in paths:
        records = [json.loads(text) for text in path.read_text().splitlines()]
        found = lines.read(path)
        assert len(found) == len(records) > 0
        assert [each.json for each in found] == records  # which are in today's format
        for each in found:
            assert lines.description(each.options) == {
                name: each.json[name] for name in lines.description(each.options)
            }


def test_the_committed_page_is_up_to_date(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert report.main(["--check"]) == 0
    assert all((ROOT / "docs" / link).exists() for link in re.findall(r"\]\(([^)#]+)\)", page_text()))


def page_text():
    return (ROOT / "docs" / "results.md").read_text()


@pytest.mark.parametrize("setting", ["memorization n=20", "enwik8 prefix", "mnist permuted"])
def test_a_line_in_the_former_format_is_read_and_written_anew(tmp_path, setting):
    new = line(setting)
    added = ("setting", "model", "depth", "features", "seed", "options")
    old = {name: value for name, value in new.json.items() if name not in added}
    old |= {"config": dict(new.options), "title": new.title}
    if setting.startswith("enwik8"):
        old["task"] = old["config"]["task"] = "wikipedia"  # as it was called
    path = tmp_path / "old.jsonl"
    path.write_text(json.dumps(old) + "\n")
    (read,) = lines.read(path)
    assert read.json == {**new.json, "options": old["config"]}
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
            "solved after 1,000 for 1 of 2 seeds; not within 1,000 samples, 2 of 3 seeds",
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
    assert "kernel_scale" not in ModelOptions().record
    assert ModelOptions(kernel_scale=0.5).record["kernel_scale"] == 0.5
    assert ModelOptions.recorded(ModelOptions().record) == ModelOptions()


def test_runs_of_two_configurations_have_no_mean():
    members = [line(end=0.5, conveyor_bias=0.0), line(end=0.7, seed=1, conveyor_bias=3.0)]
    cut = line(end=0.6, seed=2, conveyor_bias=3.0, finished=False)
    assert len(summary.by_configuration(members)) == 2
    assert sweep.cell([sweep.Ended(None, one, False) for one in [*members, cut]]) == (
        "not solved within 1,000 samples: 50.0%, 1 seed (conveyor_bias=0); "
        "not solved within 1,000 samples: 70.0%, 1 of 2 seeds; "
        "60.0% after 1,000 samples, cut short (seed 2) (conveyor_bias=3)"
    )


CAPS = ((2000, 0.9), (1000, 0.8), (900, 0.995))


def test_runs_that_give_up_after_different_numbers_of_samples_are_one_configuration():
    members = [line(seed=seed, samples=1000 * (seed + 1), remat=seed) for seed in (0, 1)]
    assert [summary.label(one, members) for one in members] == ["remat=0", "remat=1"]
    members = [
        line(seed=seed, end=end).json | {"samples": samples, "id": str(seed)}
        for seed, (samples, end) in enumerate(CAPS)
    ]
    for member, (samples, _) in zip(members, CAPS, strict=True):
        member["options"]["samples"] = max(samples, 1000)
    together = group(*map(lines.Line.of, members))
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
    (row,) = rows(text, "BN-LSTM (quoted)")
    assert row[1:] == ["99.0%", "", "95.4%", ""]
    second = "### Table 2 of the paper: test accuracy and training samples of the algorithmic tasks"
    ((_, *row),) = rows(text, "3D tLSTM+CN L=7", second)
    assert row == [
        ">99% after 298K",
        "not run",
        ">99% after 115K",
        f"solved after 1,500 (1,000 to 2,000) samples, 2 seeds, {sized}",
    ]


def test_what_is_not_there_is_named(make):
    _, text, _ = make(memorization=[line(model="3D tLSTM+CN", depth=7), line(), line(depth=10)])
    assert "- addition n=15: every model at L=1, 4, 7, 10\n" in text
    named = "2D tLSTM+CN at L=1, 7; 3D tLSTM+CN at L=1, 4, 10"
    others = "sLSTM, 2D tRNN, 2D tLSTM, 2D tLSTM-M, 2D tLSTM-F, 3D tLSTM, 3D tLSTM+LN at L=1, 4, 7, 10"
    assert f"- memorization n=20: {others}; {named}\n" in text
    assert "Not measured: there is no" in text


def test_nothing_has_been_run(make, tmp_path):
    status, text, printed = make()
    assert status == 0
    assert "from 0 runs" in printed.out
    assert len(rows(text, "Grid LSTM (quoted)")) == 1
    assert "0 reproduced, 0 bettered, 0 not reached, 9 not run" in text
    assert "- mnist permuted: every model at L=1, 3, 5\n" in text
    assert text.endswith("## Every run\n\nNone.\n")
    assert "![" not in text
    assert not (tmp_path / "docs" / "figures").exists()


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
        ["1", "10.0% (10.0% to 10.0%)", "not within 1,000", "2"],
        ["4", "40.0% (40.0% to 40.0%)", "not within 1,000", "2"],
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
    assert rows(text[text.index("## Every run") :], "2D tLSTM+CN L=4 P=4 M=100") == [
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
        ["10", "99.5% (99.5% to 99.5%)", "1,000 (1,000 to 1,000)", "2"],
    ]
    assert len(rows(text[text.index("## Every run that compares options") :], "2D tLSTM+CN L=4 P=4 M=100")) == 4


def test_a_run_in_two_files_counts_once(make):
    _, text, printed = make(memorization=[line(end=0.9)], memorization_too=[line(end=0.9, finished=False)])
    assert "from 1 runs" in printed.out
    ended = ["90.0%", "not within 1,000", "1"]
    assert [row[-3:] for row in rows(text, "2D tLSTM+CN", "### Our runs: memorization n=20")] == [ended]


def test_check_compares_and_writes_nothing(make, tmp_path):
    status, _, printed = make("--check", memorization=[line()])
    assert status == 1
    assert re.fullmatch(r".*results.md is out of date: run python -m experiments.report\n", printed.err)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["memorization.jsonl"]
    assert make()[0] == 0
    assert make("--check")[0] == 0
    before = (tmp_path / "docs" / "results.md").read_text()
    assert make("--check", memorization=[line(seed=1)])[0] == 1
    assert (tmp_path / "docs" / "results.md").read_text() == before


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


def test_series_have_several_depths_and_differ_in_their_labels():
    members = [line(depth=d, end=d / 10, lr=lr) for d in (1, 2) for lr in (0.1, 0.2)]
    members += [line(depth=3, lr=0.3), line(model="sLSTM", depth=1), line(model="sLSTM", depth=4), line("digits")]
    groups = summary.by_configuration(members[:-1])
    found = result_figures.series(groups)
    assert {name: [*depths] for name, depths in found.items()} == {
        "2D tLSTM+CN, lr=0.1": [1, 2],
        "2D tLSTM+CN, lr=0.2": [1, 2],
        "sLSTM": [1, 4],
    }
    drawn = result_figures.depth_panels(members, {})
    assert [(row.title, len(row.panels)) for row in drawn] == [
        ("memorization n=20", 2),
        ("Tasks that were run at one depth", 1),
    ]
    cut = [line(depth=d, end=0.5, finished=False) for d in (1, 2)]
    assert result_figures.depth_panels(cut, {}) == []


def test_labels_do_not_overlap_and_move_as_little_as_possible():
    values = [0.0, 1.0, 1.5, 8.0, 20.0, 20.0]
    moved = spread_out(values, 2.0)
    assert all(b - a >= 2 - 1e-9 for a, b in itertools.pairwise(moved))
    assert moved[3] == 8.0
    assert moved[4:] == [19.0, 21.0]
    assert sum(moved[:3]) == pytest.approx(sum(values[:3]))


def test_the_runtime_is_drawn_where_it_was_measured(drawn, tmp_path):
    status, text, _ = drawn()
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
    (tmp_path / "times").mkdir()
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
            json.dumps(line().json) + "\n{}\n",
            "defaults.jsonl, line 2 is damaged (id is missing",
        ),
        ("results/x.jsonl", json.dumps({**line().json, "depth": "?"}), 'x.jsonl, line 1 is damaged (depth is "?")'),
        ("results/x.jsonl", json.dumps({**line().json, "task": "chess"}), "line 1 is damaged (task must be one of"),
        ("results/x.jsonl", json.dumps({"config": {"task": "mnist"}}), "line 1 is damaged (data is missing)"),
        ("results/x.jsonl", json.dumps({"config": []}), "line 1 is damaged (config is [])"),
        ("results/x.jsonl", json.dumps({**line().json, "summary": {}}), "the summary has no test_accuracy"),
        ("results/x.jsonl", json.dumps({**line().json, "history": []}), "the history is empty"),
        ("results/x.jsonl", json.dumps({**line().json, "samples": "many"}), 'samples is "many"'),
        ("times/depth-cpu.json", "{}", "depth-cpu.json was not written by benchmarks.depth"),
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
    assert ours <= {*summary.model_names()}
    for table in paper.TABLES.values():
        assert {column.setting for column in table.columns} <= {
            line(column.setting).setting for column in table.columns
        }
        for column in table.columns:
            assert lines.tasks.find(column.task).name == column.task == line(column.setting).task
        assert all(len(row) == len(table.columns) for row in [*table.quoted.values(), *table.own.values()])
        assert {model for model, _ in table.own} <= {*summary.model_names()}
        text = markdown(overview.paper_table(table, []))
        assert all(f"| {name} (quoted) |" in text for name in table.quoted)
        assert all(f"| {model} L={depth} |" in text for model, depth in table.own)
    assert sum(len(numbers) for table in paper.TABLES.values() for numbers in table.own.values()) == 9
    assert {section.table for section in page.SECTIONS} == {*paper.TABLES}


def test_the_table_of_what_it_learns_has_the_best_of_each_model():
    members = [
        *(line(depth=8, seed=s, end=0.995, samples=500, batch_size=5) for s in (0, 1)),
        line(depth=8, end=0.995, samples=900),
        line(depth=8, end=0.995, samples=100, batch_size=2),
        line(depth=8, end=0.5, seed=1, samples=100, batch_size=2, finished=False),
        *(line(model="sLSTM", depth=depth, end=0.1 * depth) for depth in (1, 2)),
        line("addition n=4", end=0.3),
        line("addition n=4", "sLSTM", end=0.2),
        line("addition n=9", end=0.2),
        line("addition n=9", "sLSTM", end=0.1),
        line("digits", "3D tLSTM+CN", end=0.9),
    ]
    within = "not solved within 1,000 samples"
    assert tables.learnt(summary.in_order(members))[1:] == [
        [
            "memorization n=20",
            "2D L=8, B=5: solved after 500 (500 to 500) samples, 2 seeds",
            f"L=2, B=15: {within}: 20.0%, 1 seed",
        ],
        [
            "addition n=4<br>addition n=9",
            f"2D L=4: {within}: 30.0%, 1 seed<br>2D L=4: {within}: 20.0%, 1 seed",
            f"L=4: {within}: 20.0%, 1 seed<br>L=4: {within}: 10.0%, 1 seed",
        ],
    ]
