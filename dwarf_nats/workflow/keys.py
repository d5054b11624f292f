"""Keys of flows and steps: `{shard}-{id}-{token}` (semantics: keys).

The token is 16 characters of `A-Z a-z 0-9` from a cryptographic source, so a key is a capability: its holder can control
the flow. `public_id` is the token-free form for logs, events and metrics.
"""

from __future__ import annotations

import re
import secrets
import string
from typing import NamedTuple

from dwarf_nats.errors import BadRequest

TOKEN_LENGTH = 16
MAX_ID = 2**63 - 1
_WITHIN = re.compile(r"\b(\d+-\d+)-[A-Za-z0-9]{16}\b", re.ASCII)
_ALPHABET = string.ascii_letters + string.digits
_FORM = re.compile(r"([1-9][0-9]{0,18})-([1-9][0-9]{0,18})-([A-Za-z0-9]{16})", re.ASCII)
_ALWAYS_IN_RANGE = 37
"""Length up to which no number of a key has more than 18 digits."""
_PUBLIC = re.compile(r"([1-9][0-9]{0,18})-([1-9][0-9]{0,18})", re.ASCII)
# A byte becomes one of 62 symbols: values of 248 and above are dropped, so that all symbols are equally likely.
_DROP = bytes(range(248, 256))
_MAP = bytes((_ALPHABET * 5)[b % 248].encode()[0] for b in range(256))


class Key(NamedTuple):
    """A parsed flow or step key."""

    shard: int
    id: int
    token: str

    @property
    def public_id(self) -> str:
        """The token-free id, `1-42`."""
        return f"{self.shard}-{self.id}"

    def __str__(self) -> str:
        return f"{self.shard}-{self.id}-{self.token}"


class Tokens:
    """Makes tokens from the random source of the operating system, with one system call per 250 tokens or so."""

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def __call__(self) -> str:
        end = self._at + TOKEN_LENGTH
        if end > len(self._pool):
            self._pool = secrets.token_bytes(4096).translate(_MAP, _DROP)
            self._at, end = 0, TOKEN_LENGTH
        token = self._pool[self._at : end].decode("ascii")
        self._at = end
        return token


def parse_key(text: str, what: str = "flow") -> Key:
    """Parse `text`; `what` is `flow`, `step` or `thread`, for the message.

    Raises `BadRequest` for anything that is not `{shard}-{id}-{token}`.
    """
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is not None:
        shard, number = int(match[1]), int(match[2])
        if shard <= MAX_ID and number <= MAX_ID:
            return Key(shard, number, match[3])
    raise BadRequest(
        f"malformed {what} key: expected {{shard}}-{{id}}-{{16 letters or digits}}, as returned when it was made"
    )


def check_key(text: str, what: str = "flow") -> None:
    """Raise as `parse_key` for what is no key; cheaper, where the parts are not needed."""
    if _FORM.fullmatch(text) is None or len(text) > _ALWAYS_IN_RANGE:
        parse_key(text, what)


def parse_public_id(text: str) -> tuple[int, int]:
    """Parse a token-free id: shard and number. Raises `BadRequest` for anything that is not `{shard}-{id}`."""
    match = _PUBLIC.fullmatch(text)
    if match is not None:
        shard, number = int(match[1]), int(match[2])
        if shard <= MAX_ID and number <= MAX_ID:
            return shard, number
    raise BadRequest("malformed flow id: expected {shard}-{id}, such as 1-42, a flow key without its last part")


def is_public_id(text: str) -> bool:
    """True for a text in the form of a token-free id."""
    return _PUBLIC.fullmatch(text) is not None


def without_tokens(text: str) -> str:
    """Remove the tokens of all keys in `text`, so that others may read it."""
    return _WITHIN.sub(r"\1", text)
