"""The one exception that users are meant to read."""

__all__ = ["UserError"]


class UserError(Exception):
    """Something the user can mend; the message names the culprit and says what to do."""
