"""Errors that a user can fix."""


class UserError(ValueError):
    """A mistake in a config, a file or an argument. The tools print its message alone, without a traceback."""
