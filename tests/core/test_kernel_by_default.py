"""Where ``Fused(kernel=None)`` takes the GPU kernels, and XLA's loops where JAX cannot transform the kernels."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import tlstm_jax as tl
from tests.core.test_cell_kernel import CELL, RESET, error, interpreted, needs_pallas, setup
from tests.core.variants import nearly, refused
from tlstm_jax.fused import coverage, loops

OPTIONS = {"seq_lengths": np.array([2, 1]), "reset": RESET[:, :2]}


@pytest.fixture
def kernels_by_default(monkeypatch):
    """Programs have the kernels that they would have on an H100."""
    monkeypatch.setattr(loops, "kernels_are_faster", lambda cfg, fused, *_: fused.kernel is None)


@pytest.fixture
def as_on_a_gpu(kernels_by_default, monkeypatch):
    """They are chosen even for a CPU, for the interpreter."""
    chosen = jax.lax.platform_dependent

    def platform_dependent(*arguments, cuda=None, **others):
        return chosen(*arguments, **others) if cuda is None else cuda(*arguments)

    monkeypatch.setattr(loops.lax, "platform_dependent", platform_dependent)


@pytest.fixture
def h100(monkeypatch):
    """A process with one H100; returns a function that replaces it by other devices."""

    def use(*devices):
        monkeypatch.setattr(jax, "local_devices", lambda: devices)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "__version__", "0.11.0")
    use(types.SimpleNamespace(compute_capability="9.0"))
    return use


class Functions:
    """Functions of a small model with lengths, resets, an initial and a last state, and their arguments."""

    def __init__(self, implementation):
        self.implementation = implementation
        self.cfg, self.params, self.xs, self.state = setup("2d", steps=2, tensor_shape=(2,), features=3)
        self.many_xs, self.many = self.stack(self.xs), self.stack((self.params, self.xs, self.state))

    @staticmethod
    def stack(tree):
        return jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf, -0.9 * leaf]), tree)

    def run(self, params, xs, state):
        return tl.unroll(params, xs, self.cfg, initial_state=state, implementation=self.implementation, **OPTIONS)

    def loss(self, params, xs, state, scale=1.0):
        last, ys = self.run(params, xs, state)
        return scale * jnp.sin(ys).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(last))

    def gradients(self, *arguments):
        return jax.grad(self.loss, argnums=(0, 1, 2))(*arguments)

    def of_bias(self, bias):
        return self.loss({**self.params, "hidden": {**self.params["hidden"], "bias": bias}}, self.xs, self.state)

    def of_chunks(self, params):
        def chunk(state, xs):
            return self.run(params, xs, state)

        _, ys = jax.lax.scan(jax.checkpoint(chunk), self.state, self.many_xs)
        return (ys**2).sum()


def alone(f):
    return f.gradients(f.params, f.xs, f.state)


def forward_of_several(f):
    return jax.vmap(lambda xs: f.run(f.params, xs, f.state))(f.many_xs)


def population(f):
    """Everything has an axis of vmap."""
    return jax.vmap(f.gradients)(*f.many)


def gradients_of_examples(f):
    """The parameters have no axis, but their gradients do."""
    return jax.vmap(f.gradients, (None, 0, None))(f.params, f.many_xs, f.state)


def gradient_of_several(f):
    return jax.grad(lambda params: jax.vmap(lambda xs: f.loss(params, xs, f.state))(f.many_xs).sum())(f.params)


def jacobian(f):
    """Only the backward pass has an axis of vmap."""
    return jax.jacrev(lambda params: f.run(params, f.xs, f.state)[1])(f.params)


def hessian(f):
    return jax.hessian(f.of_bias)(f.params["hidden"]["bias"])


def reverse_over_reverse(f):
    return jax.jacrev(jax.grad(f.of_bias))(f.params["hidden"]["bias"])


def derivative_of_a_cotangent(f):
    """Only the backward pass is in forward mode."""
    gradient = functools.partial(jax.grad(f.loss), f.params, f.xs, f.state)
    return jax.jvp(lambda scale: gradient(scale=scale), (1.0,), (2.0,))


def chunks(f):
    return jax.grad(f.of_chunks)(f.params)


def chunks_of_a_population(f):
    return jax.vmap(jax.grad(f.of_chunks))(f.stack(f.params))


FAST = [population, jacobian]
SLOW = [
    alone,
    forward_of_several,
    gradients_of_examples,
    gradient_of_several,
    hessian,
    reverse_over_reverse,
    derivative_of_a_cotangent,
    chunks,
    chunks_of_a_population,
]


@needs_pallas
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("what", [*FAST, *(pytest.param(what, marks=pytest.mark.slow) for what in SLOW)])
def test_transformations(what, as_on_a_gpu):
    with interpreted():
        actual = jax.block_until_ready(jax.jit(lambda: what(Functions("auto")))())
    assert error(actual, jax.jit(lambda: what(Functions("reference")))()) < 2e-6


@needs_pallas
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_programs_by_platform(kernels_by_default):
    """Only a program for a GPU has the kernels, and it has none under vmap."""

    def text(what, platform):
        return jax.jit(lambda: what(Functions("auto"))).trace().lower(lowering_platforms=(platform,)).as_text()

    assert "mosaic_gpu" not in text(alone, "cpu")
    assert "mosaic_gpu" not in text(population, "cuda")
    assert text(alone, "cuda").count("mosaic_gpu") >= 2
    several = export.export(jax.jit(lambda: alone(Functions("auto"))), platforms=("cpu", "cuda"))()
    assert "mosaic_gpu" not in several.mlir_module()
    nearly(several.call(), alone(Functions("reference")))


@needs_pallas
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_arrays_that_an_automatic_mesh_divides(as_on_a_gpu):
    """They are seen when the program is lowered. A mesh of one device does not matter."""

    def program(implementation, num_devices):
        functions = Functions(implementation)
        mesh = jax.make_mesh((num_devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        run = jax.jit(lambda xs: functions.gradients(functions.params, xs, functions.state), in_shardings=sharding)
        return run, functions.xs

    def has_kernels(implementation, num_devices):
        run, xs = program(implementation, num_devices)
        return "mosaic_gpu" in run.trace(xs).lower(lowering_platforms=("cuda",)).as_text()

    assert has_kernels("auto", 1)
    assert not has_kernels("auto", 2)
    run, xs = program("auto", 2)
    nearly(run(xs), alone(Functions("reference")))
    with refused("not for a program for several devices", 'use kernel="xla" or None'):
        has_kernels(CELL, 2)


@needs_pallas
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "options",
    [{"jax_numpy_rank_promotion": "raise", "jax_numpy_dtype_promotion": "strict"}, {"jax_enable_x64": True}],
    ids=["no promotion", "x64"],
)
def test_in_programs_with_other_options(options, kernels_by_default):
    """Of JAX, for a model in float32."""
    functions = Functions("auto")
    before = {name: getattr(jax.config, name) for name in options}
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        lowered = jax.jit(lambda: alone(functions)).trace().lower(lowering_platforms=("cuda",))
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert lowered.as_text().count("mosaic_gpu") >= 2


@needs_pallas
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_jit(as_on_a_gpu):
    """And with a check of every result for nan."""
    functions = Functions("auto")
    expected = population(Functions("reference"))
    with interpreted(), jax.debug_nans(True):
        nearly(population(functions), expected)
        with jax.disable_jit():
            nearly(population(functions), expected)


@needs_pallas
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_precision_of_products(kernels_by_default):
    """A context in the program also counts for the loops that take the kernels' place."""

    def products(implementation):
        functions = Functions(implementation)

        def gradient(params):
            with jax.default_matmul_precision("highest"):
                return jax.grad(functions.loss)(params, functions.xs, functions.state)

        mapped = jax.jit(jax.vmap(jax.jit(gradient)))
        text = mapped.trace(functions.many[0]).lower(lowering_platforms=("cuda",)).as_text()
        return sorted("HIGHEST" in line for line in text.splitlines() if "dot_general" in line)

    assert products("auto") == products(tl.Fused(kernel="xla"))
    assert all(products("auto"))


