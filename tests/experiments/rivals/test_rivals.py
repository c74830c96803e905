"""What holds for every rival: shapes, chunks, lengths, causality, gradients, and what the command line shows."""

import inspect
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals import RIVALS, Rival, arguments
from experiments.rivals import layer as ranges
from experiments.rivals.initializers import orthogonal
from tests.experiments.rivals import common

STEPS, HALF = 6, 3
LENGTHS = np.array([STEPS, HALF])
SMALL = {"tcn": {"kernel_size": 3}, "stanh": {"skip": 2}}
"""Options of rivals some of whose parameters have no influence that early by default."""


def example(name):
    """A small layer of a rival in float64, inputs, and variables that are not the initial ones."""
    rival = RIVALS[name]
    fewer = {"num_layers": min(2, rival.num_layers)} if "num_layers" in rival.__dataclass_fields__ else {}
    layer = rival(common.FEATURES, param_dtype=np.float64, **fewer, **SMALL.get(name, {}))
    xs = common.inputs(common.BATCH, STEPS, common.INPUTS)
    return layer, xs, common.randomized(layer, xs)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", common.ALL)
def test_the_interface(name):
    layer, xs, variables = example(name)

    @jax.jit
    def everything(variables, xs):  # as few calls as tell, since each is compiled
        def squares(variables):
            end, ys = (
                layer.apply(variables, xs, return_carry=True) if layer.carries else ((), layer.apply(variables, xs))
            )
            return (ys**2).sum(), (end, ys)

        gradients, (end, whole) = jax.grad(squares, has_aux=True)(variables)
        changed = jnp.stack([xs, xs.at[:, HALF:].add(1.0)])
        found = {"whole": whole, "end": end, "gradients": gradients, "batches": layer.apply(variables, changed)}
        if not layer.carries:
            return found | {"short": layer.apply(variables, xs, seq_lengths=LENGTHS)}
        early, short = layer.apply(variables, xs, seq_lengths=LENGTHS, return_carry=True)
        carry, first = layer.apply(variables, xs[:, :HALF], return_carry=True)
        last, second = layer.apply(variables, xs[:, HALF:], initial_carry=carry, return_carry=True)
        halves = jnp.concatenate([first, second], 1)
        return found | {"short": short, "early": early, "carry": carry, "last": last, "halves": halves}

    found = everything(variables, jnp.asarray(xs))
    whole = found["whole"]
    assert whole.shape == (common.BATCH, STEPS, common.FEATURES)

    def check_equal(found, expected):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, expected)

    same, changed = found["batches"]
    check_equal(same, whole)
    check_equal(found["short"][0], whole[0])
    assert not np.allclose(changed[:, HALF:], whole[:, HALF:])
    if layer.causal:
        check_equal(changed[:, :HALF], whole[:, :HALF])
        check_equal(found["short"][1, :HALF], whole[1, :HALF])
    for path, leaf in jax.tree_util.tree_leaves_with_path(found["gradients"]["params"]):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
        assert np.any(leaf != 0), jax.tree_util.keystr(path)
    if layer.carries:
        check_equal(found["halves"], whole)
        check_equal(found["last"], found["end"])
        ends = jax.tree.map(lambda long, short: np.stack([long[0], short[1]]), found["end"], found["carry"])
        check_equal(found["early"], ends)


def on_batches(layer, variables, xs, lengths):
    """The carries and outputs of two chunks of sequences, with lengths of the second, and of the second alone."""
    if not layer.carries:
        return layer.apply(variables, xs, seq_lengths=lengths)
    start, first = layer.apply(variables, xs[..., :HALF, :], return_carry=True)
    arguments = {"seq_lengths": lengths, "return_carry": True}
    later = layer.apply(variables, xs[..., HALF:, :], initial_carry=start, **arguments)
    return start, first, later, layer.apply(variables, xs[..., HALF:, :], **arguments)


