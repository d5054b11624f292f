"""Replies of the service, checked against the contract (wire section 1)."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from dwarf_nats.errors import Internal

S = TypeVar("S", bound=msgspec.Struct)


def decode(kind: type[S], payload: bytes, operation: str) -> S:
    """Decode a reply to `operation`. Raises `Internal` if it is not what the contract says."""
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Internal(f"the service's reply to {operation} is not what was expected: {error}") from None
