"""Contenders of the benchmarks: every one computes the same, and they take turns. No time is looked at."""

import contextlib
import dataclasses
import multiprocessing
import re
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

from benchmarks import floor, pallas, rivals, stacks
from benchmarks import race as race_module
from benchmarks.checking import Mismatch, build
from benchmarks.contenders import CONTENDERS
from benchmarks.measure import QUEUE, Limits, interleave, queued
from benchmarks.networks import inputs, nearest_features, parameters, reference, stack_config, stack_parameters
from benchmarks.programs import count
from benchmarks.race import Entry, race
from benchmarks.tasks import PRECISIONS, SIZES, Task
from experiments.rivals import RIVALS

TINY = Task(SIZES["tiny"], PRECISIONS["highest"], training=True)
SLOW = {  # a minute of C++ compilation, with PyTorch's own warnings
    "torch-compile": (pytest.mark.slow, pytest.mark.filterwarnings("ignore")),
    "unroll-1": pytest.mark.slow,
    "unroll-8": pytest.mark.slow,
}


def tiny(size="tiny", precision="highest", training=True):
    return Task(SIZES[size], PRECISIONS[precision], training)


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


@pytest.fixture
def clock(monkeypatch):
    """A function that makes a call which takes some seconds of a clock of its own, and the names of the calls made."""
    now, calls = 0.0, []
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def contender(name, seconds):
        def call():
            nonlocal now
            now += seconds
            calls.append(name)
            return np.zeros(())

        return call

    return contender, calls


def test_calls_take_turns(clock):
    contender, calls = clock
    timings = interleave({"a": contender("a", 1.0), "b": contender("b", 4.0)}, Limits(4, 8.0, warmup=1))
    assert "".join(calls) == "ab" + "aab" * 2
    assert (timings["a"].repetitions, timings["b"].repetitions) == (4, 2)
    assert timings["b"].median_ms == timings["b"].min_ms == timings["b"].q3_ms == pytest.approx(4000)
    one = interleave({"slow": contender("slow", 100.0)}, Limits(4, 8.0, warmup=5))
    assert one["slow"].repetitions == 1


def test_calls_in_a_row_are_waited_for_together(clock):
    contender, calls = clock
    assert queued({"a": contender("a", 1.0), "b": contender("b", 4.0)}, rounds=2) == {"a": 1000.0, "b": 4000.0}
    assert "".join(calls) == ("a" * QUEUE + "b" * QUEUE) * 2


def test_a_race_times_calls_in_a_row_if_asked(monkeypatch):
    entries = {name: Entry(CONTENDERS[name], TINY) for name in ("floor", "reference")}
    monkeypatch.setattr(race_module, "queued", lambda starts: dict.fromkeys(starts, 1.0))
    rows = race(entries, Limits(repetitions=1, seconds=1.0, warmup=1), queue=True)
    assert [row["queued_ms"] for row in rows] == [1.0, 1.0]


def test_a_failure_of_calls_in_a_row_leaves_the_other_times(monkeypatch, capsys):
    def fail(starts):
        raise MemoryError("16 results do not fit")

    monkeypatch.setattr(race_module, "queued", fail)
    (row,) = race({"floor": Entry(CONTENDERS["floor"], TINY)}, Limits(1, 1.0, warmup=1), queue=True)
    assert row["median_ms"] > 0
    assert "queued_ms" not in row
    assert "16 results do not fit" in capsys.readouterr().err


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


def test_a_rival_that_computes_something_else_is_refused():
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


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_can_be_timed(name):
    build(rivals.contenders()[name], TINY)
