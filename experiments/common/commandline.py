"""What command lines share: parsing into a dataclass, errors in one line, exit statuses.

The experiments parse with tyro, which reads the options' types and help from a dataclass. It is optional: a task's
module can be imported, and its model built and trained from Python, without it. The benchmarks use argparse, since they
also run on machines with a GPU where only jax and flax are installed.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from experiments.common.errors import CommandError, Interrupted, UsageError

try:
    import tyro as tyro
except ModuleNotFoundError:
    tyro = None  # type: ignore[assignment] # parse reports it

Options = TypeVar("Options")


def parse(
    options: type[Options], arguments: Sequence[str] | None, *, prog: str, default: Options | None = None
) -> Options:
    """Parses a command line into a dataclass.

    Args:
        options: the dataclass. Fields that are dataclasses themselves have no prefix on the command line.
        arguments: the command line; None is ``sys.argv[1:]``.
        prog: the module, for the usage message: ``experiments.NAME``.
        default: the values of options that are not given; None takes the dataclass's own.

    Raises:
        UsageError: tyro is not installed.
        SystemExit: with status 2 if the arguments do not fit, with 0 after ``--help``.
    """
    if tyro is None:
        raise UsageError("the command line needs tyro, which is not installed: pip install 'tlstm_jax[experiments]'")
    given: dict[str, Any] = {} if default is None else {"default": default}
    config = (tyro.conf.OmitArgPrefixes,)
    return tyro.cli(options, args=arguments, prog=f"python -m {prog}", config=config, **given)


def peek(arguments: Sequence[str], name: str) -> str | None:
    """The value of one option of a command line, for defaults that depend on it; None if it is not given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{name}", nargs="?")
    value: str | None = getattr(parser.parse_known_args(arguments)[0], name)
    return value


def exit_status(body: Callable[[], int]) -> int:
    """Runs the body of a command and returns its exit status; errors for the user become one line on stderr."""
    try:
        return body()
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except Interrupted as stop:
        message, signum = str(stop), stop.signum
    except KeyboardInterrupt:  # outside the training loop, which saves a checkpoint first
        message, signum = "stopped", signal.SIGINT
    print(f"{message}: run the same command again to resume", file=sys.stderr)
    return 128 + signum


def command_line(module: str, arguments: Sequence[str]) -> str:
    """The command that runs a module, to be copied into a shell."""
    return shlex.join(["python", "-m", module, *arguments])
