"""The GPU kernels of ``Fused(kernel="mosaic")`` on a CPU, in Pallas' interpreter, against the reference, in float32."""

import contextlib
import dataclasses
import functools
import importlib.util
import inspect
import io
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import tlstm_jax as tl
from benchmarks import pallas
from tests.core.variants import normal, random_arguments, refused, results
from tlstm_jax.fused import coverage, geometry

B, R = 2, 3
CELL = tl.Fused(kernel="mosaic")
LATER = coverage.environment_needs()[0][-1]
needs_pallas = pytest.mark.skipif(not LATER, reason="jax 0.10 cannot trace the kernels: they need jax 0.11")

MODELS = {
    "2d": {"tensor_shape": (3,)},
    "2d-F": {"tensor_shape": (3,), "kernel_size": 2, "norm": None},
    "2d-M": {"tensor_shape": (3,), "memory_conv": False},
    "2d, K=4": {"tensor_shape": (3,), "kernel_size": 4},
    "2d, K=5": {"tensor_shape": (4,), "kernel_size": 5, "norm": None},
    "2d, learned carry": {"tensor_shape": (2,), "learn_carry": True},
    "2d, M=128": {"tensor_shape": (2,), "features": 128},
    "2d, M=130": {"tensor_shape": (2,), "features": 130},
    "2d, M=260": {"tensor_shape": (2,), "features": 260},  # more than one bulk copy
    "2d, M=384": {"tensor_shape": (2,), "features": 384},
    "3d": {"tensor_shape": (2, 2)},
    "3d mixed": {"tensor_shape": (2, 4), "kernel_size": (3, 5), "norm": None},
    "3d, depth 1": {"tensor_shape": (1, 1), "memory_conv": False},
    "4d": {"tensor_shape": (2, 2, 2), "kernel_size": (2, 3, 2), "features": 4},
}
RESET = np.array([[False, True, False], [True, False, True]])
OPTIONS = {
    "aligned": {},
    "not aligned": {"aligned": False},
    "lengths": {"seq_lengths": np.array([3, 0])},
    "lengths and reset": {"seq_lengths": np.array([3, 2]), "reset": RESET},
    "reverse": {"reverse": True, "keep_order": True, "seq_lengths": np.array([3, 2]), "reset": RESET},
    "unroll": {"unroll": 2, "reset": RESET},
}
PLANS = {
    "all saved": CELL,
    "states saved": dataclasses.replace(CELL, save="states"),
    "2 at a time": dataclasses.replace(CELL, gather=2, align=1),
}


@pytest.fixture(autouse=True)
def uninitialized(monkeypatch):
    """Fills the arrays that kernels have to write with nan first."""
    monkeypatch.setattr(jax.lax, "empty", lambda shape, dtype: jnp.full(shape, jnp.nan, dtype))


@contextlib.contextmanager
def interpreted(detect_races=False):
    """Runs kernels in Pallas' interpreter; yields a function that tells whether it has seen a race."""
    from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call as interpreter

    interpreter.reset_gpu_interpret_mode_state()
    printed = io.StringIO()  # get_races, below, knows the last kernel only
    with pallas.interpreted(detect_races), contextlib.redirect_stdout(printed):
        yield lambda: interpreter.get_races().races_found or "RACE DETECTED" in printed.getvalue()


def setup(name, steps=3, batch=B, **overrides):
    cfg = tl.TLSTMConfig(**{"features": 5, **MODELS[name], **overrides})
    params, xs, state = random_arguments(cfg, R, (batch, steps))
    return cfg, params, xs, None if cfg.learn_carry else state


def error(actual, expected):
    """The largest difference of a leaf, relative to its largest value; infinite for nan."""
    types = [jax.tree.map(lambda leaf: (leaf.shape, jnp.dtype(leaf.dtype).name), tree) for tree in (actual, expected)]
    assert types[0] == types[1]
    worst = 0.0
    for pair in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        one, other = (np.asarray(leaf, np.float32) for leaf in pair)
        differences = np.abs(one - other).max(initial=0) / max(np.abs(other).max(initial=0), 1e-3)
        worst = max(worst, differences if np.isfinite(differences) else np.inf)
    return worst


