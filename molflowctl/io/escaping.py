r"""Text from others in our files: escaped for each format, and read back as it was.

A character that a format cannot hold, or that would mean something else there, is written as
`\u{1b}`: backslash, `u`, and its code point in braces. What reads as such an escape already has its
backslash written as `\u{5c}`, so that every text reads back as it was.

    SDF        a title is one line; no line of a title or value may begin a new record (`$$$$`) or a
               new tag (`> <name>`); an empty line would end a value
    table      of CSV: a cell that begins with = + - @ is a formula to a spreadsheet, unless it is
               a number; it is written with an apostrophe before it
    terminal   control characters could move the cursor, change colours or the title

Control characters (C0, C1, DEL), the separators of lines and paragraphs, marks that turn the
direction of writing, and lone surrogates are escaped in all of them.
"""

from __future__ import annotations

import re

__all__ = [
    "cell",
    "cell_text",
    "shown",
    "tag_name",
    "tag_value",
    "title",
    "unescaped",
]

_CONTROL = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
)
_ESCAPE = re.compile(r"\\u\{([0-9a-f]{1,6})\}")
_ESCAPE_LIKE = r"\\(?=u\{[0-9a-f]{1,6}\})"
_ANYWHERE = re.compile(f"[{_CONTROL}]|{_ESCAPE_LIKE}")
_IN_TITLE = re.compile(rf"[{_CONTROL}\t\n]|{_ESCAPE_LIKE}|^\$(?=\$\$\$)|^ | $")
_IN_NAME = re.compile(rf"[{_CONTROL}\t\n<>]|{_ESCAPE_LIKE}|^ | $")
_IN_HEADING = re.compile(rf"[{_CONTROL}\n]|{_ESCAPE_LIKE}")
_IN_VALUE = re.compile(
    rf"[{_CONTROL}]|{_ESCAPE_LIKE}|^\$(?=\$\$\$)|^>(?=.*<.*>)"
    r"|(?<=\n)\n|\A\n|\n\Z|^[ \t](?=[ \t]*$)",
    re.MULTILINE,
)
_ON_TERMINAL = re.compile(f"[{_CONTROL}\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_LONGEST = 300  # characters of a foreign text on the terminal


def _coded(found: re.Match[str]) -> str:
    return f"\\u{{{ord(found[0]):x}}}"


def title(text: str) -> str:
    """A name as the title line of an SDF record."""
    return _IN_TITLE.sub(_coded, text)


def tag_name(text: str) -> str:
    """A name as it can stand between `<` and `>` in an SDF."""
    return _IN_NAME.sub(_coded, text)


def tag_value(text: str) -> str:
    """A value as the lines of an SDF tag, none of them empty."""
    return _IN_VALUE.sub(_coded, text)


def cell(text: str, heading: bool = False) -> str:
    """A text as a cell of a CSV file; a heading is one line. Numbers stay numbers."""
    text = (_IN_HEADING if heading else _ANYWHERE).sub(_coded, text)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def cell_text(text: str) -> str:
    """What `cell` was given."""
    if text.startswith("'") and _FORMULA.match(text):
        text = text[1:]
    return unescaped(text)


def unescaped(text: str) -> str:
    """What `title`, `tag_name` or `tag_value` was given."""
    return _ESCAPE.sub(_decoded, text) if "\\u{" in text else text


def _decoded(found: re.Match[str]) -> str:
    code = int(found[1], 16)
    # A surrogate alone is no character: nothing could write it.
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else found[0]


def shown(text: str, longest: int = _LONGEST) -> str:
    """A text for the terminal: one line, nothing in it is a command, and it has an end."""
    text = _ON_TERMINAL.sub(_coded, text[: longest + 1])
    return text if len(text) <= longest else f"{text[:longest]}..."
