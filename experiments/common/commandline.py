"""Command lines: parsing into a dataclass, errors in one line, exit statuses.

The experiments parse with tyro, which reads the options' types and help from a dataclass. It is optional: a task's
module can be imported, and its model built and trained from Python, without it. The benchmarks use argparse, since they
also run on machines with a GPU where only jax and flax are installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import functools
import io
import os
import select
import shlex
import signal
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

from experiments.common.errors import CommandError, Interrupted, UsageError

try:
    import tyro as tyro
except ModuleNotFoundError:
    tyro = None  # type: ignore[assignment] # parse reports it

Options = TypeVar("Options")

GONE = (errno.EPIPE, errno.EIO)
"""The error numbers of writing to a pipe without a reader and to a closed terminal."""

SHOWN_CHOICES = 12
"""The usage lists the choices of an option up to this number; an option with more lists them in its description."""


def parse(
    options: type[Options], arguments: Sequence[str] | None, *, prog: str, default: Options | None = None
) -> Options:
    """Parses a command line into a dataclass.

    Args:
        options: the dataclass. Fields that are dataclasses themselves have no prefix on the command line.
        arguments: the command line; None is ``sys.argv[1:]``.
        prog: the module, for the usage message: ``experiments.NAME``.
        default: the values of options that are not given; None takes the dataclass's defaults.

    Raises:
        UsageError: tyro is not installed, or the method ``check_given`` of the dataclass or of one that it contains,
            which gets the names of the options that were given, raises a ValueError.
        SystemExit: with status 2 if the arguments do not fit, with 0 after ``--help``.
    """
    if tyro is None:
        raise UsageError("the command line needs tyro, which is not installed: pip install 'tlstm_jax[experiments]'")
    given: dict[str, Any] = {} if default is None else {"default": default}
    config = (tyro.conf.OmitArgPrefixes,)
    arguments = sys.argv[1:] if arguments is None else arguments
    reflow_help(options)
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(optional_value)
    registry.primitive_rule(one_of_many)
    with registry:
        parsed: Any = tyro.cli(options, args=arguments, prog=f"python -m {prog}", config=config, **given)
    try:
        for part in (parsed, *(getattr(parsed, field.name) for field in dataclasses.fields(parsed))):
            if hasattr(part, "check_given"):
                part.check_given(given_options(arguments))
    except ValueError as error:
        raise UsageError(error) from error
    return cast(Options, home_expanded(parsed))


def reflow_help(options: type[Any]) -> None:
    """Joins the lines of each option's description, which tyro would break where the source does.

    Descriptions that are composed in code are in the metadata of the dataclass's field, from which tyro takes them.
    These stay as they are.
    """
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        if dataclasses.is_dataclass(kind := hints[field.name]):
            reflow_help(cast(type[Any], kind))
        if "help" in field.metadata:
            continue
        for base in options.__mro__[:-1]:
            if text := descriptions(base).get(field.name):
                field.metadata = types.MappingProxyType({**field.metadata, "help": " ".join(text.split())})
                break


@functools.cache  # parsing the source of a class takes tens of milliseconds
def descriptions(options: type[Any]) -> dict[str, str | None]:
    """The description of each option in the source of a dataclass, without inherited options."""
    import docstring_parser  # which tyro requires

    return {param.arg_name: param.description for param in docstring_parser.parse_from_object(options).params}


def optional_value(info: Any) -> Any:
    """A rule for tyro: the help of an option of type ``X | None`` shows it as one of ``X``, without ``{None}|``."""
    kinds = [kind for kind in typing.get_args(info.type) if kind is not type(None)]
    if len(kinds) != 1 or len(typing.get_args(info.type)) != 2:
        return None
    inner_info = tyro.constructors.PrimitiveTypeInfo.make(kinds[0], info.markers)
    inner = tyro.constructors.ConstructorRegistry.get_primitive_spec(inner_info)
    if isinstance(inner, tyro.constructors.UnsupportedTypeAnnotationError):
        return None
    return dataclasses.replace(
        inner,
        instance_from_str=lambda words: None if words == ["None"] else inner.instance_from_str(words),
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else inner.str_from_instance(value),
        choices=(*inner.choices, "None") if inner.choices else None,
    )


def one_of_many(info: Any) -> Any:
    """A rule for tyro: the help of an option with more than :data:`SHOWN_CHOICES` choices shows it as NAME."""
    choices = typing.get_args(info.type)
    if typing.get_origin(info.type) is not typing.Literal or len(choices) <= SHOWN_CHOICES:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: value in choices,
        str_from_instance=lambda value: [value],
        choices=choices,
    )


def given_options(arguments: Sequence[str]) -> set[str]:
    """The names of the options on a command line, whatever their values; ``--no-x`` gives both ``x`` and ``no_x``."""
    names = {word[2:].partition("=")[0].replace("-", "_") for word in arguments if word.startswith("--")}
    return names | {name.removeprefix("no_") for name in names}


def user_path(text: str | Path) -> Path:
    """A path with ``~`` replaced by the home folder; shells do that in ``--out ~/x``, but not in ``--out=~/x``."""
    return Path(os.path.expanduser(text))


def home_expanded(value: Any) -> Any:
    """A path, or a dataclass or tuple that contains paths, with ``~`` replaced by the home folder."""
    if isinstance(value, Path):
        return user_path(value)
    if isinstance(value, tuple):
        return tuple(map(home_expanded, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **{name: home_expanded(part) for name, part in parts.items()})
    return value


def peek(arguments: Sequence[str], name: str) -> str | None:
    """The value of one option of a command line, for defaults that depend on it; None if it is not given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{name}", nargs="?")
    value: str | None = getattr(parser.parse_known_args(arguments)[0], name)
    return value


def exit_status(body: Callable[[], int], *, resumable: bool = True) -> int:
    """Runs the body of a command and returns its exit status; errors for the user become one line on stderr.

    If the output has no reader any more (a pipe to ``head``, a closed terminal), the command ends without a message and
    with the status that SIGPIPE would give.

    Args:
        body: the command.
        resumable: whether a command that was stopped continues when it is run again.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")  # for characters that the stream's encoding does not have
    try:
        status = reported(body, resumable)
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:
        closed = [stream for stream in (sys.stdout, sys.stderr) if not has_reader(stream)]
        if error.errno not in GONE or not closed:
            raise
        for stream in closed:  # so that Python does not report the same error when it flushes them at exit
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        return 128 + int(signal.SIGPIPE)
    return status


def has_reader(stream: TextIO) -> bool:
    """Whether a stream has a reader: False for a pipe whose reader has ended, or a closed terminal."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # a stream without a file; Windows has no poll
        return True


def reported(body: Callable[[], int], resumable: bool) -> int:
    """Runs the body of a command, reports an error for the user in one line, and returns the exit status."""
    try:
        return body()
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except Interrupted as stop:
        message, signum = str(stop), stop.signum
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):  # jax's error is a RuntimeError
            raise
        reason = " ".join(str(error).split())[:200]
        print(f"error: not enough memory ({reason}): give a smaller model, sequence or batch", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # outside the training loop, which saves a checkpoint first
        message, signum = "stopped", signal.SIGINT
    print(f"{message}: run the same command again to resume" if resumable else message, file=sys.stderr)
    return 128 + signum


def command_line(module: str, arguments: Sequence[str]) -> str:
    """The command that runs a module, to be copied into a shell."""
    return shlex.join(["python", "-m", module, *arguments])
