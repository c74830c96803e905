"""The options of the recurrent layer: the models of the paper, and the rivals that the tLSTM is compared with."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import jax
import jax.numpy as jnp

import tlstm_jax as tl
from experiments.common.commandline import tyro
from experiments.rivals import RIVALS, Rival, arguments
from experiments.rivals.layer import core_size
from experiments.running.options import LARGEST, LATER, check_size, parse_count
from tlstm_jax.stacked import StackedLSTMConfig

TENSORIZED = ("tlstm", "trnn")
PAPER_MODELS = (*TENSORIZED, "slstm")
if TYPE_CHECKING:
    ModelName = str
else:  # so that the command line lists the choices
    ModelName = Literal[(*PAPER_MODELS, *RIVALS)]
Preset = Literal["slstm", "trnn", "2d", "2d-M", "2d-F", "2d+CN", "3d", "3d+LN", "3d+CN"]
PRESETS: dict[str, dict[str, Any]] = {
    "slstm": {"model": "slstm"},
    "trnn": {"model": "trnn", "dims": 1, "norm": "none"},
    "2d": {"dims": 1, "norm": "none"},
    "2d-M": {"dims": 1, "norm": "none", "memory_conv": False},
    "2d-F": {"dims": 1, "norm": "none", "kernel_size": (2,)},
    "2d+CN": {"dims": 1, "norm": "channel"},
    "3d": {"dims": 2, "norm": "none"},
    "3d+LN": {"dims": 2, "norm": "layer"},
    "3d+CN": {"dims": 2, "norm": "channel"},
}
"""The models of the paper by the paper's names, and 2d+CN; ``dims`` is the number of tensorized dimensions, each with L
locations."""
FIXED = ("model", "tensor_shape", "kernel_size", "memory_conv", "norm", "num_layers", "shared")
"""The options that a preset sets."""
FLAGS = ("memory_conv", "shared")
"""The options that are given without a value, so that even the default is refused where it does not apply."""
FORGET_BIAS = 4.0
"""The initial forget bias without a time scale, unless the task has another."""
SET_BY_TIME_SCALE = ("forget_bias", "conveyor_bias")
"""The options that time_scale replaces; with it they are None."""

MODEL_HELP = "\n".join(
    [
        "tlstm: Tensorized LSTM.",
        "trnn: No memory cells (eqs. 5-8, in the paper with `--norm none`).",
        "slstm: Stacked LSTM layers, which share their parameters in the paper.",
        *(f"{name}: {arguments.summary(rival)}" for name, rival in RIVALS.items()),
    ]
)
"""One line about each model."""


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The recurrent layer."""

    preset: Preset | None = None
    """A model of the paper by its name there; together with --depth it replaces --model, --tensor-shape and so on."""
    depth: int | None = None
    """L of the preset. Default: the depth of the task's default model."""
    params: str | None = None
    """Number of core parameters, all but those of the head, for example 10M or 250K, instead of --features: sets M to
    the nearest."""
    model: ModelName = dataclasses.field(default="tlstm", metadata={"help": MODEL_HELP})
    rival_options: tuple[str, ...] = ()
    """Options of a model that the tLSTM is compared with, as name=value; `python -m experiments.rivals` lists them."""
    features: int = 64
    """M: channels at each location, or units in each layer; determines the number of parameters."""
    tensor_shape: tuple[int, ...] = (3,)
    """Locations along each tensorized dimension: `3` is the paper's 2D tLSTM, `3 3` its 3D."""
    kernel_size: tuple[int, ...] = (3,)
    """Kernel size along each dimension, or one for all; 2 is without feedback (the paper's tLSTM-F)."""
    memory_conv: bool = True
    """Whether to use the memory-cell convolution; without it, the paper's tLSTM-M."""
    norm: Literal["channel", "layer", "none"] = "channel"
    """Normalization of the hidden state."""
    norm_epsilon: float = 1e-6
    """Epsilon of the normalization, added to the variance."""
    kernel_scale: float = 1.0
    """Scale of the variance of the initial recurrent kernel; 1 is Glorot initialization, gate by gate."""
    time_scale: float | None = None
    """For how many timesteps memory has to last; sets the initial biases of the gates and of the memory kernel
    (docs/choosing.md). 0: use --forget-bias and --conveyor-bias instead. Default: what the task needs; 0 for trnn, and
    if one of these biases is given."""
    forget_bias: float | None = None
    """Initial bias of the forget gate, instead of --time-scale. Default: 1 for language, else 4, the paper's for
    images."""
    conveyor_bias: float | None = None
    """Initial bias of the memory kernel's logit that moves memory cells from the input's corner towards the output's,
    instead of --time-scale. Default: 3 for tLSTMs with the memory-cell convolution and at least two tensorized
    dimensions, which do not always learn memorization without it (docs/results.md), else 0."""
    num_layers: Annotated[int | None, tyro.conf.arg(aliases=("--layers",))] = None
    """Number of layers of slstm, default 3, and of the models that it is compared with; each has its own default."""
    shared: bool = True
    """Whether the layers of slstm share one set of parameters, as in the paper."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Dtype of matrix products and hidden states; memory cells, gates and normalization are always float32."""
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the parameters."""
    remat: int = 0
    """Rematerialize in chunks of this many timesteps, to save memory; 0 disables it."""

    @classmethod
    def recorded(cls, config: Mapping[str, Any]) -> ModelOptions:
        """The options in a run's configuration, which may lack options that were added later."""
        names = {field.name for field in dataclasses.fields(cls)}
        given: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in config.items()}
        return cls(**{name: x for name, x in {**LATER, **given}.items() if name in names})

    def resolved(
        self,
        default: ModelOptions,
        time_scale: Callable[[int], float] = lambda delay: 0.0,
        forget_bias: float = FORGET_BIAS,
        inputs: int = 1,
    ) -> ModelOptions:
        """The same model with ``preset``, ``depth``, ``params`` and unset options replaced by their values.

        Args:
            default: the task's default options.
            time_scale: maps the delay L - 1 to the task's default time scale.
            forget_bias: the task's default forget bias without a time scale.
            inputs: R, the number of input features, which is part of ``params``.

        Raises:
            ValueError: options contradict each other, or the model does not have one of them.
        """
        chosen = self
        if self.preset is None and self.depth is not None:
            raise ValueError(f"depth belongs to a preset, got {self.depth}: add --preset, or give --tensor-shape.")
        if self.preset is not None:
            for name in FIXED:
                if getattr(self, name) != getattr(default, name):
                    raise ValueError(f"{name} is set by --preset {self.preset}, got {getattr(self, name)}.")
            depth = default.config.depth if self.depth is None else self.depth
            check_size("depth", depth)
            fixed = dict(PRESETS[self.preset])
            dims = fixed.pop("dims", None)
            fixed |= {"num_layers": depth} if dims is None else {"tensor_shape": (depth,) * dims}
            chosen = dataclasses.replace(self, preset=None, depth=None, **fixed)
        usual = dataclasses.replace(default, forget_bias=forget_bias) if default.forget_bias is None else default
        chosen.check(usual)
        chosen = chosen.started(default, time_scale, forget_bias)
        if chosen.rival is None:
            chosen = dataclasses.replace(chosen, num_layers=chosen.layers)
        if chosen.params is None:
            return chosen
        if chosen.features != default.features:
            raise ValueError(f"params sets features, got params {chosen.params} and features {chosen.features}.")
        return dataclasses.replace(
            chosen, params=None, features=chosen.nearest_features(parse_count(chosen.params), inputs)
        )

    def check_given(self, names: Collection[str]) -> None:
        """Raises a ValueError if ``names`` has an option that ``preset`` or ``params`` sets, even to the same value.

        So it does for a flag that the model does not have: ``--shared`` as well as ``--no-shared``.
        """
        if self.preset is not None:
            for name in FIXED:
                if name in names:
                    raise ValueError(
                        f"{name} is set by --preset {self.preset}, got {getattr(self, name)}: leave one of them out."
                    )
        if self.params is not None and "features" in names:
            raise ValueError(f"params sets features, got params {self.params} and features {self.features}.")
        for name in FLAGS:
            if name in names and name in self.meaningless:
                raise self.not_applicable(name, getattr(self, name))

    @property
    def recurrent_size(self) -> int:
        """The number of parameters of the recurrent kernel, or of the recurrent kernels of an sLSTM's layers.

        Raises:
            ValueError: the model is a rival, of which only :meth:`core_size` is known.
        """
        if self.rival is not None:
            raise ValueError(f"recurrent_size is known for {', '.join(PAPER_MODELS)}, got model {self.model}.")
        shapes = (self.stack_config if self.model == "slstm" else self.config).param_shapes(1)
        leaves = jax.tree_util.tree_leaves_with_path(shapes, is_leaf=lambda node: isinstance(node, tuple))
        kernels = [shape for path, shape in leaves if path[-1].key == "kernel" and path[0].key != "input"]
        return sum(map(math.prod, kernels))

    def core_size(self, inputs: int) -> int:
        """The number of core parameters, all except those of the head, with ``inputs`` input features."""
        if self.rival is None:
            shapes = (self.stack_config if self.model == "slstm" else self.config).param_shapes(inputs)
            return sum(map(math.prod, jax.tree.leaves(shapes, is_leaf=lambda node: isinstance(node, tuple))))
        return core_size(cast(Rival, self.layer()), inputs)

    def started(self, default: ModelOptions, time_scale: Callable[[int], float], forget_bias: float) -> ModelOptions:
        """The same model with either a time scale or the biases that a time scale sets; see :meth:`resolved`.

        Raises:
            ValueError: the time scale is out of range, or a bias that it sets is given too.
        """
        biases = {name: getattr(self, name) for name in SET_BY_TIME_SCALE if getattr(self, name) is not None}
        scale = self.time_scale
        if scale is None:
            scale = 0.0 if biases or "time_scale" in self.meaningless else time_scale(self.delay)
        elif scale != 0 and not 1 <= scale < math.inf:
            raise ValueError(f"time_scale must be 0 (none) or a number of timesteps, at least 1, got {scale}.")
        if self.rival is not None:  # rivals have their own default forget bias
            return dataclasses.replace(self, time_scale=float(scale))
        if scale == 0:
            given = self.forget_bias if self.forget_bias is not None else forget_bias
            conveyor_bias = self.config.conveyor_bias
            return dataclasses.replace(self, time_scale=0.0, forget_bias=given, conveyor_bias=conveyor_bias)
        for name, bias in biases.items():
            if bias != getattr(default, name):  # the biases of --paper are replaced
                raise ValueError(
                    f"time_scale sets {name}, got both time_scale {scale:g} and {name} {bias:g}: leave one of them out."
                )
        return dataclasses.replace(self, time_scale=float(scale), forget_bias=None, conveyor_bias=None)

    def nearest_features(self, budget: int, inputs: int) -> int:
        """The M with which :meth:`core_size` is nearest to ``budget``."""
        unit = 1 if self.rival is None else self.rival.features_multiple

        @functools.cache
        def size(units: int) -> int:
            return dataclasses.replace(self, features=units * unit).core_size(inputs)

        plain = self.model == "slstm" or self.rival is not None or self.norm == "none"
        below, above = (1 if plain else 2), LARGEST  # normalization needs 2 channels
        units = min(64, above)
        while above - below > 1:  # sizes grow about as M^2, and counting takes tens of milliseconds
            if size(units) < budget:
                below = units
            else:
                above = units
            guess = round(units * math.sqrt(budget / size(units)))
            units = min(max(guess, below + 1), above - 1)
        return unit * min(below, above, key=lambda units: abs(size(units) - budget))

    def check(self, default: ModelOptions) -> None:
        """Raises a ValueError for a size that is too large, and for an option that the model does not have."""
        for name in ("features", "num_layers", "tensor_shape", "kernel_size"):
            given = getattr(self, name)
            for size in given if isinstance(given, tuple) else () if given is None else (given,):
                check_size(name, size, least=-LARGEST)  # the library refuses sizes below 1
        for name in self.meaningless:
            given, usual = getattr(self, name), default.layers if name == "num_layers" else getattr(default, name)
            if given not in (usual, None) and (given, usual) != (0, None):  # None becomes 0 for these models
                raise self.not_applicable(name, " ".join(given) if name == "rival_options" else given)
        if self.rival is not None:
            options = arguments.parse(self.model, self.rival, self.rival_options)
            for name in self.rival.fix_features:
                if self.params is not None and options.get(name) is not None:
                    raise ValueError(
                        f"params searches the width M, which {name} of {self.model} fixes, got params {self.params} "
                        f"and {name} {options[name]}: leave out {name}, or give --features instead of --params."
                    )

    def not_applicable(self, name: str, given: Any) -> ValueError:
        """The error for an option that the model does not have."""
        without = (self.model, name) == ("tlstm", "conveyor_bias")  # which it has if there is a memory convolution
        model = "a tlstm without memory_conv" if without else self.model
        return ValueError(f"{name} does not apply to {model}, got {given}: leave it out.")

    @property
    def meaningless(self) -> tuple[str, ...]:
        """The options that do not apply to the model."""
        tensor = ("tensor_shape", "kernel_size", "memory_conv", "norm", "norm_epsilon", "kernel_scale", "conveyor_bias")
        if self.rival is not None:
            lacks = {"num_layers", "time_scale", "forget_bias"} - self.rival.__dataclass_fields__.keys()
            return (*tensor, "shared", "remat", *sorted(lacks))
        if self.model == "slstm":
            return (*tensor, "rival_options")
        stack = ("num_layers", "shared", "rival_options")
        if self.model == "trnn":
            return ("memory_conv", "time_scale", *SET_BY_TIME_SCALE, *stack)
        return stack if self.memory_conv else ("conveyor_bias", *stack)

    @property
    def config(self) -> tl.TLSTMConfig:
        """The configuration of the tLSTM or tRNN.

        Raises:
            ValueError: as :class:`tlstm_jax.TLSTMConfig`.
        """
        conveyor_bias = self.conveyor_bias
        if conveyor_bias is None:
            conveyor_bias = 3.0 if "conveyor_bias" not in self.meaningless and len(self.tensor_shape) > 1 else 0.0
        start = self.gate_start if self.time_scale else {**self.gate_start, "conveyor_bias": conveyor_bias}
        return tl.TLSTMConfig(
            features=self.features,
            tensor_shape=self.tensor_shape,
            kernel_size=self.kernel_size[0] if len(self.kernel_size) == 1 else self.kernel_size,
            cell="rnn" if self.model == "trnn" else "lstm",
            memory_conv=self.memory_conv,
            norm=None if self.norm == "none" else self.norm,
            norm_epsilon=self.norm_epsilon,
            kernel_scale=self.kernel_scale,
            **start,
            dtype=jnp.dtype(self.precision),
            param_dtype=jnp.dtype(self.param_dtype),
        )

    @property
    def stack_config(self) -> StackedLSTMConfig:
        """The configuration of the sLSTM.

        Raises:
            ValueError: as :class:`tlstm_jax.stacked.StackedLSTMConfig`.
        """
        return StackedLSTMConfig(
            self.features,
            self.layers,
            shared=self.shared,
            **self.gate_start,
            dtype=jnp.dtype(self.precision),
            param_dtype=jnp.dtype(self.param_dtype),
        )

    @property
    def gate_start(self) -> dict[str, Any]:
        """The argument that sets the initial biases of the gates: the time scale or, without one, the forget bias."""
        if self.time_scale:
            return {"time_scale": self.time_scale}
        return {"forget_bias": FORGET_BIAS if self.forget_bias is None else self.forget_bias}

    @property
    def delay(self) -> int:
        """The delay of the outputs in timesteps: L - 1, and 0 for models other than the tLSTM and the tRNN."""
        return 0 if self.model not in TENSORIZED else self.config.delay

    def check_task(self, task: str) -> None:
        """Raises a ValueError if the model is a rival that cannot be trained on the task."""
        if self.rival is not None and task not in self.rival.tasks:
            able = ", ".join(self.rival.tasks)
            raise ValueError(f"model {self.model} cannot be trained on {task}, only on {able}: take another model.")

    @property
    def rival(self) -> type[Rival] | None:
        """The rival's class; None for the paper's models."""
        return RIVALS.get(self.model)

    @property
    def layers(self) -> int:
        """The number of layers."""
        if self.num_layers is not None:
            return self.num_layers
        if self.rival is None:
            return 3
        return getattr(self.rival, "num_layers", 1)

    def layer(self) -> tl.linen.TLSTM | tl.linen.StackedLSTM | Rival:
        """The recurrent layer.

        Raises:
            ValueError: an option does not fit; the message names it.
        """
        if self.rival is not None:
            given: dict[str, Any] = {name: getattr(self, name) for name in ("num_layers", "forget_bias")}
            given["time_scale"] = self.time_scale or None
            options = arguments.parse(self.model, self.rival, self.rival_options)
            options |= {name: x for name, x in given.items() if x is not None}
            dtypes: dict[str, Any] = {"dtype": jnp.dtype(self.precision), "param_dtype": jnp.dtype(self.param_dtype)}
            return self.rival(self.features, **dtypes, **options)
        if self.remat < 0:
            raise ValueError(f"remat must be 0 or a positive number of timesteps, got {self.remat}.")
        remat = self.remat or False
        if self.model != "slstm":
            return tl.linen.TLSTM(self.config, remat=remat)
        return tl.linen.StackedLSTM(**dataclasses.asdict(self.stack_config), remat=remat)

    @property
    def resolved_depth(self) -> int:
        """The depth L; for models other than the tLSTM and the tRNN, the number of layers."""
        return self.layers if self.model not in TENSORIZED else self.config.depth

    @property
    def name(self) -> str:
        """The model's name in the paper, for example "3D tLSTM+CN"; for a rival, ``model`` and its options."""
        if self.rival is not None:
            return f"{self.model} ({', '.join(self.rival_options)})" if self.rival_options else self.model
        if self.model == "slstm":
            return f"sLSTM{'' if self.shared else ' (unshared)'}"
        name = f"{len(self.tensor_shape) + 1}D {'tRNN' if self.model == 'trnn' else 'tLSTM'}"
        if self.model == "tlstm" and not self.memory_conv:
            name += "-M"
        if max(self.config.kernel_shape) == 2:
            name += "-F"
        return name + {"channel": "+CN", "layer": "+LN", "none": ""}[self.norm]

    @property
    def title(self) -> str:
        """Name and sizes, for titles and legends."""
        sizes = "" if self.model not in TENSORIZED else f" P={'x'.join(map(str, self.config.tensor_shape))}"
        return f"{self.name} L={self.resolved_depth}{sizes} M={self.features}"
