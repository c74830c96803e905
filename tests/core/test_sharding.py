"""Boxed parameters and sharded computation, on four devices: the batch or the channels of the kernel are divided."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import tlstm_jax as tl
from tests.core.variants import abstract, lively, nearly, pure_dict, same, signature

R, M, T, BATCH = 3, 4, 5, 8
KEY = jax.random.key(0)
CFG = tl.TLSTMConfig(M, (2, 2), memory_conv=False, learn_carry=True)  # 16 channels of A, divisible by four
PARAMS = lively(abstract(tl.init_params, KEY, R, CFG))
XS = jax.random.normal(jax.random.key(1), (BATCH, T, R))
NAMES = {
    ("input", "kernel"): (None, "model"),
    ("hidden", "kernel"): (None, None, None, "model"),
    ("hidden", "bias"): ("model",),
    ("carry", "c"): (None, None, "model"),
    ("carry", "h"): (None, None, "model"),
}


def mesh(data, model):
    return jax.make_mesh((data, model), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def annotated(with_partitioning, cfg=CFG):
    """Every initializer, annotated with the names of its array's axes."""
    normal = jax.nn.initializers.normal(0.5)
    return {
        "config": cfg,
        "kernel_init": with_partitioning(normal, (None, "model")),
        "recurrent_kernel_init": with_partitioning(normal, (None, None, None, "model")),
        "bias_init": with_partitioning(normal, ("model",)),
        "carry_init": with_partitioning(normal, (None, None, "model")),
    }


LAYER = tl.linen.TLSTM(**annotated(nn.with_partitioning), return_carry=True)


@jax.jit
@jax.grad
def gradient_of_the_sum(params):
    return tl.unroll(params, XS, CFG)[1].sum()


