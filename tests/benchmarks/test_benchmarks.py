"""The benchmarks: every command writes what it says. No time is looked at."""

import csv
import dataclasses
import importlib.util
import json
import re
import subprocess
from pathlib import Path

import jax
import pytest

from benchmarks import depth, gpu_suite, kernel_times, memory, populations, rivals, speed
from benchmarks.contenders import CONTENDERS
from benchmarks.networks import parameters
from benchmarks.programs import count
from benchmarks.record import commit, number
from benchmarks.tasks import SIZES
from experiments.rivals import RIVALS

ROOT = Path(__file__).parents[2]

FACTS = {"device_kind", "device_count", "platform", "jax", "jaxlib", "flax", "python", "xla_flags", "commit", "date"}


def read(path):
    """A file of results, which must say where it comes from."""
    results = json.loads(path.read_text())
    assert results["environment"].keys() >= FACTS
    assert results["command"].startswith("python -m benchmarks.")
    assert results["environment"]["jax"] == jax.__version__
    return results


def test_speed(tmp_path, capsys):
    out = tmp_path / "folder" / "speed.json"
    names = ["auto", "floor", "stack-shared", "cudnn"]
    arguments = ["--sizes", "tiny", "--contenders", *names, "--passes", "training", "--repetitions", "2"]
    assert speed.main([*arguments, "--out", str(out)]) == 0
    rows = {row["contender"]: row for row in read(out)["rows"]}
    assert list(rows) == names
    for name in names[:3]:
        assert (rows[name]["repetitions"], rows[name]["precision"]) == (2, "highest")
        assert 0 < rows[name]["min_ms"] <= rows[name]["q1_ms"] <= rows[name]["median_ms"] <= rows[name]["q3_ms"]
        assert rows[name]["compile_seconds"] > 0
    assert rows["auto"]["ratio_to_auto"] == 1
    assert rows["stack-shared"]["ratio_to_auto"] == rows["stack-shared"]["median_ms"] / rows["auto"]["median_ms"]
    size = SIZES["tiny"]
    assert size.flops(training=True) == 3 * 2 * (2 * 2) * (3 * 8) * (4 * 8 + 3) * 6
    gflops = size.flops(training=True) / rows["floor"]["median_ms"] / 1e6
    assert {row["floor_gflops"] for row in rows.values()} == {gflops}
    printed = capsys.readouterr().out
    assert "2D P=2 L=2 M=8 B=2 T=5, training, highest; floor at" in printed
    assert "cudnn: needs an NVIDIA GPU" in printed


def test_speed_goes_on_after_a_contender_that_fails(tmp_path, capsys, monkeypatch):
    def fail(task):
        raise RuntimeError("no\nsecond line")

    monkeypatch.setitem(CONTENDERS, "conv", dataclasses.replace(CONTENDERS["conv"], build=fail))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    out = tmp_path / "speed.json"
    names = ["conv", "torch-loop", "floor"]
    assert speed.main(["--sizes", "tiny", "--contenders", *names, "--passes", "forward", "--out", str(out)]) == 1
    conv, torch, bare = read(out)["rows"]
    assert conv["error"] == "RuntimeError: no"
    assert torch["unavailable"] == "PyTorch is not installed: pip install torch"
    assert bare["median_ms"] > 0
    assert bare["ratio_to_auto"] is None
    assert "conv: RuntimeError: no\ntorch-loop: PyTorch is not installed" in capsys.readouterr().out


