"""The options of the rivals as words ``name=value``, and their explanation for the command line."""

from __future__ import annotations

import inspect
import re
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Any

from experiments.rivals.layer import CellStack, Rival

COMMON = {*Rival.__dataclass_fields__, *CellStack.__dataclass_fields__, "time_scale", "forget_bias"}
"""The fields that have separate command-line options."""


def own(rival: type[Rival]) -> dict[str, Any]:
    """The types of a rival's own options, by name."""
    hints = typing.get_type_hints(rival)
    return {name: hints[name] for name in rival.__dataclass_fields__ if name not in COMMON}


def parse(model: str, rival: type[Rival], words: Sequence[str]) -> dict[str, Any]:
    """Parses words ``name=value`` into the arguments of a rival.

    Raises:
        ValueError: a word has no ``=``, the model has no such option or it is given twice, or the value does not fit.

    Example:
        >>> from experiments.rivals.lstm import LSTM
        >>> parse("lstm", LSTM, ["output_peephole=true"])
        {'output_peephole': True}
    """
    known, found = own(rival), dict[str, Any]()
    for word in words:
        name, equals, text = word.partition("=")
        name = name.replace("-", "_")
        if not equals or name not in known:
            has = f"one of {', '.join(known)}" if known else "nothing: it has no options of its own"
            raise ValueError(f"rival_options of {model} must be name=value with {has}, got {word!r}.")
        if name in found:
            raise ValueError(f"rival_options must have {name} once, got it twice.")
        try:
            found[name] = value(text, known[name])
        except ValueError as error:
            raise ValueError(
                f"rival_options: {name} of {model} must be {described(known[name])}, got {text!r}."
            ) from error
    return found


def value(text: str, kind: Any) -> Any:
    """Parses a value of a type: bool, int, float, str, a tuple of these separated by commas, or one of them | None.

    Raises:
        ValueError: the text is not such a value.
    """
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kinds = [each for each in typing.get_args(kind) if each is not type(None)]
        return None if text.lower() == "none" else value(text, kinds[0])
    if typing.get_origin(kind) is tuple:
        return tuple(value(part, typing.get_args(kind)[0]) for part in text.split(",") if part)
    if typing.get_origin(kind) is typing.Literal:
        if text not in typing.get_args(kind):
            raise ValueError
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    return kind(text)


def described(kind: Any) -> str:
    """A type in words."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kinds = [each for each in typing.get_args(kind) if each is not type(None)]
        return f"{described(kinds[0])} or none"
    if typing.get_origin(kind) is tuple:
        return "numbers separated by commas"
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    return {bool: "true or false", int: "an integer", float: "a number", str: "a word"}[kind]


def summary(rival: type[Rival]) -> str:
    """A description of a model in one line."""
    return plain((inspect.getdoc(rival) or "").splitlines()[0])


def plain(text: str) -> str:
    """Text without the marks of reStructuredText, in one line."""
    return re.sub(r"(?::\w+:)?`+([^`]*)`+", r"\1", " ".join(text.split()))


def explanation(model: str, rival: type[Rival]) -> str:
    """A model's line of help, and a line for each of its options with its default."""
    import docstring_parser  # only here, so that the models need nothing but jax, flax and optax

    documented = docstring_parser.parse(inspect.getdoc(rival) or "").params
    about = {param.arg_name: plain(param.description or "") for param in documented}
    lines = [f"{model}: {summary(rival)}"]
    for name in own(rival):
        default = rival.__dataclass_fields__[name].default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default).lower()
        lines += textwrap.wrap(
            f"{name}={shown}: {about[name]}", 110, initial_indent="    ", subsequent_indent="        "
        )
    return "\n".join(lines)