@needs_pallas
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_long_forward_pass(kernels_by_default):
    """XLA's loops, in which memory does not grow with the number of timesteps, run it; the kernels, which save states
    anyway, differentiate it.
    """
    cfg, params, xs, _ = setup("3d")
    loss = lambda xs: tl.unroll(params, xs, cfg)[1].sum()  # noqa: E731

    def has_kernels(function, num_steps):
        xs_of_that_length = jax.ShapeDtypeStruct((512, num_steps, *xs.shape[2:]), xs.dtype)
        lowered = jax.jit(function).trace(xs_of_that_length).lower(lowering_platforms=("cuda",))
        return "mosaic_gpu" in lowered.as_text()

    assert has_kernels(loss, 500)
    assert not has_kernels(loss, 600)
    assert has_kernels(jax.grad(loss), 600)


def test_where_they_are_the_default(h100):
    _, params, xs, state = setup("2d")

    def chosen(fused=None, **changes):
        changed = tl.TLSTMConfig(**{"features": 100, "tensor_shape": (3,), **changes})
        state_in_dtype = state._replace(h=state.h.astype(changed.dtype or jnp.float32))
        return coverage.kernels_are_faster(changed, fused or tl.Fused(), params, state_in_dtype, xs)

    assert chosen()
    assert chosen(tl.Fused(save="states", gather=4, align=1, patches="built"))
    assert not chosen(tl.Fused(patches="kept"))
    assert not chosen(tl.Fused(kernel="xla"))
    assert chosen(features=96)
    assert chosen(features=128)
    assert chosen(tensor_shape=(10, 10))
    assert chosen(precision="default")
    assert not chosen(cell="rnn")
    for not_timed in (
        {"norm": "layer"},
        {"norm": None},
        {"memory_conv": False},
        {"kernel_size": 2},
        {"kernel_size": 5, "tensor_shape": (4,)},
        {"tensor_shape": (101,)},
        {"tensor_shape": (2, 2, 2)},
        {"dtype": jnp.bfloat16},
        {"precision": "highest"},
        {"features": 129},
        {"features": 95},  # and padded
    ):
        assert not chosen(**not_timed)
    with jax.default_matmul_precision("highest"):
        assert not chosen()
    with jax.default_matmul_precision("tensorfloat32"):
        assert chosen()
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("data",))):
        assert not chosen()
    h100(*2 * [types.SimpleNamespace(compute_capability="9.0")])
    assert chosen()  # for programs that do not use both
    for other in ("8.0", "10.0", "gfx942"):
        h100(types.SimpleNamespace(compute_capability=other))
        assert not chosen()


