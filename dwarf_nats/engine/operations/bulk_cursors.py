"""Cursors of bulk operations: how far it has come on each shard (M1). Callers pass them back unchanged."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from dwarf_nats.errors import BadRequest
from dwarf_nats.ports import Progress


def write(progress: Mapping[int, Progress]) -> str:
    """The cursor of a page after which there is more on these shards."""
    plain = " ".join(".".join(map(str, (number, *one))) for number, one in sorted(progress.items()))
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def read(cursor: str) -> dict[int, Progress]:
    """The shards on which there is more. Raises `BadRequest` for a malformed cursor."""
    try:
        plain = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        found = {}
        for part in plain.split(" "):
            number, *numbers = map(int, part.split("."))
            found[number] = Progress(*numbers)
            if not all(0 <= one < 2**63 for one in (number, *numbers)):
                raise ValueError
    except (ValueError, TypeError, binascii.Error):
        raise BadRequest("malformed cursor: pass back the one of the previous page, unchanged") from None
    return found
