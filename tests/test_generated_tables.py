"""`python -m experiments.readme`: the tables in README.md and docs/ are the measurements."""

import json
import re
from pathlib import Path

import pytest

from experiments import readme
from experiments.common.files import FileError
from experiments.reporting import gpu_tables, measurements

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def page(path, *names):
    path.write_text("before\n" + "".join(f"<!-- table: {name} -->\n<!-- end -->\nbetween\n" for name in names))
    return str(path)


def test_the_committed_tables_are_up_to_date():
    assert readme.main(["--check"]) == 0


def test_every_table_can_stand_in_any_page(tmp_path, capsys):
    names = ["learnt", *readme.MEASURED]
    first, second = page(tmp_path / "first.md", *names[:3]), page(tmp_path / "second.md", *names[3:])
    pages = ["--pages", first, second]
    assert readme.main([*pages, "--check"]) == 1
    assert [line.split()[3] for line in capsys.readouterr().err.splitlines()] == [first, second]
    assert (tmp_path / "first.md").read_text().count("|") == 0
    assert readme.main(pages) == 0
    assert f"{first}: {', '.join(names[:3])}\n" in capsys.readouterr().out
    for path, expected in ((first, names[:3]), (second, names[3:])):
        text = Path(path).read_text()
        assert text.startswith("before\n")
        assert text.count("between\n") == len(expected)
        assert len(re.findall(r"-->\n\|.*\n\|---.*\n\|.*\n(?:\|.*\n)*<!-- end -->", text)) == len(expected)
    assert readme.main([*pages, "--check"]) == 0
    changed = re.sub(r"\| \d", "| 99", Path(second).read_text(), count=1)
    Path(second).write_text(changed)
    assert readme.main([*pages, "--check"]) == 1
    assert capsys.readouterr().err == f"the tables in {second} are out of date: run python -m experiments.readme\n"
    assert Path(second).read_text() == changed


def test_what_could_not_be_timed_has_no_row(tmp_path):
    row = {"model": "2d", "pass": "training", "depth": 1, "ms_per_timestep": 1.5}
    rows = [row, {"model": "cudnn", "pass": "training", "depth": 1, "unavailable": "needs a GPU"}]
    (tmp_path / "depth-cpu.json").write_text(json.dumps({"rows": rows}))
    assert measurements.depth(tmp_path) == [["ms per timestep", "L = 1"], ["2D tLSTM+CN", "1.50"]]


def test_speed_has_a_row_for_each_size(tmp_path):
    size = {"tensor_shape": [3], "features": 8, "batch_size": 2, "num_steps": 5, "median_ms": 1.0, "temp_bytes": 1}

    def rows(name, reference):
        ratios = {"auto": 1.0, "reference": reference, "torch-conv": 3.0, "torch-loop": 4.0}
        return [
            {**size, "size": name, "contender": contender, "ratio_to_auto": ratio, "ratio_to_floor": ratio}
            for contender, ratio in ratios.items()
        ]

    (tmp_path / "speed-cpu.json").write_text(json.dumps({"rows": rows("a", 2.0) + rows("d", 1.5)}))
    _, *found = measurements.speed(tmp_path)
    assert [row[3:] for row in found] == [["2.00 x", "1.0 x", "3.0 x", "4.0 x"], ["1.50 x", "1.0 x", "3.0 x", "4.0 x"]]


def test_the_speed_of_rivals(tmp_path):
    times = {"grid": 12.34, "auto": 2.0, "tcn": 1.0}
    rows = [
        {"contender": name, "median_ms": time, "ratio_to_auto": time / 2, "compile_seconds": 1.0}
        for name, time in times.items()
    ]
    (tmp_path / "speed-cpu-rivals.json").write_text(json.dumps({"rows": [*rows, {"contender": "urnn", "failed": "x"}]}))
    assert measurements.speed_of_rivals(tmp_path)[1:] == [
        ["`tcn`", "1.0", "0.50"],
        ["**the tLSTM**", "2.0", "1.00"],
        ["`grid`", "12", "6.17"],
    ]


def test_bad_pages_exit_with_2_and_one_line(tmp_path, capsys):
    def error(*arguments):
        assert readme.main([*arguments]) == 2
        found = capsys.readouterr().err
        assert found.startswith("error: ")
        assert len(found.splitlines()) == 1
        return found

    good = page(tmp_path / "good.md", "depth")
    before = Path(good).read_text()
    assert "asks for table 'spede', expected one of learnt, speed" in error(
        "--pages", good, page(tmp_path / "a.md", "spede")
    )
    assert Path(good).read_text() == before
    assert "give --pages existing Markdown files" in error("--pages", str(tmp_path / "none.md"))
    learnt = page(tmp_path / "c.md", "learnt")
    before = Path(learnt).read_text()
    assert "give --results another" in error("--pages", learnt, "--results", str(tmp_path / "resutls"))
    assert Path(learnt).read_text() == before
    kernels = page(tmp_path / "b.md", "kernels")
    assert "give --benchmarks a folder" in error("--pages", kernels, "--benchmarks", str(tmp_path))


SUITE_TIMES = {"xla-8": 120.0, "mosaic-8": 30.0, "floor": 12.3}
"""Microseconds per timestep."""


