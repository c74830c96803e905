"""What must hold of the model whatever the numbers: separability, chunks, lengths, resets, options, transformations."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlstm_jax as tl
from tests import reference

pytestmark = pytest.mark.usefixtures("x64")
R, T = 3, 7
MODELS = {
    "2d": {"tensor_shape": (3,)},
    "2d-F": {"tensor_shape": (3,), "kernel_size": 2},
    "2d-M": {"tensor_shape": (3,), "memory_conv": False, "norm": None},
    "3d": {"tensor_shape": (2, 2), "norm": None},
    "3d+CN": {"tensor_shape": (3, 3)},
    "3d mixed": {"tensor_shape": (2, 4), "kernel_size": (3, 5)},
    "3d+LN": {"tensor_shape": (2, 2), "norm": "layer"},
    "trnn": {"tensor_shape": (3,), "cell": "rnn", "norm": None},
    "depth 1": {"tensor_shape": (1,)},
}
SEPARABLE = [name for name in MODELS if "LN" not in name]


def some(names, *fast):
    """All the names, those that are not among the fast ones as slow tests."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def model(name, **overrides):
    return tl.TLSTMConfig(**{"features": 4, **MODELS[name], **overrides})


@functools.cache
def setup(name, batch_shape=(2,), dtype="float64"):
    cfg = model(name, param_dtype=dtype)
    params = tl.init_params(jax.random.key(0), R, cfg)
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape, x.dtype), params)
    xs = jax.random.normal(jax.random.key(1), (*batch_shape, T, R), dtype)
    state = jax.tree.map(
        lambda z: 0.5 * jax.random.normal(jax.random.key(2), z.shape, z.dtype), tl.init_state(cfg, batch_shape)
    )
    return cfg, params, xs, state


def close(actual, expected, **kwargs):
    chex.assert_trees_all_close(actual, expected, **{"rtol": 1e-9, "atol": 1e-11, **kwargs})


# Geometry and parameters


@pytest.mark.parametrize("k", range(2, 8))
@pytest.mark.parametrize("p", range(1, 9))
def test_depth_is_how_far_information_travels(p, k):
    """Eq. 9 against walking: each timestep moves information floor(K/2) locations towards the output."""
    reached, steps = 0, 0
    while reached < p:
        reached, steps = reached + k // 2, steps + 1
    assert tl.TLSTMConfig(features=1, tensor_shape=(p,), kernel_size=k).depth == steps


