"""Text of any origin inside a label of a Mermaid diagram, and how times are written there.

Letters and digits of every script stand for themselves, and so does punctuation that means nothing to Mermaid. Everything
else becomes an entity code (`#59;` is a semicolon), so no text can end its label or start a comment, a directive or HTML.
Mermaid reads formulas, icons and some more out of the decoded text; their marks are parted by a character without width.
Line breaks are ours alone: `<br/>`.
"""

from __future__ import annotations

import re
import unicodedata

BREAK = "<br/>"
_PLAIN = frozenset(" .,-_/()+=!?'·…")
_LIGATURE = "\ufb02"
"""A letter that Mermaid uses to mark entity codes while it parses; labels must not contain it."""
_UNSEEN = frozenset(("Cc", "Cs", "Cn", "Co"))
"""Control characters, lone surrogates, and code points that are no characters."""
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of the text after them, so that a label would be read wrongly."""
_MARKS = re.compile(
    r"""  \$(?=\$)              # a formula
    | :(?=fa-|//)             # an icon; a link
    | (?<=www)(?=\.) | (?=@)  # links
    | \\(?=n)                 # a line break
    | ~(?=~)                  # struck text
    | ﬂ(?=°) | ¶(?=ß)         # a decoded entity code
    | ^(?=[-+*\#]+\ ) | (?<=^\d)(?=\d*[.)]\ )  # a list; a heading
    """,
    re.VERBOSE | re.IGNORECASE,
)
_WORD_JOINER = "\u2060"


def escape(text: str) -> str:
    """`text` as one line of a label."""
    shown = _MARKS.sub(lambda found: found[0] + _WORD_JOINER, "".join(map(_visible, text)))
    escaped = "".join(
        char if (char.isalnum() and char != _LIGATURE) or char in _PLAIN else f"#{ord(char)};" for char in shown
    )
    # Mermaid takes any line with `direction LR` in it for that statement, even within quotes.
    return escaped.replace("direction ", "direction#32;")


def label(*lines: str) -> str:
    """A quoted label of these lines, empty ones left out."""
    return f'"{BREAK.join(escape(line) for line in lines if line) or " "}"'


def clip(text: str, length: int) -> str:
    """The text in one line with single spaces, at most `length` characters: its beginning, `…` and its end."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    tail = (length - 1) // 3
    return f"{text[: length - 1 - tail]}…{text[len(text) - tail :]}"


def span(microseconds: int) -> str:
    """A length of time, roughly: `0.4 ms`, `12 ms`, `3.1 s`, `4 min 5 s`, `2 h 30 min`, `3 d 4 h`. Below zero: `0 ms`."""
    us = max(0, microseconds)
    if us < 50:
        return "0 ms"
    if us < 950:
        return f"{(us + 50) // 100 / 10} ms"
    if us < 999_500:
        return f"{(us + 500) // 1000} ms"
    if us < 59_950_000:
        return f"{(us + 50_000) // 100_000 / 10} s"
    seconds = (us + 500_000) // 1_000_000
    size, unit, smaller, small = next(one for one in _UNITS if seconds >= one[0])
    rest = seconds % size // smaller
    return f"{seconds // size:,} {unit}" + (f" {rest} {small}" if rest else "")


_UNITS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))


def _visible(char: str) -> str:
    if char.isspace():
        return " "
    return "�" if char in _TURNING or unicodedata.category(char) in _UNSEEN else char
