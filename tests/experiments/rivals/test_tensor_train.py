"""TT-dense and the low-rank dense layer against dense ones, their entries, tensorly's matrices, and their counts."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals import tensor_train
from experiments.rivals.low_rank import LowRankDense
from experiments.rivals.tensor_train import TTDense
from tests.experiments.rivals import common
from tests.experiments.rivals.oracles import tensor_train as oracle

FIXTURE = Path(__file__).parent / "fixtures" / "tensorly.json"


def cores_of(params):
    return [params[f"core_{k}"] for k in range(len(params))]


def train_of(matrix, in_modes, out_modes):
    """The cores of a matrix with full ranks: singular value decompositions from left to right."""
    order = len(in_modes)
    tensor = matrix.reshape(*in_modes, *out_modes)
    tensor = tensor.transpose([axis for k in range(order) for axis in (k, order + k)])
    cores, rank = [], 1
    for n, m in zip(in_modes[:-1], out_modes[:-1], strict=True):
        u, s, v = np.linalg.svd(tensor.reshape(rank * n * m, -1), full_matrices=False)
        cores.append(u.reshape(rank, n, m, -1))
        rank, tensor = len(s), s[:, None] * v
    return [*cores, tensor.reshape(rank, in_modes[-1], out_modes[-1], 1)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("size", "features", "options"), [(6, 12, {"in_modes": (2, 3)}), (5, 7, {"num_modes": 3})])
def test_the_equations(size, features, options):
    layer = TTDense(features, ranks=(2,), param_dtype=np.float64, **options)
    xs = common.inputs(3, size)
    params = common.randomized(layer, xs)["params"]
    whole = oracle.matrix(cores_of(params["cores"]))
    expected = xs @ whole[:size, :features] + params["bias"]
    np.testing.assert_allclose(layer.apply({"params": params}, xs), expected, rtol=1e-12)
    np.testing.assert_allclose(tensor_train.matrix_of(cores_of(params["cores"])), whole, rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("x64")
def test_full_ranks_are_a_dense_layer():
    layer = TTDense(12, in_modes=(2, 3, 2), out_modes=(3, 2, 2), ranks=(99,), param_dtype=np.float64)
    xs = common.inputs(3, 12)
    shapes = common.randomized(layer, xs)["params"]
    matrix = common.inputs(12, 12, seed=5)
    cores = train_of(matrix, (2, 3, 2), (3, 2, 2))
    assert [core.shape for core in cores] == [core.shape for core in cores_of(shapes["cores"])]
    params = {"cores": {f"core_{k}": core for k, core in enumerate(cores)}, "bias": np.zeros(12)}
    np.testing.assert_allclose(layer.apply({"params": params}, xs), xs @ matrix, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_tensorly():
    fixture = json.loads(FIXTURE.read_text())
    cores = [jnp.array(core) for core in fixture["cores"]]
    np.testing.assert_allclose(tensor_train.matrix_of(cores), np.array(fixture["matrix"]), rtol=1e-12)


def test_modes():
    for order in (1, 2, 3, 4):
        least = 0
        for size in range(1, 300):
            modes = tensor_train.balanced_modes(size, order)
            assert math.prod(modes) >= size
            assert (modes[0] - 1) * math.prod(modes[1:]) < size, "a slice of the first core is never used"
            assert max(modes) - min(modes) <= 1
            assert math.prod(modes) >= least, "the width for a budget is found by bisection"
            least = math.prod(modes)


def num_params(dense, in_features):
    shapes = jax.eval_shape(dense.init, jax.random.key(0), np.zeros((1, in_features), np.float32))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_parameters():
    assert num_params(TTDense(256, (4, 4, 4), (8, 8, 4), ranks=(3,)), 64) == 32 * 3 + 32 * 9 + 16 * 3 + 256
    assert num_params(LowRankDense(32, rank=5), 64) == 5 * 32 + 32
    assert num_params(LowRankDense(32, rank=5, smooth=False), 64) == 5 * 32 + 32 + 64 * 5


@pytest.mark.slow
def test_initial_cores():
    shapes = [(1, 8, 8, 6), (6, 8, 8, 5), (5, 8, 8, 1)]
    key = jax.random.key(0)
    for init, std in ((tensor_train.normal_cores(0.05), 0.05), (tensor_train.normal_cores(None), 512**-0.5)):
        matrix = tensor_train.matrix_of(init(key, shapes, jnp.float32))
        np.testing.assert_allclose(matrix.std(), std, rtol=0.1)
    first, second, _ = tensor_train.orthogonal_cores(key, shapes, jnp.float32)
    scale = 0.1 / (512 * 30) ** (1 / 3)
    for core in (first, second):
        tall = core.reshape(-1, core.shape[-1]) / scale
        np.testing.assert_allclose(tall.T @ tall, np.eye(tall.shape[-1]), atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_low_rank():
    xs = common.inputs(3, 11)
    layer = LowRankDense(6, rank=4, param_dtype=np.float64)
    params = common.randomized(layer, xs)["params"]
    matrix = oracle.smooth_dictionary(11, 4) @ params["kernel"]
    np.testing.assert_allclose(layer.apply({"params": params}, xs), xs @ matrix + params["bias"], rtol=1e-10)
    layer = LowRankDense(6, rank=4, smooth=False, param_dtype=np.float64)
    params = common.randomized(layer, xs)["params"]
    expected = xs @ params["dictionary"] @ params["kernel"] + params["bias"]
    np.testing.assert_allclose(layer.apply({"params": params}, xs), expected, rtol=1e-12)
    ys = LowRankDense(400, rank=20).init_with_output(jax.random.key(0), common.inputs(50, 300))[0]
    np.testing.assert_allclose(ys.std(), 1, rtol=0.1)


def test_dtypes():
    for layer in (TTDense(6, dtype=jnp.bfloat16), LowRankDense(6, rank=3, dtype=jnp.bfloat16)):
        ys, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5)))
        assert ys.dtype == jnp.bfloat16
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_what_is_impossible():
    def init(layer):
        jax.eval_shape(lambda: layer.init(jax.random.key(0), jnp.ones((2, 6))))

    with pytest.raises(ValueError, match=r"in_modes must be positive and have the product 6, got \(2, 2\)"):
        init(TTDense(4, in_modes=(2, 2)))
    with pytest.raises(ValueError, match=r"out_modes must be positive and have the product 4, got \(3, 2\)"):
        init(TTDense(4, out_modes=(3, 2)))
    with pytest.raises(ValueError, match="as many"):
        init(TTDense(4, in_modes=(2, 3), out_modes=(4,)))
    with pytest.raises(ValueError, match="one for each of the 1 pairs"):
        init(TTDense(4, ranks=(2, 2)))
    with pytest.raises(ValueError, match="num_modes must be at least 1, got 0"):
        init(TTDense(4, num_modes=0))
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        init(LowRankDense(4, rank=0))
