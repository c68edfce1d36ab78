"""The one kind of error that a person can mend by changing what they gave."""


class UserError(Exception):
    """A mistake in the input: one line that names the file, line or field, and what would mend it.

    The command prints it without a traceback and exits with status 2; the API raises it.
    """
