"""The ratios of ``benchmarks.depth``: what depth costs, and how tLSTMs compare with stacks. All times are made up."""

import json

import pytest

from benchmarks import depth, ratios

T = 42


def row(model, levels, ms, each="training", precision="default"):
    facts = {"model": model, "pass": each, "precision": precision, "depth": levels, "num_steps": T}
    return facts | ({"median_ms": ms} if ms else {"error": "no"})


def found(*rows):
    each = ratios.find(rows, tuple(depth.TLSTMS))
    return {(one["model"], one["precision"], one["ratio"]): (one["value"], one["aim"]) for one in each}


def test_the_three_ratios_of_the_kernel():
    """A timestep is one of T + L - 1; in whatever order the depths were timed."""
    rows = [
        *(row("2d-mosaic", 10, 1.5), row("wavefront-shared", 10, 3.3), row("cudnn", 10, 11.0)),
        *(row("2d-mosaic", 1, 1.0), row("wavefront-shared", 1, 2.4), row("cudnn", 1, 1.7)),
    ]
    expected = {
        "a timestep at L=10 / L=1": (pytest.approx(1.5 / 51 * 42), "at most 1.25"),
        "wavefront-shared / 2d-mosaic at L=10": (pytest.approx(2.2), "at least 2"),
        "cudnn / 2d-mosaic at L=10": (pytest.approx(11 / 1.5), "at least 8"),
    }
    assert found(*rows) == {("2d-mosaic", "default", ratio): value for ratio, value in expected.items()}
    table = ratios.table(ratios.find(rows, tuple(depth.TLSTMS))).splitlines()
    assert len(table) == 4
    assert " ".join(table[1].split()) == "a timestep at L=10 / L=1 1.24 at most 1.25 2d-mosaic training default"
    stacks = {ratio for _, _, ratio in found(*rows[:3])}
    assert stacks == {"wavefront-shared / 2d-mosaic at L=10", "cudnn / 2d-mosaic at L=10"}


def test_both_sides_have_one_precision_and_one_pass():
    rows = [row("2d-mosaic", 10, 1.5), row("cudnn", 10, 11.0, precision="highest"), row("cudnn", 10, 4.0, "forward")]
    assert found(*rows) == {}
    rows += [row("2d-mosaic", 10, 2.0, precision="highest"), row("cudnn", 1, 1.0), row("2d-mosaic", 1, None)]
    assert found(*rows) == {("2d-mosaic", "highest", "cudnn / 2d-mosaic at L=10"): (5.5, "at least 8")}


def test_aims_are_those_of_the_kernel_alone():
    rows = [row("2d", 10, 1.0), row("2d", 1, 1.0), row("3d", 10, 1.0), row("2d-mosaic", 7, 1.0), row("cudnn", 10, 8.0)]
    assert {aim for _, aim in found(*rows, row("2d-mosaic", 1, 1.0), row("cudnn", 7, 1.0)).values()} == {None}
    assert "a timestep at L=7 / L=1" in {ratio for *_, ratio in found(*rows, row("2d-mosaic", 1, 1.0))}
    assert found({"model": "2d", "pass": "step", "precision": "highest", "depth": 1, "median_ms": 1.0}) == {}


def test_they_are_printed_and_recorded(tmp_path, capsys, monkeypatch):
    """In the file already after the first depth, since a command may be stopped."""
    monkeypatch.setattr(depth, "write_csv", lambda path, rows: None)
    monkeypatch.setattr(depth.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(depth, "show", lambda rows, title: titles.append(recorded()))
    monkeypatch.setattr(depth, "passes", lambda sizes, precision, each, limits: rows_of(sizes, precision.name))
    out, titles = tmp_path / "depth.json", []

    def rows_of(sizes, precision):
        return [row(model, size.depth, 1.0, precision=precision) for model, size in sizes.items()]

    def recorded():
        return [each["ratio"] for each in json.loads(out.read_text())["ratios"]]

    arguments = ["--depths", "10", "1", "--models", "2d-mosaic", "cudnn", "--passes", "training"]
    assert depth.main([*arguments, "--precision", "default", "--out", str(out)]) == 0
    stack, cost = "cudnn / 2d-mosaic at L=10", "a timestep at L=10 / L=1"
    assert titles == [[stack], [cost, stack]]
    printed = capsys.readouterr().out
    assert f"{cost}   0.824  at most 1.25  2d-mosaic  training  default\n" in printed
