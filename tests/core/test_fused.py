"""The derivative of the fused implementation against JAX's derivative of the plain scan, in float64, to 1e-10."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import tlstm_jax as tl
from tests.core.variants import random_arguments, results
from tlstm_jax import cell, convolution, normalization, parameters
from tlstm_jax.fused import memory
from tlstm_jax.fused.hidden import HiddenConvolution

B, T, R = 2, 5, 3
MODELS = {
    "2d": {"tensor_shape": (3,)},
    "2d-F": {"tensor_shape": (3,), "kernel_size": 2, "norm": None},
    "2d-M": {"tensor_shape": (3,), "memory_conv": False},
    "2d+LN, K=4": {"tensor_shape": (3,), "kernel_size": 4, "norm": "layer"},
    "2d, K=5": {"tensor_shape": (4,), "kernel_size": 5},
    "3d": {"tensor_shape": (2, 2)},
    "3d mixed": {"tensor_shape": (2, 4), "kernel_size": (3, 5), "norm": None},
    "3d, farther than P": {"tensor_shape": (2, 2), "kernel_size": 4, "norm": None},
    "3d, depth 1": {"tensor_shape": (1, 1), "memory_conv": False},
    "4d": {"tensor_shape": (2, 2, 2), "kernel_size": (2, 3, 2)},
    "trnn": {"tensor_shape": (3,), "cell": "rnn"},
    "3d trnn+LN": {"tensor_shape": (2, 2), "cell": "rnn", "norm": "layer"},
    "trnn without norm": {"tensor_shape": (3,), "kernel_size": 2, "cell": "rnn", "norm": None},
    "depth 1": {"tensor_shape": (1,)},
    "2d, learned carry": {"tensor_shape": (3,), "learn_carry": True},
}
SLOW = ("2d+LN, K=4", "3d mixed", "3d, depth 1", "4d", "trnn without norm", "depth 1")
RESET = np.random.default_rng(1).random((B, T)) < 0.4
OPTIONS = {
    "aligned": {},
    "not aligned": {"aligned": False},
    "lengths": {"seq_lengths": np.array([3, 0])},
    "lengths, not aligned": {"seq_lengths": np.array([5, 2]), "aligned": False},
    "reset": {"reset": RESET},
    "lengths and reset": {"seq_lengths": np.array([5, 2]), "reset": RESET},
    "reverse": {"reverse": True, "keep_order": True, "seq_lengths": np.array([5, 2]), "reset": RESET},
    "remat": {"remat": 2, "seq_lengths": np.array([5, 2]), "reset": RESET},
    "remat every timestep": {"remat": True, "unroll": 2},
}
PLANS = {
    "auto": "auto",
    "gates, 2 at a time": tl.Fused("gates", 2, 4),
    "gates, built": tl.Fused("gates", 1, 1, "built"),
    "states": tl.Fused("states", 1, 1, "kept"),
    "states, 3 at a time": tl.Fused("states", 3, 16),
    "states, all": tl.Fused("states", 100, 16, "built"),
}


def slow(*values):
    """Parameters of slow tests."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@functools.cache
def setup(name, dtype="float64", steps=T):
    cfg = tl.TLSTMConfig(features=4, param_dtype=jnp.dtype(dtype), **MODELS[name])
    return cfg, *random_arguments(cfg, R, (B, steps))


def close(actual, expected, tolerance=1e-10):
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        scale = max(np.abs(other).max(initial=0), 1e-3)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


def matrix():
    """Every model with every option and every plan; by default a Latin square of them."""
    for i, model in enumerate(MODELS):
        for j, option in enumerate(OPTIONS):
            for k, plan in enumerate(PLANS):
                fast = (i + j) % len(OPTIONS) == 0 and (i + k) % len(PLANS) == 0 and model not in SLOW
                yield pytest.param(model, option, plan, marks=() if fast else pytest.mark.slow)


@functools.lru_cache(maxsize=4)
def by_reference(name, option):
    """The reference's results, computed once for all plans."""
    return results(*setup(name), "reference", **OPTIONS[option])


@pytest.mark.parametrize(("name", "option", "plan"), list(matrix()))
def test_equals_the_reference(x64, name, option, plan):
    close(results(*setup(name), PLANS[plan], **OPTIONS[option]), by_reference(name, option))


