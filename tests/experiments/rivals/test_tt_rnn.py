"""LSTMs and GRUs of tensor trains and low-rank matrices against their equations, dense ones, and their counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.tt_rnn import TTGRU, TTLSTM, VARIANTS, TTGRUCell, TTLSTMCell
from tests.experiments.rivals import common
from tests.experiments.rivals.oracles import tensor_train as oracle

FEATURES = 6  # modes (3, 2), or of three (2, 2, 2), which is padded


def dense_matrix(layer, params, size, gates):
    """The matrix (size, gates * M) that a factored map stands for."""
    if "cores" not in params:
        known = params["kernel"]
        dictionary = params.get("dictionary", oracle.smooth_dictionary(size, known.shape[0]))
        return dictionary @ known
    whole = oracle.matrix([params["cores"][f"core_{k}"] for k in range(len(params["cores"]))])[:size]
    if layer.variant == "onu":  # all gates are padded together; 24 and 18 have (5, 5)
        return whole[:, : gates * layer.features]
    return whole.reshape(size, gates, -1)[..., : layer.features].reshape(size, -1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variant", [*VARIANTS, "learned denil", "three modes"])
@pytest.mark.parametrize("rival", [TTLSTM, TTGRU])
def test_the_equations(rival, variant):
    gates = 4 if rival is TTLSTM else 3
    options = {"variant": variant, "ranks": (2,)}
    if variant == "learned denil":
        options |= {"variant": "denil", "smooth": False}
    if variant == "three modes":
        options |= {"variant": "tjandra", "num_modes": 3, "ranks": (2, 3)}
    layer = rival(FEATURES, param_dtype=np.float64, num_layers=2, **options)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    carries, ys = common.apply(layer, variables, xs)
    for row in range(common.BATCH):
        found, size = xs[row], common.INPUTS
        for index in range(2):
            cell = variables["params"][f"rnn_{index}"]["cell"]
            w = dense_matrix(layer, cell["input"], size, gates)
            if variant == "yang":
                u = np.concatenate([cell[name]["kernel"] for name in ("hidden", "candidate") if name in cell], axis=1)
            else:
                u = dense_matrix(layer, cell["hidden"], FEATURES, gates)
            if rival is TTLSTM:
                found, c, h = oracle.lstm(found, w, u, cell["bias"])
                np.testing.assert_allclose(carries[index][0][row], c, rtol=1e-10)
                np.testing.assert_allclose(carries[index][1][row], h, rtol=1e-10)
            else:
                found, h = oracle.gru(found, w, u, cell["bias"], cell.get("candidate_bias"))
                np.testing.assert_allclose(carries[index][row], h, rtol=1e-10)
            size = FEATURES
        np.testing.assert_allclose(ys[row], found, rtol=1e-10)


def core_shapes(layer, in_features, name):
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), jnp.ones((1, 2, in_features))))["params"]
    return [core.shape for core in params["rnn_0"]["cell"][name]["cores"].values()]


def test_which_mode_has_the_gates():
    options = {"input_modes": (2, 3, 4), "hidden_modes": (4, 5, 6), "ranks": (3,)}
    layer = TTLSTM(120, **options)
    assert core_shapes(layer, 24, "input") == [(1, 2, 4, 3), (3, 3, 5, 3), (3, 4, 24, 1)]
    assert core_shapes(layer, 24, "hidden") == [(1, 4, 4, 3), (3, 5, 5, 3), (3, 6, 24, 1)]
    assert core_shapes(TTGRU(120, **options), 24, "hidden") == [(1, 4, 4, 3), (3, 5, 5, 3), (3, 6, 18, 1)]
    assert core_shapes(TTLSTM(120, variant="yang", **options), 24, "input") == [
        (1, 2, 16, 3),
        (3, 3, 5, 3),
        (3, 4, 6, 1),
    ]
    assert core_shapes(TTGRU(120, variant="onu", **options), 24, "input") == [(1, 2, 8, 3), (3, 3, 7, 3), (3, 4, 7, 1)]


def test_parameters():
    options = {"input_modes": (2, 3, 4), "hidden_modes": (4, 5, 6), "ranks": (3,)}
    inputs, hidden = 2 * 4 * 3 + 3 * 15 * 3 + 3 * 4 * 24, 4 * 4 * 3 + 3 * 25 * 3 + 3 * 6 * 24
    assert common.num_params(TTLSTM(120, **options), 24) == inputs + hidden + 4 * 120
    yang = 2 * 16 * 3 + 3 * 15 * 3 + 3 * 24
    assert common.num_params(TTLSTM(120, variant="yang", **options), 24) == yang + 4 * 120**2 + 4 * 120
    assert common.num_params(TTGRU(120, variant="yang", **options), 24) == yang - 2 * 4 * 3 + 3 * 120**2 + 3 * 120
    assert common.num_params(TTLSTM(120, variant="denil", ranks=(7,)), 24) == 2 * 7 * 480 + 480


@pytest.mark.parametrize(("rival", "variant"), [(TTLSTM, "tjandra"), (TTGRU, "onu")])
def test_counts_grow_with_the_width(rival, variant):  # which the search for a width needs
    counts = [common.num_params(rival(m, variant=variant), 65) for m in (30, 31, 100, 101, 749, 750)]
    assert counts == sorted(set(counts))


def initial_bias(cell, carry):
    init = jax.jit(lambda: cell.init(jax.random.key(0), carry, jnp.ones(3))["params"]["bias"])
    return init().reshape(len(cell.gates), cell.features)


def test_initial_biases():
    h = jnp.zeros(50)
    bias = initial_bias(TTGRUCell(50, time_scale=30), h)
    assert (bias[0::2] == 0).all()
    assert 0 <= bias[1].min() < bias[1].max() <= np.log(60)
    assert (initial_bias(TTLSTMCell(50), (h, h)) == np.array([[0], [1], [0], [0]])).all()


@pytest.mark.parametrize("rival", [TTLSTM, TTGRU])
def test_products_in_bfloat16(rival):
    with jax.numpy_rank_promotion("raise"):
        ys, variables = rival(6, dtype=jnp.bfloat16).init_with_output(jax.random.key(0), jnp.ones((2, 3, 5)))
    assert ys.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_what_is_impossible():
    def init(**options):
        jax.eval_shape(lambda: TTLSTM(12, **options).init(jax.random.key(0), jnp.ones((1, 2, 6))))

    with pytest.raises(ValueError, match="variant must be one of tjandra, yang, onu, denil, got 'novikov'"):
        init(variant="novikov")
    with pytest.raises(ValueError, match=r"input_modes must be positive and have the product 6, got \(2, 2\)"):
        init(input_modes=(2, 2))
    with pytest.raises(ValueError, match=r"hidden_modes must be positive and have the product 12, got \(5, 2\)"):
        init(hidden_modes=(5, 2))
    with pytest.raises(ValueError, match="input_modes and hidden_modes must be as many"):
        init(input_modes=(2, 3), hidden_modes=(3, 2, 2))
    with pytest.raises(ValueError, match="variant denil has no modes"):
        init(variant="denil", hidden_modes=(3, 4))
    with pytest.raises(ValueError, match="variant denil has one rank"):
        init(variant="denil", ranks=(3, 4))
    with pytest.raises(ValueError, match="one for each of the 1 pairs"):
        init(ranks=(3, 4))
    with pytest.raises(ValueError, match="num_modes must be at least 1, got 0"):
        init(num_modes=0)