@pytest.mark.parametrize(
    ("features", "tensor_shape", "kernel_size", "norm"),
    [(1120, (3,), 2, None), (901, (3,), 3, None), (522, (3, 3), 3, "channel"), (522, (4, 4), 3, "layer")],
)
def test_parameter_counts_of_the_paper(features, tensor_shape, kernel_size, norm):
    cfg = tl.TLSTMConfig(features, tensor_shape, kernel_size, norm=norm)
    shapes = jax.eval_shape(lambda key: tl.init_params(key, 205, cfg), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    m, k, locations = features, kernel_size ** len(tensor_shape), int(np.prod(tensor_shape))
    expected = 205 * m + m + k * m * (4 * m + k) + (4 * m + k) + (2 * locations * m if norm else 0)
    assert count == expected
    assert shapes["hidden"]["kernel"].size == pytest.approx(10e6, rel=0.03)


def test_width_costs_no_kernel_parameters():
    narrow, wide = (tl.init_params(jax.random.key(0), R, model("2d", tensor_shape=(p,), norm=None)) for p in (2, 9))
    chex.assert_trees_all_equal(narrow, wide)


@pytest.mark.parametrize("name", MODELS)
def test_initialization(name):
    cfg = model(name, features=64, forget_bias=2.5)
    params = tl.init_params(jax.random.key(0), 50, cfg)
    hidden, m = params["hidden"], cfg.features
    fan_in = m * cfg.num_offsets
    assert float(hidden["kernel"].std()) == pytest.approx(fan_in**-0.5, rel=0.05)
    assert float(params["input"]["kernel"].std()) == pytest.approx((2 / (50 + m)) ** 0.5, rel=0.05)
    bias = np.zeros(cfg.gate_features - m)
    if cfg.cell == "lstm":
        bias[m : 2 * m] = 2.5
    np.testing.assert_array_equal(hidden["bias"][m:], bias)
    assert 0.5 * fan_in**-0.5 < np.abs(hidden["bias"][:m]).max() <= fan_in**-0.5
    if cfg.norm is None:
        assert "norm" not in params
    else:
        chex.assert_trees_all_equal(
            params["norm"], {"scale": jnp.ones((*cfg.tensor_shape, m)), "bias": jnp.zeros((*cfg.tensor_shape, m))}
        )


@pytest.mark.parametrize("inputs", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tensor_shape", [(8,), (4, 4)])
def test_initial_gradients_do_not_explode(tensor_shape, inputs):
    """With zero biases memory cells start at exactly zero, where the norm's derivative is 1 / sqrt(epsilon)."""
    cfg = tl.TLSTMConfig(features=16, tensor_shape=tensor_shape, forget_bias=4.0)
    params = tl.init_params(jax.random.key(0), R, cfg)
    xs = inputs * jax.random.normal(jax.random.key(1), (4, 12, R))

    def largest_gradient(params):
        gradients = jax.grad(lambda params: tl.unroll(params, xs, cfg)[1].mean())(params)
        return max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(gradients))

    assert largest_gradient(params) < 10
    params["hidden"]["bias"] = params["hidden"]["bias"].at[:16].set(0)
    if tensor_shape == (8,) and inputs:
        assert largest_gradient(params) > 1e6  # what the initialization is there for


def test_configs_that_mean_the_same_are_equal():
    a = tl.TLSTMConfig(4, (3, 3), 3, dtype="bfloat16")
    b = tl.TLSTMConfig(np.int64(4), [3, 3], (3, 3), dtype=jnp.bfloat16, param_dtype=np.float32)
    assert a == b
    assert hash(a) == hash(b)
    assert tl.TLSTMConfig(4, (3, 3), dtype="float64") != tl.TLSTMConfig(4, (3, 3), dtype=None)


def test_state_of_the_trnn_has_no_memory():
    assert tl.init_state(model("trnn"), (2,)).c is None


# Separability


@pytest.mark.parametrize("name", some(SEPARABLE, "2d-M", "3d+CN", "3d mixed", "trnn"))
def test_separable(name):
    """The derivative d y_t / d x_s is exactly 0 for s > t and not for s <= t."""
    cfg, params, xs, _ = setup(name, batch_shape=())
    jacobian = jax.jacobian(lambda xs: tl.unroll(params, xs, cfg)[1])(xs)  # (t, m, s, r)
    seen = np.abs(jacobian).max((1, 3))
    for t, s in itertools.product(range(T), repeat=2):
        assert (seen[t, s] > 0) == (s <= t), (t, s)


@pytest.mark.parametrize("name", ["2d", "3d mixed", "depth 1"])
def test_an_input_reaches_its_output_in_exactly_depth_timesteps(name):
    cfg, params, xs, _ = setup(name, batch_shape=())
    jacobian = jax.jacobian(lambda xs: tl.unroll(params, xs, cfg, aligned=False)[1])(xs)
    seen = np.abs(jacobian).max((1, 3))
    for t, s in itertools.product(range(T), repeat=2):
        assert (seen[t, s] > 0) == (s <= t - (cfg.depth - 1)), (t, s)


@pytest.mark.parametrize("name", some(SEPARABLE, "2d-F", "2d-M", "3d+CN", "trnn"))
def test_what_follows_cannot_change_an_output(name):
    cfg, params, xs, _ = setup(name)
    _, whole = tl.unroll(params, xs, cfg)
    _, first = tl.unroll(params, xs[:, :4], cfg)
    close(first, whole[:, :4])


def test_layer_normalization_is_not_separable():
    """Its statistics span all locations: documented, and the reason why the paper prefers channel normalization."""
    cfg, params, xs, _ = setup("3d+LN", batch_shape=())
    jacobian = jax.jacobian(lambda xs: tl.unroll(params, xs, cfg)[1])(xs)
    assert np.abs(jacobian[0, :, 1]).max() > 0


# Sequences


@pytest.mark.parametrize(
    ("batch_shape", "time_major", "steps"),
    [((), False, T), ((2, 3), False, 0), ((2, 3), False, 1), ((2, 3), True, T), ((0,), False, T)],
)
@pytest.mark.parametrize("name", ["3d mixed", "trnn"])
def test_unroll_is_step_by_step(name, batch_shape, time_major, steps):
    cfg, params, _, _ = setup(name)
    xs = jax.random.normal(jax.random.key(1), (*batch_shape, steps, R))
    state, outputs = tl.init_state(cfg, batch_shape), []
    for t in range(steps + cfg.depth - 1):
        x = xs[..., t, :] if t < steps else jnp.zeros((*batch_shape, R))
        state, y = tl.step(params, state, x, cfg)
        outputs.append(y)
        if t == steps - 1:
            end = state
    if steps == 0:
        end = tl.init_state(cfg, batch_shape)
    for aligned, ys in ((True, outputs[cfg.depth - 1 :]), (False, outputs[:steps])):
        inputs = jnp.moveaxis(xs, -2, 0) if time_major else xs
        final, actual = tl.unroll(params, inputs, cfg, time_major=time_major, aligned=aligned)
        actual = jnp.moveaxis(actual, 0, -2) if time_major else actual
        expected = jnp.stack(ys, -2) if ys else jnp.zeros((*batch_shape, 0, 4))
        close(actual, expected)
        close(final, end)


@pytest.mark.parametrize("cut", [0, 2, T])
@pytest.mark.parametrize("name", some(MODELS, "2d", "3d+LN", "trnn"))
def test_chunks_chain(name, cut):
    """The state carries over exactly: unaligned outputs always, aligned ones where the model is separable."""
    cfg, params, xs, state = setup(name)
    for aligned in (False, True) if name in SEPARABLE else (False,):
        end, ys = tl.unroll(params, xs, cfg, initial_state=state, aligned=aligned)
        middle, first = tl.unroll(params, xs[:, :cut], cfg, initial_state=state, aligned=aligned)
        last, second = tl.unroll(params, xs[:, cut:], cfg, initial_state=middle, aligned=aligned)
        close(jnp.concatenate([first, second], 1), ys)
        close(last, end)


@pytest.mark.parametrize("aligned", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", some(MODELS, "2d-F", "3d+LN", "trnn"))
def test_lengths_are_each_row_alone(name, aligned):
    cfg, params, xs, state = setup(name, batch_shape=(2, 3))
    lengths = jnp.array([[0, 2, T], [T, 0, 2]])
    dirty = jnp.where(jnp.arange(T)[:, None] < lengths[..., None, None], xs, jnp.nan)  # what pads must not matter
    final, ys = tl.unroll(params, dirty, cfg, initial_state=state, seq_lengths=lengths, aligned=aligned)
    for at in np.ndindex(2, 3):
        n, row = int(lengths[at]), jax.tree.map(lambda z, at=at: z[at], state)
        alone, expected = tl.unroll(params, xs[at][:n], cfg, initial_state=row, aligned=aligned)
        close(ys[at][:n], expected)
        np.testing.assert_array_equal(ys[at][n:], 0)
        close(jax.tree.map(lambda z, at=at: z[at], final), alone)


@pytest.mark.parametrize("name", ["3d+CN", "3d+LN", "trnn"])
def test_gradients_do_not_see_padding(name):
    cfg, params, xs, _ = setup(name)
    lengths = jnp.array([2, 5])

    def loss(params, xs):
        state, ys = tl.unroll(params, xs, cfg, seq_lengths=lengths)
        return (ys**2).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(state))

    clean = jnp.where(jnp.arange(T)[:, None] < lengths[:, None, None], xs, 0)
    dirty = jnp.where(jnp.arange(T)[:, None] < lengths[:, None, None], xs, jnp.nan)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    expected, actual = gradients(params, clean), gradients(params, dirty)
    chex.assert_trees_all_equal(actual, expected)
    assert not np.any(actual[1][0, 2:])


@pytest.mark.parametrize("name", some(SEPARABLE, "2d-F", "3d mixed", "trnn", "depth 1"))
def test_reset_is_a_fresh_sequence(name):
    cfg, params, xs, state = setup(name)
    at = [[3, 6], [0]]  # resets of each row
    reset = np.zeros((2, T), bool)
    for row, times in enumerate(at):
        reset[row, times] = True
    final, ys = tl.unroll(params, xs, cfg, initial_state=state, reset=reset)
    _, raw = tl.unroll(params, xs, cfg, initial_state=state, reset=reset, aligned=False)
    for row, times in enumerate(at):
        edges = [0, *[t for t in times if t], T]
        for begin, end in itertools.pairwise(edges):
            start = None if reset[row, begin] else jax.tree.map(lambda z, row=row: z[row], state)
            alone, expected = tl.unroll(params, xs[row, begin:end], cfg, initial_state=start)
            arrived = end if end == T else max(end - (cfg.depth - 1), begin)  # the last answers are lost to the delay
            close(ys[row, begin:arrived], expected[: arrived - begin])
            np.testing.assert_array_equal(ys[row, arrived:end], 0)
            _, corner = tl.unroll(params, xs[row, begin:end], cfg, initial_state=start, aligned=False)
            close(raw[row, begin:end], corner)
        close(jax.tree.map(lambda z, row=row: z[row], final), alone)


def test_resets_in_the_padding_do_nothing():
    cfg, params, xs, _ = setup("3d+CN")
    lengths = jnp.array([3, 5])
    reset = jnp.arange(T) >= jnp.array([[3], [5]])
    chex.assert_trees_all_equal(
        tl.unroll(params, xs, cfg, seq_lengths=lengths, reset=reset), tl.unroll(params, xs, cfg, seq_lengths=lengths)
    )


@pytest.mark.parametrize("keep_order", [False, True])
@pytest.mark.parametrize("lengths", [None, (T, 4)])
def test_reverse(lengths, keep_order):
    cfg, params, xs, _ = setup("2d")
    given = None if lengths is None else jnp.array(lengths)
    final, ys = tl.unroll(params, xs, cfg, seq_lengths=given, reverse=True, keep_order=keep_order)
    for row, n in enumerate(lengths or (T, T)):
        alone, expected = tl.unroll(params, xs[row, :n][::-1], cfg)
        close(ys[row, :n], expected[::-1] if keep_order else expected)
        close(jax.tree.map(lambda z, row=row: z[row], final), alone)


def test_reverse_with_resets_runs_each_packed_sequence_backwards():
    cfg, params, xs, _ = setup("depth 1")
    reset = jnp.zeros((2, T), bool).at[:, 0].set(True).at[0, 3].set(True).at[1, 5].set(True)
    _, ys = tl.unroll(params, xs, cfg, reset=reset, reverse=True, keep_order=True)
    for row, cut in enumerate((3, 5)):
        for piece in (slice(0, cut), slice(cut, T)):
            _, expected = tl.unroll(params, xs[row, piece][::-1], cfg)
            close(ys[row, piece], expected[::-1])


# Options and transformations


@pytest.mark.parametrize(
    ("options", "masked"),
    [
        ({"unroll": 3}, False),
        ({"remat": True}, True),
        pytest.param({"remat": 3}, False, marks=pytest.mark.slow),
        pytest.param({"remat": 2, "unroll": 2}, True, marks=pytest.mark.slow),
        ({"remat": 100}, False),
    ],
)
def test_options_change_no_result(options, masked):
    cfg, params, xs, state = setup("2d", dtype="float64")
    sequences = {"seq_lengths": jnp.array([4, T]), "reset": jnp.arange(T) == jnp.array([[2], [5]])} if masked else {}

    def loss(params, xs, state, **options):
        state, ys = tl.unroll(params, xs, cfg, initial_state=state, **sequences, **options)
        return (jnp.sin(ys)).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(state))

    grad = jax.value_and_grad(loss, argnums=(0, 1, 2))
    close(grad(params, xs, state, **options), grad(params, xs, state))


