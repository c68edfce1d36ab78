"""What a command tells a person in one line, with the exit status that goes with it."""

INTERRUPTED = 130
"""The status that a shell gives for SIGINT."""


class UserError(Exception):
    """A mistake in the input: one line that names the file, line or field, and what would mend it.

    The command prints it without a traceback and exits with status 2; the API raises it.
    """

    status = 2


class MidwayError(UserError):
    """A mistake far into the input: what was finished before it is kept for the same command."""


class RunError(UserError):
    """A run that can't go on, though its input was in order: status 1."""

    status = 1


class StoppedError(UserError):
    """A run that was told to stop, and has saved what the same command goes on from: status 75 (EX_TEMPFAIL)."""

    status = 75


def first_line(error: BaseException) -> str:
    """What a library's error says in its first line, for one line of ours; its kind, where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