@pytest.mark.parametrize("plan", ["auto", *slow("states, all", "gates, 2 at a time")])
def test_a_reset_to_the_learned_carry_in_bfloat16(plan):
    cfg, params, xs, _ = setup("2d, learned carry", "float32")
    low = dataclasses.replace(cfg, dtype=jnp.bfloat16, norm=None)
    params = {name: group for name, group in params.items() if name != "norm"}
    actual, expected = (results(low, params, xs, None, impl, reset=RESET) for impl in (PLANS[plan], "reference"))
    close(actual, expected, tolerance=0.1)


def test_every_equation_is_a_named_scope():
    cfg, params, xs, _ = setup("2d", "float32")
    names = "eq5_project_input eq14_hidden_convolution eq15_gates eq17_memory_convolution eq18_memory_cell eq20_norm"
    for implementation in ("auto", "reference"):
        gradient = jax.grad(lambda p: tl.unroll(p, xs, cfg, implementation=implementation)[1].sum())  # noqa: B023
        program = jax.jit(gradient).lower(params).as_text(debug_info=True)
        for name in (*names.split(), "eq19_hidden_state", "eq8_output"):
            assert name in program, (implementation, name)


@pytest.mark.parametrize("plan", ["auto", *slow("states, all", "states, 3 at a time")])
def test_a_reset_returns_to_the_learned_carry(x64, plan):
    """Its gradient comes from the start and from every reset."""
    cfg, params, xs, _ = setup("2d, learned carry")
    actual, expected = (
        results(cfg, params, xs, None, implementation, reset=RESET) for implementation in (PLANS[plan], "reference")
    )
    close(actual, expected)
    start = results(cfg, params, xs, None, "auto")
    to_start, to_both = (np.asarray(gradients[0]["carry"]["h"]) for _, gradients in (start, actual))
    assert np.abs(to_both - to_start).max() > 1e-3
    where = int(np.flatnonzero(RESET[0])[-1])  # from there on row 0 is a separate sequence
    ys = tl.unroll(params, xs[:1], cfg, reset=RESET[:1], implementation=PLANS[plan])[1]
    close(ys[:, where:], tl.unroll(params, xs[:1, where:], cfg)[1])


@pytest.mark.parametrize(
    ("dtype", "plan"),
    [
        ("bfloat16", "auto"),
        pytest.param("float16", "states, all", marks=pytest.mark.slow),
        pytest.param("bfloat16", "states, all", marks=pytest.mark.slow),
        pytest.param("float16", "auto", marks=pytest.mark.slow),
    ],
)
def test_mixed_precision(dtype, plan):
    """Parameters and gradients in float32, matrix products in 16 bits: the error is about that of the reference."""
    cfg, params, xs, state = setup("2d-F", "float32")  # a norm over four channels would magnify every rounding
    exact = results(cfg, params, xs, state, "reference")
    low = tl.TLSTMConfig(features=4, dtype=jnp.dtype(dtype), **MODELS["2d-F"])
    by_hand, by_jax = (results(low, params, xs, state, plan) for plan in (PLANS[plan], "reference"))
    types = jax.tree.map(lambda leaf: leaf.dtype, by_jax)
    assert jax.tree.map(lambda leaf: leaf.dtype, by_hand) == types

    def error(results):
        actual, expected = (jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(r[1])]) for r in (results, exact))
        return float(jnp.linalg.norm(actual - expected) / jnp.linalg.norm(expected))

    assert error(by_hand) < 1.5 * error(by_jax) < 0.1


@pytest.mark.parametrize("option", [*slow("aligned", "not aligned"), "remat"])
def test_no_timesteps(x64, option):
    cfg, params, xs, state = setup("2d", steps=0)
    options = {
        **OPTIONS[option],
        **({"seq_lengths": np.array([0, 0]), "reset": RESET[:, :0]} if "remat" in option else {}),
    }
    close(results(cfg, params, xs, state, "auto", **options), results(cfg, params, xs, state, "reference", **options))


