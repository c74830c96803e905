"""The uRNNs against their equations in numpy, unitarity before and after updates, and the literature's counts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.rivals import unitary
from experiments.rivals.unitary import URNN, FullURNN
from tests.experiments.rivals import common
from tests.experiments.rivals.oracles import unitary as oracle

UNITS = 4
RIVALS = [URNN(2 * UNITS), FullURNN(2 * UNITS), FullURNN(2 * UNITS, parametrized=True)]


def as_complex(z):
    """Complex numbers from the real parts and the imaginary parts, one after the other along the last axis."""
    re, im = np.split(np.asarray(z), 2, axis=-1)
    return re + 1j * im


def random_unitary(size, seed=0):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((size, size)) + 1j * rng.standard_normal((size, size)))
    return q


def stacked(w):
    return np.stack([w.real, w.imag])


def distance_from_unitary(w):
    return np.abs(w @ w.conj().T - np.eye(len(w))).max()


def matrix(layer, params):
    """W of a layer, from its parameters."""
    if isinstance(layer, FullURNN) and not layer.parametrized:
        return params["unitary"][0] + 1j * params["unitary"][1]
    if isinstance(layer, FullURNN):
        x = (1 + 1j) * params["skew"]
        x = x - x.conj().T
        return np.linalg.inv(np.eye(UNITS) + x) @ (np.eye(UNITS) - x)
    permutation = np.random.default_rng(layer.permutation_seed).permutation(UNITS)
    return oracle.restricted(params["phases"], as_complex(params["reflections"]), permutation)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("layer", RIVALS, ids=["restricted", "full", "parametrized"])
def test_the_equations(layer):
    layer = layer.clone(param_dtype=np.float64)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    params = variables["params"]
    params["bias"] = np.array([-1.0, 0.3, -0.5, 0.5])  # modReLU makes some units 0
    w = matrix(layer, params)
    if layer.num_constraints() == 0:
        assert distance_from_unitary(w) < 1e-14
    carry, ys = common.apply(layer, variables, xs)
    assert 0 < (ys == 0).mean() < 0.5
    for row in range(common.BATCH):
        weights = w, as_complex(params["input"]["kernel"]), params["bias"]
        start = as_complex(params["start"])
        expected, end = oracle.urnn(xs[row], *weights, start)
        np.testing.assert_allclose(ys[row], expected, rtol=1e-10)
        np.testing.assert_allclose(as_complex(carry[row]), end, rtol=1e-10)
        np.testing.assert_allclose(oracle.urnn_in_reals(xs[row], *weights, start), expected, rtol=1e-10)


def linear(variables):
    """The variables with a bias of 1e-5, with which modReLU is the identity."""
    params = variables["params"]
    return {"params": params | {"bias": jnp.full_like(params["bias"], 1e-5)}}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("layer", RIVALS, ids=["restricted", "full", "parametrized"])
@pytest.mark.parametrize("units", [1, 15])
def test_unitarity_at_initialization(layer, units):
    layer = layer.clone(features=2 * units, param_dtype=np.float64)
    eye, others = np.eye(units), common.inputs(units, 2 * units)
    states, xs = np.concatenate([np.block([eye, 0 * eye]), others]), np.zeros((2 * units, 1, 1))

    @jax.jit
    def multiplied(key):
        return layer.apply(linear(layer.init(key, xs)), xs, initial_carry=states)[:, 0]

    found = multiplied(jax.random.key(units))
    w = as_complex(found[:units])
    assert distance_from_unitary(w) < 1e-14
    np.testing.assert_allclose(as_complex(found[units:]), as_complex(others) @ w, rtol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(found[units:], axis=-1), np.linalg.norm(others, axis=-1), rtol=1e-14)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("layer", RIVALS, ids=["restricted", "full", "parametrized"])
def test_a_state_and_its_gradient_travel_for_784_timesteps(layer):
    layer = layer.clone(param_dtype=np.float64)
    xs, start = np.zeros((1, 784, 1)), np.ones((1, 2 * UNITS))

    @jax.jit
    def travel(key):
        def end(variables, start):
            return layer.apply(variables, xs, initial_carry=start)[:, -1]

        ys, backward = jax.vjp(end, linear(layer.init(key, xs)), start)
        return ys, *backward(start)

    ys, gradients, travelled = travel(jax.random.key(0))
    np.testing.assert_allclose(np.linalg.norm(ys), np.linalg.norm(start), rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(travelled), np.linalg.norm(start), rtol=1e-12)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("normalize", [False, True])
def test_the_update(normalize):
    w = random_unitary(UNITS)
    gradients = [random_unitary(UNITS, seed) * seed for seed in (1, 2, 3)]
    optimizer = unitary.multiplicative_cayley(optax.constant_schedule(0.1), normalize=normalize)

    @jax.jit
    def run(param, gradients):
        state, found = optimizer.init(param), []
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, param)
            param = optax.apply_updates(param, updates)
            found.append(param)
        return found

    found = run(stacked(w), [stacked(g) for g in gradients])
    expected = oracle.multiplicative_updates(w, gradients, 0.1, normalize)
    np.testing.assert_allclose(found, [stacked(w) for w in expected], rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_the_update_descends_as_fast_as_the_theory_says_for_rows_and_columns():
    w, x, y = (random_unitary(UNITS, seed) for seed in range(3))
    optimizer = unitary.multiplicative_cayley(1e-6, normalize=False)

    def rows(param):
        error = x @ jax.lax.complex(*param) - y
        return (jnp.abs(error) ** 2).sum()

    def columns(param):
        error = jax.lax.complex(*param) @ x - y
        return (jnp.abs(error) ** 2).sum()

    @jax.jit
    def run(param):
        found = []
        for loss in (rows, columns):
            before, gradient = jax.value_and_grad(loss)(param)
            updates, _ = optimizer.update(gradient, optimizer.init(param), param)
            found.append((gradient, param + updates, loss(param + updates) - before))
        return found

    for gradient, updated, change in run(stacked(w)):
        g = np.asarray(gradient[0] + 1j * gradient[1])
        a = g @ w.conj().T - w @ g.conj().T
        np.testing.assert_allclose(change / 1e-6, -(np.abs(a) ** 2).sum() / 2, rtol=1e-4)
        b = w.conj().T @ g - g.conj().T @ w
        from_the_right = w @ np.linalg.inv(np.eye(UNITS) + 5e-7 * b) @ (np.eye(UNITS) - 5e-7 * b)
        np.testing.assert_allclose(updated, stacked(from_the_right), rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("parametrized", [False, True])
def test_a_hundred_updates_descend_and_keep_the_matrix_unitary(parametrized):
    layer = FullURNN(
        2 * UNITS, param_dtype=np.float64, parametrized=parametrized, unitary_rate=0.02, normalize=parametrized
    )
    xs, target = common.inputs(), common.inputs(common.BATCH, common.STEPS, 2 * UNITS, seed=2)
    optimizer = layer.optimizer(optax.rmsprop(0.01))

    def loss(variables):
        return ((layer.apply(variables, xs) - target) ** 2).mean()

    @jax.jit
    def run(key):
        variables = layer.init(key, xs)

        def update(carry, _):
            variables, state = carry
            value, gradients = jax.value_and_grad(loss)(variables)
            updates, state = optimizer.update(gradients, state, variables)
            return (optax.apply_updates(variables, updates), state), value

        return variables, *jax.lax.scan(update, (variables, optimizer.init(variables)), None, 100)

    before, (after, _), losses = run(jax.random.key(0))
    before, after = before["params"], after["params"]
    np.testing.assert_array_equal(before["bias"], np.zeros(UNITS))
    assert losses[-1] < 0.7 * losses[0]
    assert distance_from_unitary(matrix(layer, after)) < 1e-13
    for leaf, changed in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.abs(leaf - changed).max() > 1e-3


def test_the_updates_of_single_precision_stay_unitary():
    optimizer = unitary.multiplicative_cayley(0.01)

    @jax.jit
    def run(param, target):
        def update(carry, _):
            param, state = carry
            updates, state = optimizer.update(param - target, state, param)
            return (optax.apply_updates(param, updates), state), None

        return jax.lax.scan(update, (param, optimizer.init(param)), None, 2000)[0][0]

    param, target = (stacked(random_unitary(UNITS, seed)).astype(np.float32) for seed in (0, 1))
    re, im = np.asarray(run(param, target), np.float64)
    assert distance_from_unitary(re + 1j * im) < 1e-4


def test_labels():
    params = {"layer": {"unitary": np.zeros((2, 3, 3)), "bias": np.zeros(3)}, "unitary": {"kernel": np.zeros(3)}}
    expected = {"layer": {"unitary": "unitary", "bias": "others"}, "unitary": {"kernel": "others"}}
    assert unitary.unitary_labels(params) == expected


def test_initial_values():
    xs = np.ones((1, 1, 1), np.float32)
    params = jax.jit(URNN(1000).init)(jax.random.key(0), xs)["params"]
    limits = {"phases": np.pi, "bias": 0.01, "start": np.sqrt(3 / 1000), "reflections": np.sqrt(6 / 1002)}
    for name, limit in limits.items():
        np.testing.assert_allclose(np.abs(params[name]).max(), limit, rtol=1e-2)
    np.testing.assert_allclose(np.abs(params["input"]["kernel"]).max(), np.sqrt(6 / 1001), rtol=1e-2)


def test_parameters():
    assert common.num_params(URNN(1024), 1) + 1024 * 10 + 10 == 16394
    r, m = 3, 7
    assert common.num_params(URNN(2 * m), r) == 2 * r * m + 10 * m
    assert common.num_params(FullURNN(2 * m), r) == 2 * r * m + m**2 + 3 * m
    assert common.num_params(FullURNN(2 * m, parametrized=True), r) == 2 * r * m + m**2 + 3 * m
    for m, published in ((512, 270_000), (116, 16_000)):
        np.testing.assert_allclose(common.num_params(FullURNN(2 * m), 1) + 20 * m + 10, published, rtol=0.03)


@pytest.mark.parametrize(
    ("budget", "r", "m"),
    [
        (121303, 1, 346),
        (368509, 1, 605),
        (368509, 65, 544),
        (5794009, 12, 2394),
        (10_000_000, 205, 2963),
        (50_100_000, 205, 6875),
    ],
)
def test_equal_parameters(budget, r, m):
    distances = [abs(2 * r * width + width**2 + 3 * width - budget) for width in (m - 1, m, m + 1)]
    assert distances[1] == min(distances)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="even number, not 5: use 6"):
        URNN(5)
    optimizer = unitary.multiplicative_cayley(0.1)
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(np.zeros((2, 3, 3)), optimizer.init(np.zeros((2, 3, 3))))
