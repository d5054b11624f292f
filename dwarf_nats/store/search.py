r"""A text to search for as a regular expression that PostgreSQL and Python read alike (O9).

`lower()` is no use here: SQLite's knows ASCII only, and PostgreSQL's knows what the locale of the database knows. So each
character is written out with all its spellings: `k` becomes `[kKK]`, the last one being the Kelvin sign. Letters that fold to
several, such as `ß`, are an alternative to these.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

MAX_SEARCH = 256
"""Characters of a text to search for."""
_LONGEST_FOLD = 3
_CASED = 0x20000
"""No letter beyond has a case."""


@functools.lru_cache(maxsize=1)
def _spellings() -> Mapping[str, tuple[str, ...]]:
    """Case-folded text → the single characters that fold to it."""
    found: dict[str, list[str]] = {}
    for number in range(_CASED):
        character = chr(number)
        folded = character.casefold()
        if folded != character:
            found.setdefault(folded, []).append(character)
    return {folded: tuple(characters) for folded, characters in found.items()}


def _bracket(characters: tuple[str, ...]) -> str:
    return characters[0] if len(characters) == 1 else f"[{''.join(characters)}]"


def _one(character: str) -> str:
    """Every spelling of one case-folded character; punctuation stands for itself."""
    others = _spellings().get(character, ())
    if others:
        return _bracket((character, *others))
    return character if character.isalnum() or ord(character) > 127 else f"\\{character}"


@functools.lru_cache(maxsize=256)
def pattern(text: str) -> str:
    """The regular expression that finds `text` anywhere, upper and lower case alike."""
    folded = text.casefold()
    parts = []
    at = 0
    while at < len(folded):
        for length in range(_LONGEST_FOLD, 1, -1):
            piece = folded[at : at + length]
            ligatures = _spellings().get(piece, ()) if len(piece) == length else ()
            if ligatures:
                parts.append(f"(?:{''.join(map(_one, piece))}|{_bracket(ligatures)})")
                at += length
                break
        else:
            parts.append(_one(folded[at]))
            at += 1
    return "".join(parts)


@functools.lru_cache(maxsize=64)
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression)


def matches(expression: str, text: str | None) -> bool:
    """SQLite's `text regexp expression`."""
    return text is not None and _compiled(expression).search(text) is not None