def test_not_while_leaks_are_looked_for(h100):
    cfg, params, xs, state = setup("2d", features=100)
    assert coverage.kernels_are_faster(cfg, tl.Fused(), params, state, xs)
    with jax.checking_leaks():
        assert not coverage.kernels_are_faster(cfg, tl.Fused(), params, state, xs)


def test_tracing_a_model_that_they_do_not_cover_starts_no_backend(monkeypatch):
    """So that a program can still call jax.distributed.initialize."""
    monkeypatch.setattr(jax, "default_backend", lambda: pytest.fail("asked for the backend"))
    cfg, params, xs, _ = setup("2d")
    jax.eval_shape(lambda: tl.unroll(params, xs, cfg))


def test_not_on_this_machine_without_a_gpu():
    cfg, params, xs, state = setup("2d", features=100)
    assert jax.default_backend() != "cpu" or not coverage.kernels_are_faster(cfg, tl.Fused(), params, state, xs)


def test_not_where_arrays_have_an_explicit_sharding(h100):
    cfg, params, xs, state = setup("2d", features=100)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharded = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    arguments = [params, state, xs]
    assert coverage.kernels_are_faster(cfg, tl.Fused(), *arguments)
    for index, argument in enumerate(arguments):
        arguments[index] = jax.device_put(argument, sharded)
        assert not coverage.kernels_are_faster(cfg, tl.Fused(), *arguments)
        arguments[index] = argument


@needs_pallas
def test_the_patches_of_all_timesteps_are_kept_only_if_they_fit(as_on_a_gpu, monkeypatch):
    """So that the loops that take the kernels' place need no more memory than with ``kernel="xla"``."""
    from tlstm_jax.fused import gpu

    cfg, params, xs, _ = setup("2d", norm_epsilon=3e-6)  # as in no other test, whose trace would be used
    timesteps = xs.shape[1] + cfg.delay
    span, plans = gpu.span, []
    monkeypatch.setattr(gpu, "span", lambda static, *arguments: plans.append(static) or span(static, *arguments))

    def plan(**options):
        jax.eval_shape(lambda: tl.unroll(params, xs, cfg, implementation=tl.Fused(**options)))
        static = plans.pop()
        return static.kernels.keeps, static.kernels.gather, static.xla.plan.gather

    assert plan() == (True, timesteps, timesteps)
    assert plan(gather=timesteps) == (True, timesteps, timesteps)
    assert plan(gather=2) == (False, 2, 2)
    assert plan(gather=2, save="gates") == (False, 2, 2)
    monkeypatch.setattr(loops, "PATCHES_BYTES", 0)
    assert plan(save="gates") == (False, 1, 1)


@needs_pallas
@pytest.mark.parametrize("platform", ["cpu", "tpu", "rocm"])
def test_asked_for_by_name_they_refuse_other_platforms(platform):
    with refused(f'not for the platform "{platform}"', 'use kernel="xla" or None'):
        jax.jit(lambda: alone(Functions(CELL))).trace().lower(lowering_platforms=(platform,))


@needs_pallas
def test_several_timesteps_in_an_iteration_by_default():
    def text(unroll):
        cfg, params, xs, _ = setup("2d", steps=20)
        gradient = jax.grad(lambda p: tl.unroll(p, xs, cfg, implementation=CELL, unroll=unroll)[1].sum())
        return str(jax.make_jaxpr(gradient)(params))

    assert text(None) == text(8) != text(7)


@needs_pallas
def test_asked_for_by_name_they_refuse_what_jax_cannot_transform():
    with refused("not for an axis of jax.vmap", 'use kernel="xla" or None'):
        jax.eval_shape(lambda: forward_of_several(Functions(CELL)))
    with refused("not for an axis of jax.vmap", 'use kernel="xla" or None'):
        jax.eval_shape(lambda: jacobian(Functions(CELL)))
    with refused("not for a second derivative", 'use kernel="xla" or None'):
        jax.eval_shape(lambda: hessian(Functions(CELL)))
    with refused("not for a program for several platforms", 'use kernel="xla" or None'):
        export.export(jax.jit(lambda: alone(Functions(CELL))), platforms=("cpu", "cuda"))()
