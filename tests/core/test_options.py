"""Options change no result; dtypes; transformations around the model."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlstm_jax as tl
from tests.core import reference
from tests.core.variants import R, T, close, model, random_arguments, setup

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize(
    ("options", "masked"),
    [
        ({"unroll": 3}, False),
        pytest.param({"remat": True}, True, marks=pytest.mark.slow),
        pytest.param({"remat": 3}, False, marks=pytest.mark.slow),
        pytest.param({"remat": 2, "unroll": 2}, True, marks=pytest.mark.slow),
        ({"remat": 100}, False),
    ],
)
def test_options_change_no_result(options, masked):
    close(value_and_gradients(masked, **options), value_and_gradients(masked))


@functools.cache
def value_and_gradients(masked, **options):
    cfg, params, xs, state = setup("2d", dtype="float64")
    sequences = {"seq_lengths": np.array([4, T]), "reset": np.arange(T) == np.array([[2], [5]])} if masked else {}

    def loss(params, xs, state):
        state, ys = tl.unroll(params, xs, cfg, initial_state=state, **sequences, **options)
        return (jnp.sin(ys)).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(state))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(params, xs, state)


@pytest.mark.parametrize(("implementation", "elsewhere"), [("auto", 8), ("reference", 1)])
def test_unroll_is_chosen_by_platform(implementation, elsewhere):
    cfg, params, xs, _ = setup("2d", dtype="float32")

    def trace(unroll):
        def loss(params):
            return tl.unroll(params, xs, cfg, unroll=unroll, implementation=implementation)[1].sum()

        return jax.jit(jax.grad(loss)).trace(params)

    def program(traced, platform):
        return traced.lower(lowering_platforms=(platform,)).as_text()

    chosen, one, several = map(trace, (None, 1, elsewhere))
    assert program(chosen, "cpu") == program(one, "cpu")
    assert program(chosen, "cuda") == program(several, "cuda")


def test_remat_saves_memory():
    cfg = tl.TLSTMConfig(features=16, tensor_shape=(4,))
    params, xs, _ = random_arguments(cfg, R, (8, 128))

    def temporary(**options):
        grad = jax.jit(jax.grad(lambda params: (tl.unroll(params, xs, cfg, **options)[1] ** 2).sum()))
        return grad.lower(params).compile().memory_analysis().temp_size_in_bytes

    assert temporary(remat=True) < 0.5 * temporary()
    assert temporary(remat=11) < 0.5 * temporary()


def scan_outputs(jaxpr):
    """Shapes of the results of every scan in a jaxpr, carries and stacked outputs, including nested scans."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            yield [var.aval.shape for var in eqn.outvars]
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from scan_outputs(inner)


def test_lengths_stack_no_history_of_the_state():
    cfg, params, xs, _ = setup("3d+CN")

    def run(xs, n):
        return tl.unroll(
            params, xs, cfg, seq_lengths=n, implementation="reference"
        )  # which "fused" also runs without a gradient

    scans = list(scan_outputs(jax.make_jaxpr(run)(xs, jnp.array([3, 4])).jaxpr))
    assert scans
    assert any((3, 3, 2, 4) in shapes for shapes in scans)  # the state, (*p, b, m)
    assert not any(len(shape) > 4 for shapes in scans for shape in shapes), scans  # not stacked over time


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param("3d+CN", marks=pytest.mark.slow), "2d-M", "trnn"])
def test_mixed_precision(name, dtype):
    cfg, params, xs, _ = setup(name, dtype="float32")
    low = model(name, dtype=dtype)
    state, ys = tl.unroll(params, xs, low)
    assert ys.dtype == state.h.dtype == dtype
    assert state.c is None or state.c.dtype == jnp.float32
    _, exact = tl.unroll(params, xs, cfg)
    np.testing.assert_allclose(ys.astype("float32"), exact, atol=0.1)
    gradients = jax.jit(jax.grad(lambda p: tl.unroll(p, xs, low)[1].astype("float32").sum()))(params)
    chex.assert_tree_all_finite(gradients)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))