@needs_pallas
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("plan", ["all saved", "2 at a time"])
def test_a_small_case(plan):
    """With resets and lengths, an initial and a last state, chunks longer than the sequence, and races detected."""
    options = {"seq_lengths": np.array([2, 0]), "reset": RESET[:, :2]}
    arguments = setup("2d", steps=2, tensor_shape=(2,))
    with interpreted(detect_races=True) as races:
        actual = results(*arguments, PLANS[plan], **options)
        assert not races()
    assert error(actual, results(*arguments, "reference", **options)) < 2e-6


@needs_pallas
@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", MODELS)
def test_equals_the_reference(name, option):
    plan = list(PLANS)[(list(MODELS).index(name) + list(OPTIONS).index(option)) % len(PLANS)]
    arguments = setup(name)
    with interpreted(detect_races=True) as races:
        actual = results(*arguments, PLANS[plan], **OPTIONS[option])
        assert not races()
    # Rounding grows with the length of the sums: with M = 128 both are up to 6e-6 away from the reference in float64.
    tolerance = 5e-6 if arguments[0].features < 100 else 2e-5
    assert error(actual, results(*arguments, "reference", **OPTIONS[option])) < tolerance


@needs_pallas
@pytest.mark.slow
@pytest.mark.parametrize("name", ["2d", "2d-F", "2d, learned carry", "3d"])
def test_products_in_bfloat16(name):
    """The error relative to float32 is about as small as the reference's."""
    arguments, low = setup(name), setup(name, dtype=jnp.bfloat16)
    options = {"reset": RESET}
    exact = results(*arguments, "reference", **options)[1]
    by_jax = results(*low, "reference", **options)
    with interpreted():
        by_kernel = results(*low, CELL, **options)
    types = [jax.tree.map(lambda leaf: leaf.dtype, tree) for tree in (by_jax, by_kernel)]
    assert types[0] == types[1]

    def distance(gradients):
        one, other = (jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in (gradients, exact))
        return float(jnp.linalg.norm(one - other) / jnp.linalg.norm(other))

    assert distance(by_kernel[1]) < 1.5 * distance(by_jax[1]) < 0.15


@needs_pallas
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("place", ["remat", pytest.param("checkpoint", marks=pytest.mark.slow)])
def test_rematerialization(place):
    """With the option ``remat``, and with a user's jax.checkpoint in a scan over chunks of a sequence."""
    cfg, params, xs, state = setup("2d", steps=2, tensor_shape=(2,))

    def gradients(implementation):
        def loss(params, xs, state):
            if place == "remat":
                options = {"initial_state": state, "remat": 1, "implementation": implementation}
                last, ys = tl.unroll(params, xs, cfg, **options)
            else:
                call = functools.partial(tl.unroll, cfg=cfg, implementation=implementation)
                chunk = jax.checkpoint(lambda state, xs: call(params, xs, initial_state=state))
                last, ys = jax.lax.scan(chunk, state, jnp.stack([xs, 2 * xs]))
            return sum(jnp.vdot(leaf, normal(i, leaf.shape)) for i, leaf in enumerate([ys, *jax.tree.leaves(last)]))

        return jax.block_until_ready(jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(params, xs, state))

    with interpreted():
        actual = gradients(CELL)
    assert error(actual, gradients("reference")) < 5e-6


@needs_pallas
@pytest.mark.slow
@pytest.mark.parametrize("name", ["2d", "2d-M", "3d"])
def test_no_races(name):
    with interpreted(detect_races=True) as races:
        results(*setup(name, steps=2), CELL, reset=RESET[:, 1:])
        assert not races()


