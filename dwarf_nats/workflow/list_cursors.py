"""Cursors of lists of flows: how far each shard has been searched (O9). Callers pass them back unchanged."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import NamedTuple

from dwarf_nats.errors import BadRequest


class Place(NamedTuple):
    """Creation time and id of a flow: its place in the list of its shard, newest first, which never changes."""

    created_at: int
    flow_id: int


def of_place(at: Place) -> str:
    """The cursor of one shard: what follows comes after this place."""
    return _encoded(f"{at.created_at}.{at.flow_id}")


def place(cursor: str) -> Place:
    """Decode the cursor of one shard. Raises `BadRequest` for a malformed one."""
    try:
        created_at, flow_id = _decoded(cursor).split(".")
        numbers = Place(int(created_at), int(flow_id))
        if all(0 <= number < 2**63 for number in numbers):
            return numbers
    except (ValueError, binascii.Error, UnicodeDecodeError):
        pass
    raise _malformed()


def of_shards(following: Mapping[int, str]) -> str:
    """The cursor of a list over several shards, from theirs; that of a shard that was not asked yet is empty."""
    return _encoded(" ".join(f"{number}:{cursor}" for number, cursor in sorted(following.items())))


def shards(cursor: str) -> dict[int, str]:
    """The cursors of the shards that are not at their end. Raises `BadRequest` for a malformed one."""
    try:
        parts = [part.split(":") for part in _decoded(cursor).split(" ")]
        return {int(number): inner for number, inner in parts}
    except (ValueError, binascii.Error, UnicodeDecodeError):
        raise _malformed() from None


def searched_to(cursor: str) -> int | None:
    """The time back to which every shard has been searched, by the creation of flows; `None` if one was not asked yet."""
    try:
        places = shards(cursor).values()
        return max(place(one).created_at for one in places) if all(places) else None
    except BadRequest:
        return None


def _encoded(plain: str) -> str:
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def _decoded(cursor: str) -> str:
    return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()


def _malformed() -> BadRequest:
    return BadRequest("malformed cursor: pass back the one of the previous page, unchanged")
