"""Shared by the command lines. They use argparse, since machines with a GPU often have only jax and flax, not tyro."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax

from benchmarks.measure import Limits
from benchmarks.record import Report, default_path
from benchmarks.tasks import PRECISIONS
from experiments.common.commandline import command_line, user_path


class Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line, with exit status 2."""

    def __init__(self, module: str, description: str) -> None:
        summary, _, rest = description.partition("\n")
        super().__init__(
            prog=f"python -m {module}",
            description=summary,
            epilog=rest,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Prints an error and exits."""
        self.exit(2, f"error: {message}\n")

    def add_names(self, option: str, names: Iterable[str], default: Sequence[str], about: str) -> None:
        """Adds an option that takes one or more of these names."""
        text = f"{about} (default: {' '.join(default)})"
        self.add_argument(option, nargs="+", choices=tuple(names), default=list(default), metavar="NAME", help=text)

    def add_out(self) -> None:
        """Adds the option for the file of results."""
        text = "results, a .json file (default: a file in benchmarks/results named for the command and the device)"
        self.add_argument("--out", type=json_path, metavar="FILE", help=text)

    def add_precision(self) -> None:
        """Adds the option for the precisions."""
        self.add_names("--precision", PRECISIONS, ["highest"], "default is TF32 on a GPU and float32 on a CPU")

    def add_race(self, passes: Sequence[str], *, repetitions: int, seconds: float) -> None:
        """Adds the options of commands that measure time."""
        self.add_names("--passes", passes, passes, "training is forward and backward")
        self.add_precision()
        text = f"timed calls of each contender, at most (default: {repetitions})"
        self.add_argument("--repetitions", type=positive_int, default=repetitions, metavar="N", help=text)
        text = f"time for them; slow contenders make fewer calls, at least 1 (default: {seconds:g})"
        self.add_argument("--seconds", type=positive_float, default=seconds, metavar="S", help=text)
        self.add_out()

    def add_quick(self, arguments: Sequence[str], defaults: Mapping[str, Any]) -> None:
        """Adds ``--quick``, which changes the defaults."""
        self.add_argument("--quick", action="store_true", help="smaller defaults, for a first look within a minute")
        if "--quick" in arguments:
            self.set_defaults(**defaults)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parses the options and creates the folder of the results."""
        options = self.parse_args(arguments)
        if options.out:
            try:
                options.out.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                self.error(f"--out {options.out}: {error.strerror}")
        return options


def json_path(text: str) -> Path:
    """A file name that ends in .json; ``~`` is the home folder."""
    path = user_path(text)
    if path.suffix != ".json":
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .json")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder")
    return path


def positive_int(text: str) -> int:
    """An integer of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


def positive_float(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def limits(options: argparse.Namespace) -> Limits:
    """How long to measure; a GPU needs more warm-up, until XLA has recorded all command buffers."""
    return Limits(options.repetitions, options.seconds, warmup=5 if jax.default_backend() == "gpu" else 1)


def start_report(module: str, arguments: Sequence[str], options: argparse.Namespace) -> Report:
    """The report of a command, without rows."""
    path = options.out or default_path(module.rpartition(".")[2], "-quick" if options.quick else "")
    return Report(path, command_line(module, arguments), recorded(options))


def recorded(options: argparse.Namespace) -> dict[str, Any]:
    """The options as JSON."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