def boxes(params):
    """Names of the axes of every boxed parameter, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: isinstance(x, nn.Partitioned))
    return {tuple(key.key for key in path): box.names for path, box in leaves if isinstance(box, nn.Partitioned)}


# Boxes


def test_linen_carries_boxes():
    variables = LAYER.init(KEY, XS)
    assert boxes(variables["params"]) == NAMES
    specs = nn.get_partition_spec(jax.eval_shape(LAYER.init, KEY, XS))["params"]
    assert specs["hidden"]["kernel"] == P(None, None, None, "model")
    assert specs["norm"]["scale"] == P()
    plain = nn.unbox(variables)["params"]
    assert signature(plain) == signature(PARAMS)
    expected = tl.unroll(plain, XS, CFG)
    same(LAYER.apply(variables, XS), expected)
    same(jax.jit(LAYER.apply)(variables, XS), expected)
    same(tl.unroll(variables["params"], XS, CFG), expected)  # the pure functions take them, too
    gradients = jax.jit(jax.grad(lambda v: LAYER.apply(v, XS)[1].sum()))(variables)["params"]
    assert boxes(gradients) == NAMES
    nearly(nn.unbox(gradients), gradient_of_the_sum(plain), atol=1e-5)


def test_other_functions_take_boxes():
    params = LAYER.init(KEY, XS)["params"]
    plain = nn.unbox(params)
    state = tl.init_state(CFG, (BATCH,), params)
    same(state, tl.init_state(CFG, (BATCH,), plain))
    same(tl.step(params, state, XS[:, 0], CFG), tl.step(plain, state, XS[:, 0], CFG))
    kept = [tl.inspect.record(p, XS, CFG, lambda now: now.h) for p in (params, plain)]
    same(*kept)
    assert tl.resize(params, CFG, CFG)["hidden"]["kernel"] is plain["hidden"]["kernel"]


def test_flaxs_drivers_carry_boxes():
    cell = tl.linen.TLSTMCell(**annotated(nn.with_partitioning))
    rnn = nn.RNN(cell)
    variables = rnn.init(KEY, XS)
    assert boxes(variables["params"]["cell"]) == NAMES
    plain = nn.unbox(variables)["params"]["cell"]
    nearly(rnn.apply(variables, XS), tl.unroll(plain, XS, CFG, aligned=False)[1])


LIFTED = tl.TLSTMConfig(R, (2, 2), memory_conv=False, learn_carry=True)  # outputs can be the next layer's inputs


class Block(nn.Module):
    @nn.compact
    def __call__(self, xs, _):
        return nn.remat(tl.linen.TLSTM)(**annotated(nn.with_partitioning, LIFTED), name="layer")(xs), None


@pytest.mark.parametrize("lift", ["scan", "vmap"])
def test_lifted_transformations_name_the_new_axis(lift):
    metadata = {nn.PARTITION_NAME: "layers"}
    if lift == "scan":
        split = {"params": True}
        lifted = nn.scan(Block, variable_axes={"params": 0}, split_rngs=split, length=2, metadata_params=metadata)()
    else:
        axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "metadata_params": metadata}
        lifted = nn.vmap(Block, in_axes=(None, None), out_axes=0, axis_size=2, **axes)()
    variables = lifted.init(KEY, XS, None)
    assert boxes(variables["params"]["layer"]) == {path: ("layers", *names) for path, names in NAMES.items()}
    rows = [jax.tree.map(lambda p, i=i: p[i], nn.unbox(variables)["params"]["layer"]) for i in range(2)]
    ys = lifted.apply(variables, XS, None)[0]
    if lift == "scan":
        nearly(ys, tl.unroll(rows[1], tl.unroll(rows[0], XS, LIFTED)[1], LIFTED)[1])
    else:
        nearly(ys, jnp.stack([tl.unroll(row, XS, LIFTED)[1] for row in rows]))


# Sharded computation: each device holds a part, and the results are the same

MESHES = pytest.mark.parametrize(
    ("data", "model"),
    [pytest.param(4, 1, marks=pytest.mark.slow), pytest.param(1, 4, marks=pytest.mark.slow), (2, 2)],
    ids=["batch", "channels", "both"],
)


def value_and_gradients(params, xs):
    def loss(params, xs):
        state, ys = tl.unroll(params, xs, CFG, seq_lengths=jnp.arange(BATCH) % (T + 1))
        return (ys**2).sum() + state.h.sum(), ys

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, xs)


@MESHES
def test_pure_functions_sharded(data, model):
    grid = mesh(data, model)
    where = jax.tree_util.tree_map_with_path(
        lambda path, _: NamedSharding(grid, P(*NAMES.get(tuple(key.key for key in path), ()))), PARAMS
    )
    rows = NamedSharding(grid, P("data"))
    run = jax.jit(value_and_gradients, in_shardings=(where, rows), out_shardings=((None, rows), (where, rows)))
    params, xs = jax.device_put(PARAMS, where), jax.device_put(XS, rows)
    (loss, ys), (to_params, to_xs) = run(params, xs)
    nearly(((loss, ys), (to_params, to_xs)), jax.jit(value_and_gradients)(PARAMS, XS), atol=1e-4)
    assert ys.addressable_shards[0].data.shape == (BATCH // data, T, M)
    assert to_xs.addressable_shards[0].data.shape == (BATCH // data, T, R)
    kernel = to_params["hidden"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (*kernel.shape[:-1], kernel.shape[-1] // model)


@MESHES
def test_linen_sharded(data, model):
    grid = mesh(data, model)
    where = nn.get_sharding(jax.eval_shape(LAYER.init, KEY, XS), grid)
    rows = NamedSharding(grid, P("data"))
    variables = jax.jit(LAYER.init, out_shardings=where)(KEY, XS)
    kernel = variables["params"]["hidden"]["kernel"]
    assert isinstance(kernel, nn.Partitioned)
    assert kernel.value.addressable_shards[0].data.shape[-1] == kernel.value.shape[-1] // model
    nearly(nn.unbox(variables), nn.unbox(LAYER.init(KEY, XS)))
    with jax.set_mesh(grid):  # unboxing constrains the sharding to the names
        state, ys = jax.jit(LAYER.apply, in_shardings=(where, rows), out_shardings=(rows, rows))(
            variables, jax.device_put(XS, rows)
        )
    nearly((state, ys), LAYER.apply(jax.device_get(variables), XS))
    assert ys.addressable_shards[0].data.shape == (BATCH // data, T, M)


@MESHES
def test_nnx_sharded(data, model):
    grid = mesh(data, model)
    with jax.set_mesh(grid):  # where annotated variables are sharded as they are made
        layer = tl.nnx.TLSTM(R, **annotated(nnx.with_partitioning), return_carry=True, rngs=nnx.Rngs(0))
        specs = nnx.get_partition_spec(nnx.state(layer, nnx.Param))
        for (group, name), names in NAMES.items():
            assert specs[group][name].get_value() == P(*names)
            leaf = getattr(getattr(layer, group), name)[...]
            assert leaf.addressable_shards[0].data.shape[-1] == leaf.shape[-1] // model
        xs = jax.device_put(XS, NamedSharding(grid, P("data")))

        def loss(layer, xs):
            state, ys = layer(xs)
            return ys.sum(), (state, ys)

        gradients, (state, ys) = nnx.jit(nnx.grad(loss, has_aux=True))(layer, xs)
        assert gradients["hidden"]["kernel"].get_metadata()["out_sharding"] == NAMES["hidden", "kernel"]
        params = jax.device_get(pure_dict(layer))
        gradients = jax.device_get(nnx.to_pure_dict(gradients))
    assert signature(params) == signature(PARAMS)
    nearly((state, ys), tl.unroll(params, np.asarray(XS), CFG))
    nearly(gradients, gradient_of_the_sum(params), atol=1e-5)


def test_nnx_transformations_name_the_new_axis():
    @nnx.split_rngs(splits=2)
    @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: "layers"})
    def create(rngs):
        return tl.nnx.TLSTM(R, **annotated(nnx.with_partitioning, LIFTED), rngs=rngs)

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry, transform_metadata={nnx.PARTITION_NAME: "layers"})
    def run(xs, layer):
        return layer(xs)

    with jax.set_mesh(jax.make_mesh((2, 1), ("layers", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)):
        layers = create(nnx.Rngs(0))
        specs = nnx.get_partition_spec(nnx.state(layers, nnx.Param))
        for (group, name), names in NAMES.items():
            assert specs[group][name].get_value() == P("layers", *names)
        ys = jax.device_get(run(XS, layers))
        params = jax.device_get(pure_dict(layers))
    rows = [jax.tree.map(lambda p, i=i: p[i], params) for i in range(2)]
    nearly(ys, tl.unroll(rows[1], tl.unroll(rows[0], XS, LIFTED)[1], LIFTED)[1])