@pytest.mark.parametrize("all_pairs", [True, False])
@pytest.mark.parametrize("name", ["2d", "2d, K=5", "3d mixed", "4d"])
def test_the_memory_convolution_and_its_transpose(x64, name, all_pairs):
    """Folded weights on shifts along the list of locations equal eq. 17 on C padded by replication, as do gradients."""
    cfg = setup(name)[0]
    shape = (*cfg.tensor_shape, B, cfg.features)
    rng = np.random.default_rng(0)
    c, z, logits = (rng.normal(size=(*shape[:-1], size)) for size in (cfg.features, cfg.features, cfg.num_offsets))

    @functools.partial(jax.jit, static_argnums=0)
    def run(convolve, logits, c, z):
        q = cell.softmax(jnp.split(logits, cfg.num_offsets, axis=-1))
        mixed, transpose = jax.vjp(convolve, q, c)
        return mixed, transpose(z)

    fused = functools.partial(memory.memory_convolution, cfg, all_pairs)
    close(run(fused, logits, c, z), run(lambda q, c: cell.mix(q, convolution.neighbours(c, cfg)), logits, c, z))


@pytest.mark.parametrize("norm", ["channel", "layer"])
def test_given_derivatives_are_those_of_the_equations(x64, norm):
    """The norm has a ``custom_jvp``: first and second derivatives against finite differences."""
    mean = normalization.mean_of(tl.TLSTMConfig(features=4, tensor_shape=(2,), norm=norm))
    z = np.random.default_rng(0).normal(size=(2, 3, 4))
    check_grads(jax.jit(lambda z: normalization.standardize(z, mean, 1e-3)), (z,), order=2)


def test_the_given_derivative_of_softmax(x64):
    """Softmax has a ``custom_jvp`` too."""
    z = np.random.default_rng(0).normal(size=(2, 3, 4))
    check_grads(jax.jit(lambda z: cell.softmax(jnp.split(z, 4, axis=-1))), (z,), order=2)


def with_peepholes(monkeypatch):
    """Adds peephole connections: I and F see C_{t-1}, O sees C_t; code outside ``cell.pointwise`` does not change."""
    shape = parameters.TLSTMConfig.param_shapes
    groups = parameters.param_groups

    def param_shapes(cfg, in_features):
        one = (*cfg.tensor_shape, cfg.features)
        return {**shape(cfg, in_features), "peephole": {"i": one, "f": one, "o": one}}

    def with_peephole(cfg, *arguments):
        def init(key, in_features):
            sizes = param_shapes(cfg, in_features)["peephole"]
            keys = jax.random.split(key, len(sizes))
            return {
                name: jax.random.normal(k, size, cfg.param_dtype)
                for k, (name, size) in zip(keys, sizes.items(), strict=True)
            }

        return {**groups(cfg, *arguments), "peephole": init}

    def pointwise(a, neighbours, params, cfg, *, mix=cell.mix, mean):
        weights = params["peephole"]
        a_g, a_i, a_f, a_o, *logits = a
        mixed = mix(cell.softmax(logits), neighbours)
        i, f = jax.nn.sigmoid(a_i + weights["i"] * mixed), jax.nn.sigmoid(a_f + weights["f"] * mixed)
        c = jnp.tanh(a_g) * i + mixed * f
        o = jax.nn.sigmoid(a_o + weights["o"] * c)
        return c, jnp.tanh(cell.norm(params, c, cfg, mean)) * o

    monkeypatch.setattr(parameters.TLSTMConfig, "param_shapes", param_shapes)
    monkeypatch.setattr(parameters, "param_groups", with_peephole)
    monkeypatch.setattr(cell, "pointwise", pointwise)