def test_remat_saves_memory():
    cfg = tl.TLSTMConfig(features=16, tensor_shape=(4,))
    params, xs = tl.init_params(jax.random.key(0), R, cfg), jnp.ones((8, 128, R))

    def temporary(**options):
        grad = jax.jit(jax.grad(lambda params: (tl.unroll(params, xs, cfg, **options)[1] ** 2).sum()))
        return grad.lower(params).compile().memory_analysis().temp_size_in_bytes

    assert temporary(remat=True) < 0.5 * temporary()
    assert temporary(remat=11) < 0.5 * temporary()


def scan_outputs(jaxpr):
    """Shapes of what every scan in a jaxpr returns, last carries and stacked outputs, nested scans included."""
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
        return tl.unroll(params, xs, cfg, seq_lengths=n, implementation="reference")  # what both do without a gradient

    scans = list(scan_outputs(jax.make_jaxpr(run)(xs, jnp.array([3, 4])).jaxpr))
    assert scans
    assert any((3, 3, 2, 4) in shapes for shapes in scans)  # the state, (*p, b, m)
    assert not any(len(shape) > 4 for shapes in scans for shape in shapes), scans  # and no stack of it


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["3d+CN", "2d-M", "trnn"])
def test_mixed_precision(name, dtype):
    cfg, params, xs, _ = setup(name, dtype="float32")
    low = model(name, dtype=dtype)
    state, ys = tl.unroll(params, xs, low)
    assert ys.dtype == state.h.dtype == dtype
    assert state.c is None or state.c.dtype == jnp.float32
    _, exact = tl.unroll(params, xs, cfg)
    np.testing.assert_allclose(ys.astype("float32"), exact, atol=0.1)
    gradients = jax.grad(lambda p: tl.unroll(p, xs, low)[1].astype("float32").sum())(params)
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
    many = jax.vmap(lambda key: tl.init_params(key, R, cfg))(keys)
    _, ys = jax.vmap(lambda p: tl.unroll(p, xs, cfg))(many)
    for i, key in enumerate(keys):
        close(ys[i], tl.unroll(tl.init_params(key, R, cfg), xs, cfg)[1])


