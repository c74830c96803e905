"""The benchmarks: every contender computes the same, every command writes what it says. No time is looked at."""

import contextlib
import csv
import dataclasses
import importlib.util
import json
import multiprocessing
import re
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

from benchmarks import (
    cell_kernel,
    depth,
    floor,
    gpu_suite,
    kernel_times,
    memory,
    pallas,
    populations,
    rivals,
    speed,
    stacks,
)
from benchmarks.checking import Mismatch, build
from benchmarks.contenders import CONTENDERS
from benchmarks.measure import Limits, interleave
from benchmarks.networks import inputs, nearest_features, parameters, reference, stack_config, stack_parameters
from benchmarks.programs import count
from benchmarks.race import Entry, race
from benchmarks.record import commit, number
from benchmarks.tasks import PRECISIONS, SIZES, Task
from experiments.rivals import RIVALS

ROOT = Path(__file__).parents[2]

TINY = Task(SIZES["tiny"], PRECISIONS["highest"], training=True)
SLOW = {  # a minute of C++ compilation, with PyTorch's own warnings
    "torch-compile": (pytest.mark.slow, pytest.mark.filterwarnings("ignore")),
    "unroll-1": pytest.mark.slow,
    "unroll-8": pytest.mark.slow,
}
FACTS = {"device_kind", "device_count", "platform", "jax", "jaxlib", "flax", "python", "xla_flags", "commit", "date"}


def tiny(size="tiny", precision="highest", training=True):
    return Task(SIZES[size], PRECISIONS[precision], training)


def read(path):
    """A file of results, which must say where it comes from."""
    results = json.loads(path.read_text())
    assert results["environment"].keys() >= FACTS
    assert results["command"].startswith("python -m benchmarks.")
    assert results["environment"]["jax"] == jax.__version__
    return results


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in CONTENDERS])
def test_contenders_compute_the_same(name):
    contender = CONTENDERS[name]
    if reason := contender.unavailable(TINY):
        pytest.skip(reason)
    with pallas.interpreted() if name == "mosaic" else contextlib.nullcontext():
        build(contender, TINY)  # which raises if it does not


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv", "wavefront-shared", "torch-loop", "torch-conv", "torch-shared"])
@pytest.mark.parametrize(
    "task",
    [tiny("tiny-3d"), tiny(precision="bfloat16"), tiny(training=False)],
    ids=["3d", "bfloat16", "forward"],
)
def test_in_3d_in_bfloat16_and_forward(name, task):
    if reason := CONTENDERS[name].unavailable(task):
        pytest.skip(reason)
    build(CONTENDERS[name], task)


def test_a_contender_that_computes_something_else_is_refused():
    honest = CONTENDERS["reference"]
    program = honest.build(TINY)

    def wrong(change):
        changed = dataclasses.replace(program, fetch=lambda result: change(program.fetch(result)))
        return dataclasses.replace(honest, build=lambda task: changed)

    with pytest.raises(Mismatch, match="outputs are off by"):
        build(wrong(lambda result: result._replace(outputs=np.roll(result.outputs, 1, axis=0))), TINY)
    with pytest.raises(Mismatch, match="outputs are off by nan"):
        build(wrong(lambda result: result._replace(outputs=result.outputs * np.nan)), TINY)
    with pytest.raises(Mismatch, match="shape"):
        build(wrong(lambda result: result._replace(outputs=result.outputs[1:])), TINY)
    with pytest.raises(Mismatch, match="gradients are off by 1 "):
        build(wrong(lambda result: result._replace(gradients=jax.tree.map(lambda g: 2 * g, result.gradients))), TINY)
    with pytest.raises(Mismatch, match="995 parameters and not 950"):
        build(dataclasses.replace(honest, network="shared", build=lambda task: program), TINY)


@pytest.mark.parametrize("name", ["a", "d", "memorization-10", "mnist-1", "tiny"])
def test_stacks_are_as_large_and_as_deep_as_the_tlstm(name):
    size = SIZES[name]
    target = count(parameters("tlstm", size))
    for network, sets in (("shared", 1), ("unshared", size.depth)):
        cfg = stack_config(network, size)
        assert cfg.num_layers == size.depth
        assert count(parameters(network, size)) == stack_parameters(cfg.features, size.in_features, sets)
        errors = [abs(stack_parameters(m, size.in_features, sets) - target) for m in range(1, 2 * cfg.features)]
        assert cfg.features == nearest_features(size, sets) == 1 + int(np.argmin(errors))