def test_a_term_added_to_the_cell_needs_no_derivative_of_its_own(x64, monkeypatch):
    """A peephole, written in ``cell.pointwise`` with its own parameter group, has correct fused gradients."""
    xs, state = setup("2d")[2:]  # cached: its parameters must be made before peepholes are added
    with_peepholes(monkeypatch)
    # Compiled functions are cached by configuration: no other test has this one, or would get peepholes too.
    cfg = tl.TLSTMConfig(features=4, tensor_shape=(3,), param_dtype=jnp.float64, norm_epsilon=1.23e-6)
    params = jax.jit(lambda key: tl.init_params(key, R, cfg))(jax.random.key(0))
    expected = results(cfg, params, xs, state, "reference", reset=RESET)
    for plan in ("auto", "states, 3 at a time", "states, all"):
        close(results(cfg, params, xs, state, PLANS[plan], reset=RESET), expected)
    gradient = expected[1][0]["peephole"]
    assert all(jnp.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("plan", ["auto", "states, all", "states, 3 at a time"])
def test_one_loop_forward_and_one_backward(plan):
    """The flush and a remainder are part of the same loops, forward only and in training."""
    cfg, params, xs, _ = setup("2d", "float32", steps=7)

    def loops(function):
        program = jax.jit(function).lower(params, xs).compile().as_text()
        return len(re.findall(r" while\(", program)) - program.count("wide.while")

    def loss(params, xs):
        return tl.unroll(params, xs, cfg, implementation=PLANS[plan])[1].sum()

    nested = plan == "states, 3 at a time"  # the timesteps of a chunk, inside the loop over chunks
    assert loops(loss) == 1
    assert loops(jax.grad(loss, (0, 1))) == 2 + nested


def test_kept_patches_spare_the_products_with_padding():
    """With P x P locations and a kernel of 3, they save 2 / 3 P of all factors, less the products of the input."""
    p, batch = 3, 8
    cfg = tl.TLSTMConfig(features=64, tensor_shape=(p, p))
    matrix, bias = jnp.zeros((cfg.num_offsets * cfg.features, cfg.gate_features)), jnp.zeros(cfg.gate_features)
    h, x = jnp.zeros((p, p, batch, cfg.features)), jnp.zeros((batch, cfg.features))

    def operations(kept):
        """The FLOP of the convolution, its transpose and the kernel's gradient."""
        products = HiddenConvolution(cfg, kept)
        kernels = products.kernels(matrix, align=1)
        columns = products.build(h, x, kernels)
        a = products.preactivations(kernels, bias, columns, x)
        calls = [
            (products.preactivations, kernels, bias, columns, x),
            (products.transpose, tuple(kernel.T for kernel in kernels), a),
            (lambda *arrays: products.gradient(*arrays, jnp.float32), columns[None], x[None], a[None]),
        ]
        return [jax.jit(f).lower(*arguments).cost_analysis()["flops"] for f, *arguments in calls]

    spared = cfg.num_offsets * p * p * 2 / (3 * p) - len(cfg.input_taps)
    expected = 2 * spared * batch * cfg.features * cfg.gate_features
    differences = np.subtract(operations(kept=False), operations(kept=True))
    np.testing.assert_allclose(differences, [expected] * 3, rtol=0.05)


def second_order(implementation):
    cfg, params, xs, _ = setup("2d")

    def loss(bias):
        hidden = {**params["hidden"], "bias": bias}
        return (tl.unroll({**params, "hidden": hidden}, xs, cfg, implementation=implementation)[1] ** 2).sum()

    return loss, params["hidden"]["bias"]


@pytest.mark.slow
@pytest.mark.parametrize("hessian", [jax.hessian, lambda f: jax.jacrev(jax.grad(f))], ids=["hessian", "jacrev of grad"])
def test_second_derivatives(x64, hessian):
    """The custom derivative can itself be differentiated."""
    loss, bias = second_order("auto")
    expected = jax.hessian(second_order("reference")[0])(bias)
    close(hessian(loss)(bias), expected)


FORWARD = {
    "jvp": lambda f, x: jax.jvp(f, (x,), (x,)),
    "jvp in jit": lambda f, x: jax.jit(lambda x: jax.jvp(f, (x,), (x,)))(x),
    "jacfwd": lambda f, x: jax.jacfwd(f)(x),
    "linearize": lambda f, x: jax.linearize(f, x)[1](x),
    "forward over forward": lambda f, x: jax.jacfwd(jax.jacfwd(f))(x),
}


@pytest.mark.parametrize(
    "mode", [m if m in ("jvp in jit", "jacfwd") else pytest.param(m, marks=pytest.mark.slow) for m in FORWARD]
)
def test_forward_mode_error_suggests_the_reference(x64, mode):
    loss, bias = second_order("auto")
    with pytest.raises(ValueError, match='pass implementation="reference"'):
        FORWARD[mode](loss, bias)
    FORWARD[mode](*second_order("reference"))


@pytest.mark.parametrize("plan", ["auto", *slow("states, all")])
def test_under_transformations(x64, plan):
    """vmap, checkpoint and scan, in and around a gradient."""
    cfg, params, xs, _ = setup("2d")

    def loss(params, x, implementation):
        return (tl.unroll(params, x, cfg, implementation=implementation)[1] ** 2).sum()

    def gradients(implementation):
        f = functools.partial(loss, implementation=implementation)

        def of_mapped_outputs(params):
            return (jax.vmap(lambda x: tl.unroll(params, x, cfg, implementation=implementation)[1])(xs) ** 2).sum()

        def chunks(params):
            return jax.lax.scan(lambda total, x: (total + jax.checkpoint(f)(params, x), None), 0.0, xs)[0]

        yield jax.grad(lambda params: jax.vmap(jax.jit(f), (None, 0))(params, xs).sum())(params)
        yield jax.tree.map(lambda g: g.sum(0), jax.vmap(jax.grad(f), (None, 0))(params, xs))
        yield jax.jit(jax.grad(chunks))(params)
        yield jax.jit(jax.grad(of_mapped_outputs))(params)

    expected = jax.grad(loss)(params, xs, "reference")
    for gradient in gradients(PLANS[plan]):
        close(gradient, expected)


def test_the_platform_decides():
    """Each platform has its own program: one compiled for a CPU contains nothing of the GPU's."""
    cfg, params, xs, _ = setup("2d", "float32")

    def gradient(implementation):
        return jax.jit(jax.grad(lambda p: tl.unroll(p, xs, cfg, implementation=implementation)[1].sum()))

    def size(implementation):
        return gradient(implementation).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert size("auto") == size("fused") == size(tl.Fused("gates", 1, 16)) < size("reference")
    assert size(tl.Fused("states")) != size("auto")


def test_residuals_are_neither_copied_nor_literals():
    cfg = tl.TLSTMConfig(features=64, tensor_shape=(4,))  # XLA does copy small arrays, which costs nothing
    batch, steps = 50, 37
    loss = jax.jit(jax.grad(lambda p, xs: tl.unroll(p, xs, cfg)[1].sum()))
    program = loss.lower(tl.init_params(jax.random.key(0), R, cfg), jnp.ones((batch, steps, R))).compile().as_text()
    kept = rf"f32\[(?:{steps + cfg.delay}|{steps + cfg.delay + 1}),4,{batch},64\]"  # of gates, or of states
    assert len(re.findall(rf"= {kept}\S* [a-z-]+\(", program)) > 5
    assert re.findall(rf"= ({kept})\S* (copy|constant)\(", program) == []
    patches, (loops, _) = rf"f32\[(?:1,)?4,{batch},{3 * 64}\]", program.split("\nENTRY ")
    assert len(re.findall(rf"= {patches}\S* fusion\(", loops)) > 5  # in both loops, in place
    assert re.findall(rf"= {patches}\S* copy\(", loops) == []


def test_memory_of_a_long_sequence_grows_with_its_square_root():
    cfg, params, _, _ = setup("2d", "float32")

    def size(steps, **options):
        xs = jax.ShapeDtypeStruct((B, steps, R), jnp.float32)
        loss = jax.jit(jax.grad(lambda p, xs: tl.unroll(p, xs, cfg, **options)[1].sum()))
        return loss.lower(params, xs).compile().memory_analysis().temp_size_in_bytes

    inputs = 10_000 * B * (R + 3 * cfg.features) * 4  # inputs, projected inputs, outputs and their derivative
    assert size(10_000, remat=100) < size(10_000) / 4
    assert size(10_000, remat=100) < 3 * inputs


@pytest.mark.parametrize("face", ["pure", "linen", "nnx"])
@pytest.mark.parametrize("value", ["fast", None, 3, ["auto"], True])
def test_an_unknown_implementation_is_refused(face, value):
    cfg, params, xs, _ = setup("2d", "float32")
    calls = {
        "pure": lambda: tl.unroll(params, xs, cfg, implementation=value),
        "linen": lambda: tl.linen.TLSTM(cfg, implementation=value).apply({"params": params}, xs),
        "nnx": lambda: tl.nnx.TLSTM(R, cfg, implementation=value, rngs=tl.nnx.nnx.Rngs(0))(xs),
    }
    with pytest.raises(ValueError, match=r'implementation must be "auto", "reference", "fused" or Fused'):
        calls[face]()


@pytest.mark.parametrize(
    "options",
    [
        {"save": "all"},
        {"save": 1},
        {"gather": 0},
        {"gather": "all"},
        {"align": 1.5},
        {"align": -16},
        {"patches": "all"},
        {"patches": True},
    ],
)
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        tl.Fused(**options)