MUTANTS = {
    "one counter for all blocks, a race": ("common.steps[p, b] = t + 1", "common.steps[0, 0] = t + 1"),
    "copies before H is in shared memory": ("        _barrier()\n\n", "\n"),
    "no wait for the copies": ("        plgpu.wait_smem_to_gmem(0, wait_read_only=True)\n", ""),
    "patches of the wrong offset": (
        "_copy_part(s, source, refs.patches.at[place, b], k)",
        "_copy_part(s, source, refs.patches.at[place, b], s.cfg.num_offsets - 1 - k)",
    ),
    "kept patches of the wrong timestep": ("kept.patches.at[t + 1, place, b]", "kept.patches.at[t, place, b]"),
    "kept patches not zero outside": ("pl.when(is_zero[k] & ~is_last)", "pl.when(is_zero[k] & is_last)"),
    "a product without its first part": ("for n in range(s.parts[0])", "for n in range(1, s.parts[0])"),
    "the slots of dC not switched": ("refs.d_c[1 - parity,", "refs.d_c[parity,"),
    "a reset that keeps C": ("is_reset = common.reset[t, b] > 0", "is_reset = common.reset[t, b] > 1"),
    "a reset that keeps H": ("_select(common.reset[t + 1, b] > 0,", "_select(common.reset[t + 1, b] > 1,"),
    "dC through a reset": ("d_c, d_h = _keep(~is_reset, d_c), _keep", "d_c, d_h = d_c, _keep"),
    "cotangents of the state a timestep late": ("arrival.ends[b] == t + 1", "arrival.ends[b] == t"),
    "the mean over padded channels": ("total / s.cfg.features", "total / s.padded"),
    "no masks of padded channels": ("_channels(z) < s.cfg.features, z, 0.0", "_channels(z) < s.padded, z, 0.0"),
    "neighbours not pulled inside": ("np.clip(locations, 0, shape - 1)", "np.mod(locations, shape)"),
    "a neighbour's dC forgotten": ("range(geometry.pairs.shape[1])", "range(geometry.pairs.shape[1] - 1)"),
    "the gradient of the norm overwritten": ("ref[p, b, :] = total + d\n", "ref[p, b, :] = d\n"),
    "no bias of the gates": ("z + _part(s, common.bias, [()], n)", "z"),
    "no bias of the logits": ("z + common.bias[4 * s.stride + k]", "z"),
    "the output's derivative at every location": ("p == s.locations - 1, refs.d_ys", "p >= 0, refs.d_ys"),
    "the input at the wrong timestep": ("refs.xs[lax.min(t + 1,", "refs.xs[lax.min(t,"),
    "copies of the first channels alone": ("range(0, s.stride, BULK)", "range(0, 1, BULK)", "2d, M=260"),
}


def changed(monkeypatch, old, new, name="2d"):
    """The error of the kernels with another text in place of ``old``, and whether they have a race."""
    from tlstm_jax.fused import cell_kernel, geometry, mosaic

    (source,) = [source for source in map(inspect.getsource, (cell_kernel, geometry)) if old in source]
    assert source.count(old) == 1
    spec = importlib.util.spec_from_loader("mutant", loader=None)
    module = importlib.util.module_from_spec(spec)
    exec(compile(source.replace(old, new), "mutant", "exec"), module.__dict__)
    if hasattr(module, "forward_step"):
        monkeypatch.setattr(mosaic, "cell_kernel", module)
    else:
        monkeypatch.setattr(mosaic, "tables", module.tables)
    # Compiled functions are cached by configuration: no other test has this one.
    arguments = setup(name, norm_epsilon=1e-6 + 1e-13 * (zlib.crc32(f"{name} {old} {new}".encode()) % 10**6))
    options = {"seq_lengths": np.array([3, 2]), "reset": RESET}
    expected = results(*arguments, "reference", **options)
    with interpreted(detect_races=True) as races:
        actual = results(*arguments, CELL, **options)
        return error(actual, expected), races()


@needs_pallas
@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mistakes_are_noticed(mutant, monkeypatch):
    """Each of these changes to the kernels must fail the comparison, or be seen as a race.

    Barriers are the exception: in the interpreter a block is one thread, which waits for nobody. Only a GPU shows what
    a missing one does (``python -m benchmarks.cell_kernel``), except before copies, which read shared memory later.
    """
    if mutant == "no wait for the copies":
        with pytest.raises(Exception, match="Not all copy_smem_to_gmem read-side"):
            changed(monkeypatch, *MUTANTS[mutant])
        return
    worst, races = changed(monkeypatch, *MUTANTS[mutant])
    assert worst > 1e-4 or races


@needs_pallas
@pytest.mark.slow
@pytest.mark.parametrize("name", ["2d", "2d, M=260"])
def test_without_a_mistake_nothing_is_noticed(name, monkeypatch):
    worst, races = changed(monkeypatch, "def forward_step", "def forward_step", name)
    assert worst < 2e-5
    assert not races