@pytest.mark.slow
def test_depth(tmp_path, capsys):
    tiny_options = ["--features", "8", "--batch-size", "2", "--num-steps", "5", "--repetitions", "2"]
    models = ["--models", "2d", "stack-shared", "--passes", "training", "step"]
    out = tmp_path / "depth.json"
    assert depth.main(["--depths", "1", "2", *models, *tiny_options, "--out", str(out)]) == 0
    rows = read(out)["rows"]
    kinds = {(row["model"], row["pass"], row["depth"]) for row in rows}
    assert len(kinds) == len(rows) == 2 * 2 * 3
    assert {each for _, each, _ in kinds} == {"training", "step", "jitted step"}
    for row in rows:
        per_example = row["median_ms"] / (10 if row["pass"] == "training" else 1)
        assert row["ms_per_timestep_and_example"] == pytest.approx(per_example)
    with out.with_suffix(".csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(line["median_ms"]) for line in table] == [row["median_ms"] for row in rows]
    assert out.with_suffix(".png").exists() == bool(importlib.util.find_spec("matplotlib"))
    assert "L=2, training, highest" in capsys.readouterr().out


def test_depth_without_matplotlib(tmp_path, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    arguments = ["--depths", "1", "--models", "3d", "--passes", "forward", "--features", "8", "--repetitions", "1"]
    assert depth.main([*arguments, "--out", str(tmp_path / "depth.json")]) == 0
    assert "no figure without matplotlib: pip install matplotlib" in capsys.readouterr().out


def test_depth_keeps_the_number_of_parameters():
    options = depth.parse([])
    for model in ("2d", "3d", "stack-shared"):
        size = depth.size_of(model, 1, options)
        network = "tlstm" if model in depth.TLSTMS else "shared"
        assert count(parameters(network, size)) == pytest.approx(122603, rel=0.02)


@pytest.mark.slow
def test_memory(tmp_path, capsys):
    out = tmp_path / "memory.json"
    assert memory.main(["--sizes", "tiny", "--num-steps", "1000", "--out", str(out)]) == 0
    rows = read(out)["rows"]
    used = {(row["implementation"], row["remat"]): row["temp_bytes"] for row in rows}
    assert len(used) == len(rows) == 2 * 3
    assert used["reference", "remat sqrt"] < used["reference", "remat"] < used["reference", ""]
    assert used["fused", "remat sqrt"] < used["fused", ""] < used["reference", ""]
    assert "T=1000\n" in capsys.readouterr().out


@pytest.mark.slow
def test_profile_and_populations(tmp_path, capsys):
    out = tmp_path / "kernels.json"
    assert kernel_times.main(["--sizes", "tiny", "--calls", "1", "--out", str(out)]) == 0
    (row,) = read(out)["rows"]
    assert any("dot" in kernel["kernel"] for kernel in row["kernels"])
    times = [kernel["us_per_timestep"] for kernel in row["kernels"]]
    assert times == sorted(times, reverse=True)
    assert row["busy_us_per_timestep"] == pytest.approx(sum(times))
    out = tmp_path / "populations.json"
    assert populations.main(["--sizes", "tiny", "--members", "1", "3", "--repetitions", "1", "--out", str(out)]) == 0
    assert [row["members"] for row in read(out)["rows"]] == [1, 3]
    for row in read(out)["rows"]:
        assert row["ms_per_member"] == pytest.approx(row["median_ms"] / row["members"])
    assert "ms each" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (speed.main, ["--sizes", "z"]),
        (speed.main, ["--contenders"]),
        (speed.main, ["--repetitions", "0"]),
        (speed.main, ["--seconds", "nan"]),
        (speed.main, ["--precision", "float64"]),
        (speed.main, ["--out", "results.txt"]),
        (speed.main, ["--out", "/dev/null/results.json"]),
        (speed.main, ["--sz", "a"]),
        (depth.main, ["--depths", "0"]),
        (depth.main, ["--models", "4d"]),
        (memory.main, ["--num-steps", "1.5"]),
        (memory.main, ["--implementations", "naive"]),
        (gpu_suite.main, []),
        (gpu_suite.main, ["--out", "/dev/null/results"]),
        (gpu_suite.main, ["--out", "results", "--budget", "-1"]),
    ],
)
def test_bad_options(main, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert re.fullmatch(r"error: .+\n", printed.err)
    assert printed.out == ""


def test_quick_has_other_defaults():
    assert speed.parse(["--quick"]).sizes == speed.QUICK["sizes"]
    assert speed.parse(["--quick", "--sizes", "tiny"]).sizes == ["tiny"]
    assert memory.parse(["--quick"]).num_steps == memory.QUICK["num_steps"]
    assert depth.parse(["--quick"]).depths == depth.QUICK["depths"]


def test_the_commit(tmp_path):
    assert commit(tmp_path) is None
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit() or "0" * 40)


def test_numbers():
    values = {1234.5: "1,234", 99.96: "100", 12.0: "12.0", 0.00123: "0.00123", None: ""}
    assert [number(value) for value in values] == list(values.values())


def test_what_was_measured_names_a_commit_of_the_history():
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("needs a git checkout with its history")
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    recorded = {path.name: json.loads(path.read_text()) for path in files}
    commits = {name: found.get("environment", found)["commit"] for name, found in recorded.items()}
    assert len(commits) > 5
    ended = {
        name: git("merge-base", "--is-ancestor", found.removesuffix("-dirty"), "HEAD").returncode
        for name, found in commits.items()
    }
    if {*ended.values()} == {128}:  # git knows none of them
        pytest.skip("needs the history, not a copy of its end")
    assert not any(ended.values()), ended


def test_rivals_are_timed_beside_ours(tmp_path, capsys):
    """In training as it is done, with batch statistics, at the nearest number of parameters."""
    out = tmp_path / "speed.json"
    arguments = ["--sizes", "tiny", "--contenders", "auto", "bnlstm", "--passes", "training", "--repetitions", "1"]
    assert speed.main([*arguments, "--out", str(out)]) == 0
    ours, rival = read(out)["rows"]
    assert (rival["contender"], rival["summary"]) == ("bnlstm", rivals.contenders()["bnlstm"].summary)
    sizes = {m: 4 * m * (10 + m) + 14 * m + 2 * m for m in range(4, 20)}
    assert rival["features"] == min(sizes, key=lambda m: abs(sizes[m] - ours["parameters"]))
    assert (rival["parameters"], rival["depth"]) == (sizes[rival["features"]], 1)
    assert rival["ratio_to_auto"] == rival["median_ms"] / ours["median_ms"]
    assert rival["ms_per_timestep"] == rival["median_ms"] / SIZES["tiny"].num_steps
    assert "ms a timestep" in capsys.readouterr().out


def test_the_group_of_rivals():
    everything = speed.parse(["--contenders", "rivals", "floor", "grid"]).contenders
    assert everything == ["auto", *RIVALS, "floor"]
    assert not {*CONTENDERS} & {*RIVALS}