def test_the_weights_of_cudnn():
    """Against jax's own reference of what cuDNN computes."""
    size = SIZES["tiny"]
    cfg = stack_config("unshared", size)
    packed = stacks.pack_cudnn(parameters("unshared", size))
    sizes = (cfg.features, cfg.features, cfg.num_layers, False)
    assert packed["weights"].size == rnn.get_num_params_in_lstm(*sizes)
    weights = rnn.unpack_lstm_weights(jnp.asarray(packed["weights"]), *sizes)
    xs = stacks.project(packed["input"], inputs(size).swapaxes(0, 1), jnp.float32)
    zero = jnp.zeros((cfg.num_layers, size.batch_size, cfg.features))
    lengths = jnp.full(size.batch_size, size.num_steps, jnp.int32)
    ys, _, _ = rnn.lstm_ref(xs, zero, zero, *weights, lengths, *sizes[:3], 0.0, False)
    np.testing.assert_allclose(ys.swapaxes(0, 1), reference("unshared", size).outputs, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_the_floor_keeps_every_product(training):
    rows, inner, columns = SIZES["tiny"].gemm
    products = floor.training_products if training else floor.forward_products
    compiled = (
        jax.jit(products, static_argnums=2).lower(jnp.ones((rows, inner)), jnp.ones((inner, columns)), 6).compile()
    )
    text = compiled.as_text()
    assert re.search(r'"known_trip_count":\{"n":"6"\}', text)
    shapes = set(re.findall(r"f32\[(\d+,\d+)\]\S* dot\(", text))
    expected = {f"{rows},{columns}", f"{rows},{inner}", f"{inner},{columns}"} if training else {f"{rows},{columns}"}
    assert shapes == expected
    # The loop's body, and not what comes before it, is where they are.
    body = re.search(r"body=%?([\w.-]+)", text).group(1)
    lines = text.split(f"%{body} ", 1)[1].split("\n}", 1)[0]
    assert len(re.findall(r" (?:dot|fusion|call)\(", lines)) >= len(expected)


def test_calls_take_turns(monkeypatch):
    now, calls = 0.0, []
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def contender(name, seconds):
        def call():
            nonlocal now
            now += seconds
            calls.append(name)

        return call

    timings = interleave({"a": contender("a", 1.0), "b": contender("b", 4.0)}, Limits(4, 8.0, warmup=1))
    assert "".join(calls) == "ab" + "aab" * 2
    assert (timings["a"].repetitions, timings["b"].repetitions) == (4, 2)
    assert timings["b"].median_ms == timings["b"].min_ms == timings["b"].q3_ms == pytest.approx(4000)
    one = interleave({"slow": contender("slow", 100.0)}, Limits(4, 8.0, warmup=5))
    assert one["slow"].repetitions == 1


def build_with_an_import(task):
    """As the contenders of PyTorch do: a program whose framework stays in the process that built it."""
    sys.modules["a_framework"] = types.ModuleType("a_framework")
    return floor.build(task)


def test_a_framework_that_slows_jax_is_imported_in_another_process():
    """Imported here it would slow the contenders of JAX as well."""
    contender = dataclasses.replace(CONTENDERS["floor"], build=build_with_an_import, apart=True)
    (row,) = race({"other": Entry(contender, TINY)}, Limits(repetitions=2, seconds=1.0, warmup=1))
    assert "a_framework" not in sys.modules
    assert not multiprocessing.active_children()
    assert row["repetitions"] == 2
    assert 0 < row["min_ms"] <= row["median_ms"]
    assert row["compile_seconds"] > 0
    assert all(contender.apart == name.startswith("torch-") for name, contender in CONTENDERS.items())


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


def test_gpu_suite_refuses_a_machine_without_one(tmp_path, capsys):
    assert gpu_suite.main(["--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error == "error: this is a cpu and no GPU: --smoke tries the suite here\n"


@pytest.mark.slow
def test_gpu_suite(tmp_path, monkeypatch):
    """A part that works, one that fails, one that takes too long, and one for which no time is left."""
    parts = (
        gpu_suite.PARTS["flags-pdl"],
        gpu_suite.Part("fails", "speed", "--no-such-option", 60),
        gpu_suite.Part("slow", "memory", "", 0.1),
        gpu_suite.Part("late", "memory", "", 60),
    )
    monkeypatch.setattr(gpu_suite, "PARTS", {part.name: part for part in parts})
    run = gpu_suite.run
    monkeypatch.setattr(
        gpu_suite, "run", lambda part, folder, smoke, left: run(part, folder, smoke, (part.name != "late") * left)
    )
    assert gpu_suite.main(["--out", str(tmp_path), "--smoke"]) == 1
    suite = json.loads((tmp_path / "suite.json").read_text())
    assert suite["environment"]["platform"] == "cpu"
    assert [part["status"] for part in suite["parts"]] == ["done", "failed", "cut off", "skipped"]
    assert suite["parts"][1]["error"] == "error: unrecognized arguments: --no-such-option"
    results = suite["parts"][0]["results"]
    assert {row["contender"] for row in results["rows"]} == {"auto", "floor"}
    assert results["environment"]["xla_flags"] == suite["parts"][0]["xla_flags"]
    assert "--xla_gpu_enable_pdl=true" in results["environment"]["xla_flags"]
    assert "floor at" in (tmp_path / "suite.log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["suite.json", "suite.log"]


def test_the_verdict_of_the_suite():
    """Each choice by the parts that were timed, the fastest first; whatever has no time is left out."""

    def part(name, **times):
        rows = [{"size": "a", "contender": contender, "median_ms": ms} for contender, ms in times.items()]
        return {"name": name, "status": "done", "results": {"rows": rows}}

    parts = [part("unroll", auto=1.5, **{"unroll-1": 2.5}), part("flags-none", auto=1.5), part("flags-pdl", auto=1.25)]
    cut_off = {"name": "fused", "status": "cut off", "results": None}
    failed = part("fused", auto=1.0)
    failed["results"]["rows"].append({"size": "a", "contender": "fused-gates", "error": "no"})
    for other in (cut_off, failed):
        assert gpu_suite.verdict([*parts, other]) == [
            "unroll at size a: auto 1.50 ms, unroll-1 2.50 ms",
            "XLA_FLAGS at size a: pdl 1.25 ms, none 1.50 ms",
        ]
    assert gpu_suite.verdict([cut_off, part("flags-none", auto=1.5)]) == []


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


def test_options_of_the_suite():
    """Every part's options, with and without --smoke, are some that its command knows."""
    modules = (speed, depth, memory, kernel_times, populations, cell_kernel)
    parsers = {module.MODULE.rpartition(".")[2]: module.parse for module in modules}
    for part in gpu_suite.PARTS.values():
        for smoke in (False, True):
            arguments = part.command(Path("part.json"), smoke)[3:]
            assert parsers[part.module](arguments).out == Path("part.json")


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
    program = rivals.build("bnlstm", TINY)
    result = program.fetch(program.call())
    for wrong, message in (
        (result._replace(outputs=result.outputs[1:]), "shape"),
        (result._replace(outputs=result.outputs * np.nan), "outputs are not finite"),
        (result._replace(gradients=jax.tree.map(np.zeros_like, result.gradients)), "gradients are all 0"),
    ):
        with pytest.raises(Mismatch, match=message):
            rivals.check("bnlstm", program, wrong, TINY)
    with pytest.raises(Mismatch, match="100 parameters for the tLSTM's 995 are not the nearest"):
        rivals.check("bnlstm", dataclasses.replace(program, parameters=100), result, TINY)


def test_the_group_of_rivals():
    everything = speed.parse(["--contenders", "rivals", "floor", "grid"]).contenders
    assert everything == ["auto", *RIVALS, "floor"]
    assert not {*CONTENDERS} & {*RIVALS}


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_can_be_timed(name):
    build(rivals.contenders()[name], TINY)