def test_matrix_products_are_in_the_computation_dtype():
    cfg = model("3d+CN", dtype=jnp.bfloat16)
    _, params, xs, _ = setup("3d+CN", dtype="float32")

    def products(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                yield [var.aval.dtype for var in eqn.invars]
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from products(inner)

    found = list(products(jax.make_jaxpr(lambda p, x: tl.unroll(p, x, cfg))(params, xs).jaxpr))
    assert found
    assert all(dtype == jnp.bfloat16 for operands in found for dtype in operands)


def test_inputs_may_be_wider_than_the_parameters():
    cfg, params, xs, _ = setup("2d", dtype="float32")
    state, ys = tl.unroll(params, xs.astype("float64"), cfg)
    assert ys.dtype == state.h.dtype == state.c.dtype == jnp.float64


def test_under_vmap_checkpoint_and_scan():
    cfg, params, xs, _ = setup("3d+CN", batch_shape=(3, 2))
    lengths = jnp.array([[1, 2], [3, 4], [5, 7]])

    def run(xs, n):
        return tl.unroll(params, xs, cfg, seq_lengths=n)

    expected = run(xs, lengths)
    close(jax.vmap(run)(xs, lengths), expected)
    close(jax.jit(jax.checkpoint(run))(xs, lengths), expected)
    _, scanned = jax.lax.scan(lambda carry, row: (carry, run(*row)), None, (xs, lengths))
    close(scanned, expected)


def test_vmap_over_parameters():
    cfg, _, xs, _ = setup("2d")
    keys = jax.random.split(jax.random.key(0), 3)
    init = jax.jit(lambda key: tl.init_params(key, R, cfg))
    many = jax.jit(jax.vmap(init))(keys)
    ys = np.asarray(jax.vmap(lambda p: tl.unroll(p, xs, cfg)[1])(many))
    for i, key in enumerate(keys):
        close(ys[i], tl.unroll(init(key), xs, cfg)[1])


def dtypes():
    """All combinations of dtype, param_dtype and x_dtype; a third of them are not slow."""
    names = [None, "bfloat16", "float64"], ["bfloat16", "float32"], ["bfloat16", "float32", "float64"]
    for dtype, param_dtype, x_dtype in itertools.product(*names):
        fast = (names[0].index(dtype) + names[1].index(param_dtype) + names[2].index(x_dtype)) % 3 == 0
        yield pytest.param(dtype, param_dtype, x_dtype, marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize(("dtype", "param_dtype", "x_dtype"), list(dtypes()))
def test_step_and_unroll_compute_in_the_same_dtypes(dtype, param_dtype, x_dtype):
    cfg = model("2d", dtype=dtype, param_dtype=param_dtype)
    computation = jnp.dtype(dtype) if dtype else jnp.promote_types(param_dtype, x_dtype)
    params = random_arguments(cfg, R, (2, 3))[0]
    xs = np.random.default_rng(1).normal(size=(2, 3, R)).astype(x_dtype)
    for state in (tl.init_state(cfg, (2,)), tl.init_state(model("2d", param_dtype="float64"), (2,))):
        _, ys = tl.unroll(params, xs, cfg, initial_state=state, aligned=False)
        assert ys.dtype == computation
        for t in range(3):
            old, (state, y) = state, tl.step(params, state, xs[:, t], cfg)
            assert y.dtype == computation
            assert [leaf.dtype for leaf in jax.tree.leaves(state)] == [leaf.dtype for leaf in jax.tree.leaves(old)]
        if state.h.dtype == jnp.float64:  # no output is rounded to this dtype
            close(ys[:, -1].astype("float64"), y.astype("float64"), rtol=1e-2, atol=1e-2)


def test_unroll_inside_a_scan_keeps_dtypes():
    cfg, params, xs, _ = setup("2d", dtype="float32")
    chunks = jnp.moveaxis(xs[:, :6].reshape(2, 3, 2, R), 1, 0).astype("float64")
    step = lambda state, chunk: tl.unroll(params, chunk, cfg, initial_state=state)  # noqa: E731
    final, _ = jax.lax.scan(step, tl.init_state(cfg, (2,)), chunks)
    assert final.h.dtype == jnp.float32


def test_step_inside_a_scan_keeps_dtypes():
    """The carry of a user's scan keeps its dtypes, even where the inputs promote the outputs."""
    cfg, params, xs, _ = setup("2d", dtype="float32")
    inputs = jnp.moveaxis(xs, 1, 0).astype("float64")
    final, ys = jax.lax.scan(lambda s, x: tl.step(params, s, x, cfg), tl.init_state(cfg, (2,)), inputs)
    assert final.h.dtype == jnp.float32
    assert ys.dtype == jnp.float64


def test_the_cell_is_compiled_once():
    cfg, params, xs, state = setup("3d+CN")
    from tlstm_jax import unrolling

    unrolling._step.clear_cache()
    for _ in range(3):
        state, _ = tl.step(params, state, xs[:, 0], cfg)
    assert unrolling._step._cache_size() == 1


def test_forward_mode_and_second_order():
    cfg, params, xs, _ = setup("2d")

    def loss(xs):
        return (tl.unroll(params, xs, cfg, implementation="reference")[1] ** 2).sum()

    tangent = np.ones_like(xs)

    @jax.jit
    def derivatives(xs):
        return jax.jvp(loss, (xs,), (tangent,))[1], *jax.jvp(jax.grad(loss), (xs,), (tangent,))

    forward, gradient, curvature = jax.device_get(derivatives(xs))
    close(forward, (gradient * tangent).sum())
    assert np.isfinite(curvature).all()


def test_reference_agrees_on_lengths():
    """The package and the reference flush with zeros, on which outputs with layer normalization depend."""
    cfg, params, xs, _ = setup("3d+LN")
    numpy_params = jax.tree.map(np.asarray, params)
    ys = np.asarray(tl.unroll(params, xs, cfg, seq_lengths=np.array([3, 6]))[1])
    for row, n in enumerate((3, 6)):
        expected, _, _ = reference.run(numpy_params, np.asarray(xs[row, :n]), cfg)
        np.testing.assert_allclose(ys[row, :n], expected, rtol=1e-10, atol=1e-12)