def test_gpu_and_cpu_stand_side_by_side(tmp_path):
    def timings(device, *rows):
        keys = ("model", "pass", "depth", "ms_per_timestep")
        text = json.dumps({"rows": [dict(zip(keys, row, strict=True)) for row in rows]})
        (tmp_path / f"depth-{device}.json").write_text(text)

    timings("h200", ("2d", "training", 1, 0.0501), ("2d", "forward", 10, 9.0), ("cudnn", "training", 10, 0.27))
    timings("cpu", ("2d", "training", 10, 12.3), ("wavefront-unshared", "training", 1, 0.3))
    assert gpu_tables.gpu_cpu(tmp_path) == [
        ["ms per timestep", "H200, L=1", "H200, L=10", "CPU, L=1", "CPU, L=10"],
        ["2D tLSTM+CN", "0.050", "", "", "12"],
        ["cuDNN LSTM (unshared)", "", "0.27", "", ""],
        ["sLSTM (unshared), skewed", "", "", "0.30", ""],
    ]


def test_every_file_of_timings_says_where_it_comes_from(tmp_path):
    environment = {"device_kind": "NVIDIA H200", "platform": "gpu", "cpus": 16, "jax": "0.11.2", "python": "3.12.3"}
    for name, changes in {
        "b": {"commit": "0123456789-dirty"},
        "a": {"platform": "cpu", "commit": None},
    }.items():
        found = {"environment": environment | changes, "options": {"precision": ["highest", "default"]}}
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    (tmp_path / "c.json").write_text(json.dumps({"platform": "cuda"}))  # counted, not timed
    assert gpu_tables.timed_files(tmp_path)[1:] == [
        ["`a.json`", "16 CPU cores", "highest, default", "0.11.2", "3.12.3", "unknown"],
        ["`b.json`", "NVIDIA H200", "highest, default", "0.11.2", "3.12.3", "0123456 (dirty)"],
    ]


def test_the_tables_of_the_gpu_suite(tmp_path):
    size = {"tensor_shape": [4], "features": 8, "batch_size": 2, "num_steps": 5, "median_ms": 1.0}
    cells = [{**size, "contender": name, "us_per_timestep": time} for name, time in SUITE_TIMES.items()]
    cells.append({**size, "contender": "mosaic-1", "us_per_timestep": 99.0})
    stacks = [
        {"model": model, "depth": depth, "median_ms": time}
        for (model, depth), time in {("2d-mosaic", 10): 2.0, ("2d-mosaic", 1): 1.5, ("cudnn", 10): 9.0}.items()
    ]
    stacks += [{"model": "cudnn", "depth": 1, "median_ms": 0.5}, {"model": "cudnn", "depth": 10, "failed": "memory"}]
    options, parts = {"precision": ["default"]}, {"unroll": cells, "kernel-3x3": cells, "kernel-10x10": cells}
    parts["kernel-depth"] = stacks
    found = [{"name": name, "results": {"rows": rows, "options": options}} for name, rows in parts.items()]
    (tmp_path / "suite-h100.json").write_text(json.dumps({"parts": found}))
    assert [row[1:] for row in gpu_tables.gpu_cell_kernel(tmp_path)[1:]] == 3 * [["120", "30.0", "0.25", "12.3"]]
    assert gpu_tables.gpu_kernel_depth(tmp_path) == [
        ["ms per batch", "L = 1", "L = 10", "time / ours, L = 10"],
        ['2D tLSTM+CN, kernel="mosaic"', "1.50", "2.00", "1.00"],
        ["cuDNN LSTM (unshared)", "0.50", "9.00", "4.50"],
    ]


def test_the_table_of_the_time_scale(tmp_path):
    def row(transport, seed, samples, accuracy=0.995):
        point = {"task": "memorization n=6", "time_scale": 10.0, "gates": 2.0, "transport": transport, "seed": seed}
        return {**point, "solved": accuracy > 0.99, "samples": samples, "test_accuracy": accuracy}

    rows = [row(0.4, 0, 3000), row(0.4, 1, 5000), row(0.85, 0, 3000), row(0.85, 1, 9000, 0.5)]
    rows += [row(1.7, 0, 9000, 0.25), row(1.7, 1, 9000, 0.5)]
    (tmp_path / "time-scale-one.json").write_text(json.dumps({"rows": rows}))
    digits = [{**row(0.4, seed, 55000, 0.9), "task": "digits"} for seed in (0, 1, 2)]
    digits = [{**each, "validation_accuracy": 0.95 + 0.01 * seed} for seed, each in enumerate(digits[:2])] + digits[2:]
    (tmp_path / "time-scale-two.json").write_text(json.dumps({"rows": digits}))
    assert measurements.time_scale(tmp_path) == [
        ["task, model, T", *(f"gates 2 T, transport {transport} T" for transport in (0.4, 0.85, 1.7))],
        [
            "memorization n=6, T=10",
            "4,000 (3,000 to 5,000)",
            "3,000 (3,000 to 3,000), 1 of 2 seeds",
            "not solved: 25.0% to 50.0%",
        ],
        ["digits, T=10", "95.5% (95.0% to 96.0%), 2 of 3 seeds", "", ""],
    ]
    with pytest.raises(FileError, match=r"has no time-scale-\*.json"):
        measurements.time_scale(tmp_path / "other")
