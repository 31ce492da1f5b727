"""What users are meant to read: the one exception, and the one warning."""

__all__ = ["UnverifiedCard", "UserError"]


class UserError(ValueError):
    """Something the user can mend; the message names the culprit and says what to do."""


class UnverifiedCard(UserWarning):
    """A card without the hash of what it defines, as earlier versions wrote them."""
