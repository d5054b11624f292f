"""Random tokens for reply subjects: one for each request, which nobody can guess (wire section 7)."""

from __future__ import annotations

import base64
import os

_LENGTH = 22
"""Characters of a token: 132 random bits."""
_BLOCK = 3 * 11 * 128
"""Random bytes fetched at a time, for 256 tokens."""


class Tokens:
    """Makes random tokens of letters, digits, `-` and `_`, each a different one.

    Random bytes are fetched from the operating system in blocks, since a system call per token would cost more than the rest of
    a request.
    """

    def __init__(self) -> None:
        self._block = ""
        self._at = 0

    def next(self) -> str:
        """Return a new token."""
        at = self._at
        if at >= len(self._block):
            self._block, at = base64.urlsafe_b64encode(os.urandom(_BLOCK)).decode(), 0
        self._at = at + _LENGTH
        return self._block[at : at + _LENGTH]