TWO_AXES = np.array([[3, 0, 1], [2, 3, 0]])
"""Lengths of a batch with two axes, one sequence of which has no timesteps."""


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", common.ALL)
def test_batches_without_sequences_and_sequences_without_timesteps(name):
    layer, xs, variables = example(name)
    assert layer.apply(variables, xs[:0]).shape == (0, STEPS, common.FEATURES)
    if not layer.carries:
        assert layer.apply(variables, xs[:, :0]).shape == (common.BATCH, 0, common.FEATURES)
        return
    start, _ = layer.apply(variables, xs, return_carry=True)
    end, ys = layer.apply(variables, xs[:, :0], initial_carry=start, return_carry=True)
    assert ys.shape == (common.BATCH, 0, common.FEATURES)
    jax.tree.map(np.testing.assert_array_equal, end, start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"xs": np.ones(4)}, r"xs must have shape \(\*batch, T, R\)"),
        ({"xs": np.ones((2, 6, 0))}, "with R of at least 1"),
        ({"xs": np.ones((2, 6, 4), int)}, "xs must be floating point, got int"),
        ({"xs": np.ones((2, 6, 4)), "seq_lengths": np.array([7, 1])}, "must lie in 0..T = 0..6"),
        ({"xs": np.ones((2, 6, 4)), "seq_lengths": np.array([1])}, "one length for each row"),
    ],
)
def test_inputs_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        RIVALS["lstm"](common.FEATURES).init(jax.random.key(0), **arguments)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", RIVALS)
def test_shapes_with_two_batch_axes(name):
    """Of all rivals, which takes a fraction of the time of the next test."""
    layer, _, variables = example(name)
    steps = HALF if layer.carries else STEPS
    ys = jax.eval_shape(lambda v, xs: layer.apply(v, xs, seq_lengths=TWO_AXES), variables, np.zeros((2, 3, steps, 3)))
    assert ys.shape == (2, 3, steps, common.FEATURES)
    found = jax.eval_shape(lambda v, xs: on_batches(layer, v, xs, TWO_AXES), variables, np.zeros((2, 3, STEPS, 3)))
    assert all(leaf.shape[:2] == (2, 3) for leaf in jax.tree.leaves(found))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", common.ALL)
def test_two_batch_axes_are_one_of_all_sequences(name):
    layer, _, variables = example(name)
    xs = common.inputs(2, 3, STEPS, common.INPUTS)

    @jax.jit
    def both(variables, xs):
        flat = on_batches(layer, variables, xs.reshape(6, STEPS, common.INPUTS), TWO_AXES.reshape(6))
        return on_batches(layer, variables, xs, TWO_AXES), flat

    found, flat = both(variables, xs)
    expected = jax.tree.map(lambda z: z.reshape(2, 3, *z.shape[1:]), flat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, expected)
    if layer.carries:  # a sequence without timesteps keeps the carry that it had
        start, _, (end, _), _ = found
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[TWO_AXES == 0], b[TWO_AXES == 0]), end, start)


WITH_A_TIME_SCALE = ("lstm", "milstm", "mlstm", "hyperlstm", "hmlstm", "fslstm", "qrnn", "sru", "mingru")
VARIANTS = ("lstm output_peephole=true", "sru peephole=false", "mingru cell=lstm")


def chosen(model):
    """The class of a rival, and its options, from words as on the command line."""
    name, *words = model.split()
    return RIVALS[name], arguments.parse(name, RIVALS[name], words)


@pytest.mark.parametrize("name", [*WITH_A_TIME_SCALE, *VARIANTS])
def test_gradients_of_long_sequences_at_the_beginning(name):
    """They are finite, and reach the first of 784 inputs; others are in the next test, or beside what they start with.

    The time scale is that of the command for MNIST. Without one, at M=100, those of fslstm and hmlstm overflow, through
    the layer normalization.
    """
    layers = {"hmlstm": 2, "fslstm": 2}.get(name, 1)
    rival, options = chosen(name)
    layer = rival(8, num_layers=layers, time_scale=784.0, **options)  # in fewer units hmlstm's ys may be 0
    xs = jnp.asarray(common.inputs(common.BATCH, 784, 1), jnp.float32)

    @jax.jit
    def start(key):
        variables = layer.init(key, xs)
        return jax.grad(lambda v, xs: layer.apply(v, xs)[:, -1].sum(), argnums=(0, 1))(variables, xs)

    gradients, first = start(jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients["params"]):
        leaf_name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), leaf_name
        # The matrices that read hyperlstm's small LSTM start as 0.
        behind_zeros = name == "hyperlstm" and ("hyper_" in leaf_name or "bias_embedding" in leaf_name)
        assert np.any(leaf != 0) != behind_zeros, leaf_name
    assert np.isfinite(first).all()
    assert (np.abs(first[:, 0]) > 1e-8).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("mrnn", "tt-lstm", "tt-gru", "hot-rnn", "gflstm", "dilated-rnn", "dilated-lstm", "dilated-cnn", "tcn"),
        "dilated-cnn gated=true",
        *VARIANTS,
    ],
)
def test_gradients_of_long_sequences_are_finite(name):
    """Without a time scale too, and with the default number of layers."""
    kind, options = chosen(name)
    rival, xs = kind(16, **options), jnp.asarray(common.inputs(common.BATCH, 784, 1), jnp.float32)
    variables = jax.jit(rival.init)(jax.random.key(0), xs)
    gradients = jax.jit(jax.grad(lambda v: rival.apply(v, xs)[:, -1].sum()))(variables)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients["params"]):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", common.ALL)
