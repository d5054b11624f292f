"""Refusals on the wire, in both directions: the error headers of NATS services, and the body with the details."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from dwarf_nats.errors import DwarfError, error_for

from . import headers as h

MAX_HEADER_TEXT = 1000
"""Characters of the error text in the header; the body has more of it."""
MAX_BODY_TEXT = 16_000
"""Characters of the error text, and bytes of each further field, in the body."""
_SHORTER = (MAX_BODY_TEXT, 4_000, 1_000, 200, 40)
"""Bounds tried one after the other until the refusal fits into the room there is."""
_CAPITAL = re.compile(r"(?<!^)([A-Z])")
_encode = msgspec.json.Encoder().encode


def encode_error(error: DwarfError, room: int | None = None) -> tuple[bytes, bytes]:
    """A refusal as header block and body, shortened until both together fit into `room` bytes, if possible."""
    for longest in _SHORTER:
        block, body = _encode_error(error, longest)
        if room is None or len(block) + len(body) <= room:
            break
    return block, body


def _encode_error(error: DwarfError, longest: int) -> tuple[bytes, bytes]:
    """A refusal with at most `longest` characters of text, and of each further field."""
    text = error.message if len(error.message) <= longest else error.message[:longest] + "…"
    line = " ".join(text[: min(longest, MAX_HEADER_TEXT)].split())
    block = h.write_headers(((h.ERROR_CODE, str(error.code)), (h.ERROR_TEXT, line)))
    # A detail that cannot be written (a lone surrogate quoted back) must not cost the caller the refusal.
    details = {_camel(name): value for name, value in error.details.items() if _is_short(value, longest)}
    clean = text.encode("utf-8", "replace").decode()
    return block, _encode({"error": {**details, "code": error.code, "message": clean}})


def decode_error(headers: Mapping[str, str] | None, body: bytes) -> DwarfError | None:
    """The error a reply stands for, with the further fields of its body as details; `None` for an ordinary reply."""
    lowered = {name.lower(): value for name, value in (headers or {}).items()}
    code = lowered.get(h.ERROR_CODE.lower())
    line = lowered.get(h.ERROR_TEXT.lower())
    if code is None and line is None:
        return None
    number = int(code) if code is not None and code.isascii() and code.isdigit() else 500
    message = h.percent_decode(line or "") or f"the service refused with code {number}"
    details = _details(body)
    details.pop("code", None)
    text = details.pop("message", message)
    return error_for(number, text if isinstance(text, str) else message, **details)


def _details(body: bytes) -> dict[str, Any]:
    """The fields of the error object in a body, in snake case; none for a body that has no such object."""
    try:
        values = msgspec.json.decode(body) if body else {}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    error = values.get("error") if isinstance(values, dict) else None
    if not isinstance(error, dict):
        return {}
    return {_CAPITAL.sub(r"_\1", name).lower(): value for name, value in error.items()}


def _is_short(value: object, longest: int) -> bool:
    try:
        return value is not None and len(_encode(value)) <= longest
    except (TypeError, ValueError, RecursionError):
        return False


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
