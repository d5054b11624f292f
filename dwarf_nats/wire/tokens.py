"""The last part of a reply subject: one for each request, which nobody can guess (wire: section 7)."""

from __future__ import annotations

import base64
import os

_LENGTH = 22
"""Characters of a token: 132 random bits."""
_BLOCK = 3 * 11 * 128
"""Random bytes fetched at a time, for 256 tokens."""


class Tokens:
    """Random text of letters, digits, `-` and `_`, never the same again.

    Fetched from the operating system by the block, since a call for each would cost more than all else a request does here.
    """

    def __init__(self) -> None:
        self._block = ""
        self._at = 0

    def next(self) -> str:
        """A fresh one."""
        at = self._at
        if at >= len(self._block):
            self._block, at = base64.urlsafe_b64encode(os.urandom(_BLOCK)).decode(), 0
        self._at = at + _LENGTH
        return self._block[at : at + _LENGTH]