SIZES = [
    ("2d", (4,), 100, 15),
    ("3d", (3, 3), 100, 50),
    ("3d", (10, 10), 100, 15),
    ("2d", (4,), 400, 15),
    ("2d", (4,), 300, 3),
]


@needs_pallas
@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape", "features", "batch"), SIZES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lowering_for_a_gpu(name, shape, features, batch, dtype):
    """Mosaic's own passes, at sizes that are used; without a plugin for CUDA they stop before making a cubin."""
    cfg = tl.TLSTMConfig(features, shape, dtype=jnp.dtype(dtype))
    params = jax.eval_shape(functools.partial(tl.init_params, in_features=R, cfg=cfg), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((batch, 20, R), jnp.float32)
    traced = jax.jit(jax.grad(lambda p, x: tl.unroll(p, x, cfg, implementation=CELL)[1].sum())).trace(params, xs)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("mosaic_gpu") >= 2


def test_what_is_not_covered_is_refused(monkeypatch):
    """The error message is one line that says what was given and what to do."""
    cfg, _, xs, _ = setup("2d")

    def run(xs=xs, **changes):
        changed = dataclasses.replace(cfg, **changes)
        shapes = jax.eval_shape(lambda: tl.init_params(jax.random.key(0), R, changed))
        return jax.eval_shape(lambda p, xs: tl.unroll(p, xs, changed, implementation=CELL), shapes, xs)

    if not LATER:
        with refused("got jax 0", "jax 0.11 or later"):
            run()
    monkeypatch.setattr(jax, "__version__", "0.11.0")
    with refused('got cell="rnn"', 'cell="lstm"'):
        run(cell="rnn")
    with refused('got norm="layer"', 'norm="channel" or None'):
        run(norm="layer")
    with refused("got features=513", "at most 512"):
        run(features=513)
    with refused("got float16", "float32 or bfloat16"):
        run(dtype=jnp.float16)
    with refused("got an empty batch", "at least one row"):
        run(xs[:0])
    with refused("got a mesh", "arrays on one device"):  # noqa: SIM117
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((2,), ("data",))):
            run()
    with refused("got symbolic ones", "fixed sizes"):
        (batch,) = export.symbolic_shape("b")
        run(jax.ShapeDtypeStruct((batch, *xs.shape[1:]), xs.dtype))
    monkeypatch.setattr(coverage, "compute_capability", lambda: 8.0)
    with refused("got 8.0", "compute capability 9.0"):
        run(norm_epsilon=2e-6)


def test_a_gpu_of_another_maker(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    devices = [types.SimpleNamespace(compute_capability=name) for name in ("gfx942", "gfx942")]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert coverage.environment_needs()[1][1:] == ("gfx942", False)
    devices[:] = [types.SimpleNamespace(compute_capability=name) for name in ("9.0", "10.0")]
    assert coverage.environment_needs()[1][1:] == ("9.0", True)


def test_the_parts_of_a_gradient():
    """They are equal, and as few as keep most multiprocessors busy; 15 at the sizes that were timed."""
    for length in (1, 60, 97, 1530, 76_500):
        for rows, columns in ((300, 416), (900, 416), (1200, 1616), (4608, 2064)):
            parts = geometry.parts_of_sum(length, rows, columns)
            assert 1 <= parts <= 16
            assert length % parts == 0
    assert geometry.parts_of_sum(97, 900, 416) == 1
    assert geometry.parts_of_sum(76_500, 900, 416) == geometry.parts_of_sum(89_100, 900, 416) == 15
    assert geometry.parts_of_sum(89_100, 4608, 2064) == 2  # 306 tiles each


def test_options():
    with refused("got 'triton'", 'kernel must be "mosaic", "xla" or None'):
        tl.Fused(kernel="triton")
    with refused('got "kept"', 'patches must be "built" or None'):
        tl.Fused(kernel="mosaic", patches="kept")
    cfg, params, xs, _ = setup("2d")
    run = functools.partial(tl.unroll, params, xs, cfg)
    same = [jax.jit(lambda f=f: run(implementation=f)).lower().as_text() for f in (tl.Fused(), tl.Fused(kernel="xla"))]
    assert same[0] == same[1]
