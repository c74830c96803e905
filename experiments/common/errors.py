"""Errors that end a command."""

from __future__ import annotations


class CommandError(ValueError):
    """Ends a command. The message, one line for the user, goes to stderr; the exit status is ``status``."""

    status = 2


class UsageError(CommandError):
    """An option, or a combination of options, that does not fit."""


class Interrupted(Exception):
    """Ends a command that has saved its state after a signal; the exit status is 128 + ``signum``."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum
