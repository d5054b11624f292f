"""Progress of a task, and its JSON text as workers send it and as it is stored (B7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from dwarf_nats.errors import BadRequest, TooLarge
from dwarf_nats.workflow.state import MAX_DEPTH, check_json

MAX_PROGRESS_BYTES = 4_096
"""Longest text of a progress: it is sent often and kept with the step, so larger data belongs elsewhere."""
PROGRESS_SECONDS = 0.1
"""Shortest time between two of one execution; of more, some are left out, but never the last."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Progress:
    """The last progress that a worker reported while it ran the step; any of its three parts may be absent."""

    at: int
    fraction: float | None = None
    """The share that is done, from 0 to 1."""
    text: str | None = None
    data_json: bytes | None = None
    """Handed to the next execution of the step as its checkpoint."""

    @property
    def data(self) -> Any:
        """The data as a Python value."""
        return None if self.data_json is None else _parse(self.data_json)


class _Json(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """The object that travels."""

    fraction: float | UnsetType = UNSET
    text: str | UnsetType = UNSET
    data: Raw | UnsetType = UNSET


_decode = msgspec.json.Decoder(_Json).decode
_encode = msgspec.json.Encoder().encode
_parse = msgspec.json.Decoder().decode
_NULL = b"null"


def progress_json(progress: Progress) -> bytes:
    """Encode a progress. Raises `TooLarge`, and `BadRequest` for a text that no JSON can hold."""
    try:
        body = _encode(
            _Json(
                fraction=UNSET if progress.fraction is None else progress.fraction,
                text=UNSET if progress.text is None else progress.text,
                data=UNSET if progress.data_json is None else Raw(progress.data_json),
            )
        )
    except UnicodeEncodeError as error:
        raise BadRequest(f"the text of a progress cannot be written as JSON: {error}") from None
    if len(body) > MAX_PROGRESS_BYTES:
        raise TooLarge(
            f"the progress is {len(body)} bytes, over {MAX_PROGRESS_BYTES}: keep large data elsewhere, and send where it is"
        )
    return body


def read_progress(body: bytes, at: int, max_depth: int = MAX_DEPTH) -> Progress:
    """Decode a progress. Raises `BadRequest` for one that is malformed or too large."""
    if len(body) > MAX_PROGRESS_BYTES:
        raise BadRequest(f"it is {len(body)} bytes, over {MAX_PROGRESS_BYTES}")
    check_json(body, "the progress", max_depth)
    try:
        read = _decode(body)
    except msgspec.DecodeError as error:
        raise BadRequest(str(error)) from None
    if read.fraction is not UNSET and not 0 <= read.fraction <= 1:
        raise BadRequest("`fraction` is a number from 0 to 1")
    data = None if isinstance(read.data, UnsetType) or bytes(read.data) == _NULL else bytes(read.data)
    return Progress(
        at=at,
        fraction=None if isinstance(read.fraction, UnsetType) else read.fraction,
        text=None if isinstance(read.text, UnsetType) else read.text,
        data_json=data,
    )
