"""Sources: what turns messages into flows or events, as a document (R1).

Its templates know `data` (the parsed body), `text` (the body as text), `subject`, `headers` (names in lower case), `sequence`
(in the stream) and `time` (when the stream received the message, else when the replica did).
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

import msgspec

from dwarf_nats.errors import BadRequest

BODY = "=data"
"""The template of a state or of event data that is left out: the body of the message."""
MAX_SOURCE_NAME = 64
"""Longest name of a source, in characters: it is a part of the name of a consumer."""
_NAME = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


class SourceStart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The flow that a message starts; all three are templates."""

    workflow: str
    state: Any = BODY
    options: Any = None


class SourceSignal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The event that a message signals; all three are templates."""

    event: str
    key: str = ""
    data: Any = BODY


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One source. `stream`: the JetStream stream to read; empty for a plain subscription.

    `deliver`: of a stream that the source has never read, `all` its messages or only `new` ones.
    """

    name: str
    subject: str
    stream: str = ""
    start: SourceStart | None = None
    signal: SourceSignal | None = None
    paused: bool = False
    deliver: Literal["all", "new"] = "all"

    def to_json(self) -> str:
        """Return the document as it is kept."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Source:
        """Read a document that is kept. Raises `BadRequest` for one that another version wrote and this one cannot read."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise BadRequest(f"this version cannot read the source: {error}") from None


def check_source_name(name: str) -> str:
    """Return the name of a source, or raise `BadRequest`."""
    if _NAME.fullmatch(name) is None or len(name) > MAX_SOURCE_NAME:
        raise BadRequest(
            f"name: {name[:80]!r} is no name of a source: use A-Z a-z 0-9 _ -, at most {MAX_SOURCE_NAME} characters"
        )
    return name


def matches(pattern: str, subject: str) -> bool:
    """Tell whether a subject is one of those that a pattern with wildcards stands for."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(one in ("*", other) for one, other in zip(wanted, given, strict=True))


class SourceState(NamedTuple):
    """The standing of a source. `state`: `running`, `paused` or `waiting`; of the last, `reason` says for what.

    `pending`: messages that wait in the stream, `in_hand` those that are delivered and not done yet; `None` where that is not
    known.
    """

    state: str
    reason: str = ""
    pending: int | None = None
    in_hand: int | None = None


class SourceInfo(NamedTuple):
    """A source and how it stands. Times are microseconds since the epoch."""

    source: Source
    updated_at: int
    state: SourceState
    rejected: int = 0
    last_error: str | None = None
    last_error_at: int | None = None