def dtypes():
    """Every x_dtype with every dtype and param_dtype; by default two of each dtype."""
    names = [None, "bfloat16", "float64"], ["bfloat16", "float32"], ["bfloat16", "float32", "float64"]
    for dtype, param_dtype, x_dtype in itertools.product(*names):
        fast = (names[0].index(dtype) + names[1].index(param_dtype) + names[2].index(x_dtype)) % 3 == 0
        yield pytest.param(dtype, param_dtype, x_dtype, marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize(("dtype", "param_dtype", "x_dtype"), list(dtypes()))
def test_step_and_unroll_compute_in_the_same_dtypes(dtype, param_dtype, x_dtype):
    cfg = model("2d", dtype=dtype, param_dtype=param_dtype)
    computation = jnp.dtype(dtype) if dtype else jnp.promote_types(param_dtype, x_dtype)
    params = tl.init_params(jax.random.key(0), R, cfg)
    xs = jax.random.normal(jax.random.key(1), (2, 3, R), x_dtype)
    for state in (tl.init_state(cfg, (2,)), tl.init_state(model("2d", param_dtype="float64"), (2,))):
        _, ys = tl.unroll(params, xs, cfg, initial_state=state, aligned=False)
        assert ys.dtype == computation
        for t in range(3):
            old, (state, y) = state, tl.step(params, state, xs[:, t], cfg)
            assert y.dtype == computation
            assert [leaf.dtype for leaf in jax.tree.leaves(state)] == [leaf.dtype for leaf in jax.tree.leaves(old)]
        if state.h.dtype == jnp.float64:  # wide enough to carry anything unrounded
            close(ys[:, -1].astype("float64"), y.astype("float64"), rtol=1e-2, atol=1e-2)


def test_unroll_inside_a_scan_keeps_dtypes():
    cfg, params, xs, _ = setup("2d", dtype="float32")
    chunks = jnp.moveaxis(xs[:, :6].reshape(2, 3, 2, R), 1, 0).astype("float64")
    step = lambda state, chunk: tl.unroll(params, chunk, cfg, initial_state=state)  # noqa: E731
    final, _ = jax.lax.scan(step, tl.init_state(cfg, (2,)), chunks)
    assert final.h.dtype == jnp.float32


def test_step_inside_a_scan_keeps_dtypes():
    """The carry of a user's own scan must not change its type, even where inputs promote the outputs."""
    cfg, params, xs, _ = setup("2d", dtype="float32")
    inputs = jnp.moveaxis(xs, 1, 0).astype("float64")
    final, ys = jax.lax.scan(lambda s, x: tl.step(params, s, x, cfg), tl.init_state(cfg, (2,)), inputs)
    assert final.h.dtype == jnp.float32
    assert ys.dtype == jnp.float64


def test_the_cell_is_compiled_once():
    cfg, params, xs, state = setup("3d+CN")
    from tlstm_jax import cell

    cell._step.clear_cache()
    for _ in range(3):
        state, _ = tl.step(params, state, xs[:, 0], cfg)
    assert cell._step._cache_size() == 1


def test_forward_mode_and_second_order():
    cfg, params, xs, _ = setup("2d")

    def loss(xs):
        return (tl.unroll(params, xs, cfg, implementation="reference")[1] ** 2).sum()

    tangent = jnp.ones_like(xs)
    _, forward = jax.jvp(loss, (xs,), (tangent,))
    close(forward, (jax.grad(loss)(xs) * tangent).sum())
    _, curvature = jax.jvp(jax.grad(loss), (xs,), (tangent,))
    assert np.isfinite(curvature).all()


def test_reference_agrees_on_lengths():
    """The flush of the package is the reference's: zeros, so that even layer normalization is well defined."""
    cfg, params, xs, _ = setup("3d+LN")
    numpy_params = jax.tree.map(np.asarray, params)
    _, ys = tl.unroll(params, xs, cfg, seq_lengths=jnp.array([3, 6]))
    for row, n in enumerate((3, 6)):
        expected, _, _ = reference.run(numpy_params, np.asarray(xs[row, :n]), cfg)
        np.testing.assert_allclose(ys[row, :n], expected, rtol=1e-10, atol=1e-12)