def test_half_precision(name):
    """No matrix can be decomposed in it, and it has no complex numbers."""
    if name in ("urnn", "full-urnn"):
        with pytest.raises(ValueError, match=r"param_dtype must be float32 or .*, got bfloat16: give float32"):
            RIVALS[name](4, param_dtype=jnp.bfloat16)
        return
    rival, xs = RIVALS[name](4, param_dtype=jnp.bfloat16), jnp.ones((1, 2, 3), jnp.bfloat16)
    ys, variables = jax.jit(rival.init_with_output)(jax.random.key(0), xs)
    assert ys.dtype == jnp.bfloat16
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((ys, variables)))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.usefixtures("x64")
def test_orthogonal_matrices_are_flaxs_own():
    for shape, dtype in itertools.product([(4, 4), (2, 6)], [np.float32, np.float64]):
        theirs = nn.initializers.orthogonal(0.5)(jax.random.key(1), shape, dtype)
        np.testing.assert_array_equal(orthogonal(0.5)(jax.random.key(1), shape, dtype), theirs, strict=True)
        half = orthogonal(0.5)(jax.random.key(1), shape, jnp.bfloat16)
        np.testing.assert_allclose(half @ half.T, np.eye(shape[0]) / 4, atol=0.01)


@pytest.mark.parametrize("name", RIVALS)
def test_no_batches_of_matrices_are_decomposed_at_the_start(name):
    """With jax 0.10 several such decompositions, on two CPU cores, wait for each other for ever."""
    rival, xs = RIVALS[name](4), jnp.zeros((1, 2, 3))

    def operands(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in ("geqrf", "householder_product", "qr", "svd"):
                yield eqn.primitive.name, eqn.invars[0].aval.ndim
            for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from operands(getattr(inner, "jaxpr", inner))

    found = [*operands(jax.make_jaxpr(rival.init)(jax.random.key(0), xs).jaxpr)]
    assert {ndim for _, ndim in found} <= {2}
    assert found or name not in ("lstm", "gflstm", "dilated-gru", "full-urnn")


OUT_OF_RANGE = {
    **dict.fromkeys(ranges.POSITIVE, (0, "must be at least 1, got 0")),
    **dict.fromkeys(ranges.NOT_NEGATIVE, (-1.0, r"must not be negative, got -1\.0")),
}


@pytest.mark.parametrize("name", RIVALS)
def test_options_out_of_their_range(name):
    """Before anything is traced, so that a command says it in one line."""
    rival, checked = RIVALS[name], set()
    for option in rival.__dataclass_fields__:
        wrong = (1.5, "must be a probability below 1") if "dropout" in option or "zoneout" in option else None
        wrong = OUT_OF_RANGE.get(option, wrong)
        if wrong is not None:
            with pytest.raises(ValueError, match=f"{option} {wrong[1]}"):
                rival(**{"features": 4, option: wrong[0]})
            checked.add(option)
    assert checked >= {"features", "num_layers"} & {*rival.__dataclass_fields__}


@pytest.mark.parametrize("name", RIVALS)
def test_what_the_command_line_shows(name):
    rival = RIVALS[name]
    assert issubclass(rival, Rival)
    summary = inspect.getdoc(rival).splitlines()[0]
    assert summary.endswith(".")
    assert len(summary) < 110
    documented = inspect.getdoc(rival)
    for field in rival.__dataclass_fields__:
        if field not in Rival.__dataclass_fields__ and field != "num_layers":
            assert f"    {field}: " in documented, f"{field} is not documented"
    assert ">>>" in documented


@pytest.mark.slow
@pytest.mark.parametrize(("name", "time_scale"), [("fslstm", None), ("hmlstm", 784.0)])
def test_layer_normalization_amplifies_the_first_gradients(name, time_scale):
    """What the guide says of the gradients of M=100 and 784 timesteps, beside those of an LSTM."""
    xs = jnp.asarray(common.inputs(common.BATCH, 784, 1), jnp.float32)

    def norm(name, time_scale):
        layer = RIVALS[name](100, time_scale=time_scale)
        variables = jax.jit(layer.init)(jax.random.key(0), xs)
        gradients = jax.jit(jax.grad(lambda v: layer.apply(v, xs)[:, -1].mean()))(variables)
        return np.sqrt(sum(float(np.sum(np.square(leaf, dtype=np.float64))) for leaf in jax.tree.leaves(gradients)))

    found = norm(name, time_scale)
    assert np.isnan(found) if name == "fslstm" else not found < 1e6 * norm("lstm", time_scale)
