"""Exported programs: any batch size, with gradients, and running without this package."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import tlstm_jax as tl
from tests.core.variants import R, T, close, model, refused, setup
from tlstm_jax import stacked


def shapes(*rest):
    """The shapes of arrays with a symbolic batch size."""
    (batch,) = export.symbolic_shape("b")
    return [jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for shape in rest]


@pytest.mark.parametrize("name", ["2d", "3d+CN"])
@pytest.mark.slow
def test_an_unroll_at_any_batch_size_with_its_gradient(name):
    cfg, params, _, _ = setup(name, dtype="float32")

    def run(xs):
        return tl.unroll(params, xs, cfg)[1]

    exported = export.export(jax.jit(run), platforms=("cpu", "cuda", "tpu"))(*shapes((T, R)))
    call = export.deserialize(exported.serialize(vjp_order=1)).call
    for batch in (1, 3):
        xs = jax.random.normal(jax.random.key(batch), (batch, T, R))
        close(call(xs), run(xs), rtol=1e-5, atol=1e-6)
        gradients = [jax.grad(lambda xs, f=f: (f(xs) ** 2).sum())(xs) for f in (call, run)]
        close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_any_number_of_timesteps():
    cfg = model("2d")
    params = tl.init_params(jax.random.key(0), R, cfg)
    batch, steps = export.symbolic_shape("b, t")
    shape = jax.ShapeDtypeStruct((batch, steps, R), jnp.float32)

    def run(xs, **options):
        return tl.unroll(params, xs, cfg, **options)

    def gradient(xs, **options):
        return jax.grad(lambda xs: (run(xs, **options)[1] ** 2).sum())(xs)

    def both(xs):
        lengths = jnp.minimum(xs.shape[1], jnp.arange(xs.shape[0]))
        reset = jnp.zeros(xs.shape[:2], bool).at[:, -1].set(True)
        reverse = run(xs, reverse=True, keep_order=True, seq_lengths=lengths, reset=reset)
        return run(xs), reverse, gradient(xs, remat=2), gradient(xs, implementation="reference")

    fixed = export.export(jax.jit(lambda xs: run(xs, seq_lengths=jnp.array([9, 2]))))(
        jax.ShapeDtypeStruct((2, steps, R), jnp.float32)
    )
    xs = jax.random.normal(jax.random.key(1), (2, 5, R))
    close(fixed.call(xs), run(xs, seq_lengths=jnp.array([5, 2])), rtol=1e-4, atol=1e-5)
    close(export.export(jax.jit(both))(shape).call(xs), jax.jit(both)(xs), rtol=1e-4, atol=1e-5)
    for implementation in ("auto", tl.Fused("states", 2, 16, "built")):
        with refused("got a symbolic one", 'batch dimensions may be symbolic.*implementation="reference"'):
            export.export(jax.jit(lambda xs, i=implementation: gradient(xs, implementation=i)))(shape)


def test_lengths_that_are_known_where_the_number_of_timesteps_is_not():
    cfg = model("2d")
    params = tl.init_params(jax.random.key(0), R, cfg)
    xs = jax.random.normal(jax.random.key(1), (3, 5, R))

    def exported(lengths):
        run = jax.jit(lambda xs: tl.unroll(params, xs, cfg, seq_lengths=np.array(lengths))[0])
        return export.export(run)(jax.ShapeDtypeStruct((3, *export.symbolic_shape("t"), R), jnp.float32))

    expected = tl.unroll(params, xs, cfg, seq_lengths=np.array([5, 2, 0]))[0]
    close(exported([2**32 + 1, 2, 0]).call(xs), expected, rtol=1e-5, atol=1e-6)
    with refused("got -1", "seq_lengths must lie in 0..T"):
        exported([-1, 2, 0])


@pytest.mark.parametrize("implementation", ["auto", "reference", "stacked"])
def test_several_timesteps_in_an_iteration_need_a_fixed_number(implementation):
    steps = export.symbolic_shape("t")[0]
    cfg = stacked.StackedLSTMConfig(4, 2) if implementation == "stacked" else model("2d")
    module, options = (stacked, {}) if implementation == "stacked" else (tl, {"implementation": implementation})
    params = module.init_params(jax.random.key(0), R, cfg)
    xs = jax.random.normal(jax.random.key(1), (5, R))

    def exported(**more):
        run = jax.jit(lambda xs: module.unroll(params, xs, cfg, **options, **more)[1])
        return export.export(run)(jax.ShapeDtypeStruct((steps, R), jnp.float32))

    for unroll in (4, True):
        with refused(f"unroll={unroll} .*got a symbolic one, t", "fixed number of timesteps.*unroll=1 or None"):
            exported(unroll=unroll)
    expected = module.unroll(params, xs, cfg, **options)[1]
    for more in ({"unroll": 1}, {"unroll": False}, {"unroll": 2, "remat": 2}, {"unroll": True, "remat": 2}):
        close(exported(**more).call(xs), expected, rtol=1e-5, atol=1e-6)


def test_a_streaming_step_runs_without_this_package(tmp_path):
    cfg = model("2d")
    params = tl.init_params(jax.random.key(0), R, cfg)

    def streaming(c, h, x):
        state, y = tl.step(params, tl.TLSTMState(c, h), x, cfg)
        return *state, y

    artifact = export.export(jax.jit(streaming))(*shapes((3, 4), (3, 4), (R,))).serialize()
    (tmp_path / "step").write_bytes(artifact)
    xs = jax.random.normal(jax.random.key(1), (5, 9, R))
    np.save(tmp_path / "xs.npy", xs)
    program = """
        import sys
        sys.modules["tlstm_jax"] = sys.modules["flax"] = None
        import jax.numpy as jnp, numpy as np
        from jax import export
        step = export.deserialize(bytearray(open("step", "rb").read())).call
        c = h = jnp.zeros((5, 3, 4))
        outputs = []
        for x in np.load("xs.npy").swapaxes(0, 1):
            c, h, y = step(c, h, x)
            outputs.append(y)
        np.save("ys.npy", np.stack(outputs, 1))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, check=True)
    expected = tl.unroll(params, xs, cfg, aligned=False)[1]
    close(np.load(tmp_path / "ys.npy"), expected, rtol=1e-4, atol=1e-5)  # summed in another order
