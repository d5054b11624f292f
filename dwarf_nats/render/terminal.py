"""Text from outside, made safe for a terminal.

Names, errors, reasons and payloads come from callers and task services. Printed as they are, an escape sequence in one of
them moves the cursor, changes the window title or hides the text after it; a bidirectional mark changes the order in which a
line is read; a newline forges a line of ours. Every such character is printed as its escape.
"""

from __future__ import annotations

import re

_UNSAFE = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters of ASCII and Latin-1 (C0, DEL, C1), but tab and newline
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e"  # characters without a shape of their own
    r"\u200b\u200e\u200f"  # zero width space; marks of direction
    r"\u2028-\u202e\u2060-\u206f"  # separators of lines and paragraphs; embeddings, overrides and isolates
    r"\u3164\ufeff\uffa0\ufff0-\ufffb"
    r"\ud800-\udfff"  # lone surrogates
    r"\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # musical controls; tags
)
_IN_LINES = re.compile(f"[{_UNSAFE}]")
_IN_A_LINE = re.compile(f"[\\t\\n{_UNSAFE}]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def one_line(text: str) -> str:
    r"""The text in one line: newlines, tabs, control characters and bidirectional marks as `\n`, `\t`, `\x1b`, `\u202e`."""
    return text if text.isascii() and text.isprintable() else _IN_A_LINE.sub(_escape, text)


def in_lines(text: str) -> str:
    """The text with the same escapes as `one_line`, but newlines and tabs stay: they are ours."""
    return _IN_LINES.sub(_escape, text)


def in_json(text: str) -> str:
    r"""JSON that means the same, with every character that is unsafe on a terminal as a `\u` escape.

    Encoders escape ASCII's control characters alone. In JSON the others can stand in strings only, where an escape is
    the same character.
    """
    return _IN_LINES.sub(_json_escape, text)


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
