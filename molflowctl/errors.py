"""What users are meant to read: the one exception, and warnings."""

__all__ = ["BrokenPlugin", "FewerResults", "OldSpelling", "UnverifiedCard", "UserError"]


class UserError(ValueError):
    """Something the user can mend; the message names the culprit and says what to do."""


class UnverifiedCard(UserWarning):
    """A card without the hash of what it defines, as earlier versions wrote them."""


class BrokenPlugin(UserWarning):
    """An installed plug-in that cannot be imported; everything else goes on without it."""


class OldSpelling(FutureWarning):
    """Something that is written otherwise now; the old way works for one more release."""


class FewerResults(UserWarning):
    """Some of what was asked for in Python is not there; a command exits with status 3."""
