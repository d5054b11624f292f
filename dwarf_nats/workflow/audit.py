"""Records of what was done to flows and to the deployment, and by whom (M3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dwarf_nats.workflow.keys import without_tokens

UNKNOWN = -1
"""The code of a record whose operation was begun, and of which nobody has written how it ended."""
MAX_TEXT_CHARACTERS = 500
"""Length of a reason or a message in a record; longer ones are cut, since records are kept for months."""


@dataclass(slots=True, frozen=True, kw_only=True)
class AuditRecord:
    """One operation that steered, or was refused. `at`: microseconds since the epoch.

    `flow_id`: the flow it was about, without the secret part of its key; `name`: of what else it was about. `code`: that of the
    refusal, 0 if it was carried out, `UNKNOWN` while it is under way and if its replica died in it; `message`: of the refusal.
    `details`: what was asked and what came of it, no payloads.
    """

    at: int
    operation: str
    flow_id: str = ""
    name: str = ""
    actor: str = ""
    reason: str = ""
    code: int = 0
    message: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, frozen=True, kw_only=True)
class AuditNote:
    """A record to be made of one operation, with a flow or a step by its key, or a flow by its id."""

    operation: str
    flow_id: str = ""
    flow_key: str = ""
    step_key: str = ""
    name: str = ""
    actor: str = ""
    reason: str = ""
    code: int = 0
    message: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class AuditBegun(NamedTuple):
    """A record that was written before its operation, and is completed after it."""

    at: int
    number: int


@dataclass(slots=True, frozen=True, kw_only=True)
class AuditQuery:
    """Filters of a list of records, all combinable. Ages in milliseconds."""

    flow_id: str | None = None
    actor: str | None = None
    operation: str | None = None
    older_than_ms: int | None = None
    newer_than_ms: int | None = None
    limit: int | None = None


def recorded_text(text: str) -> str:
    """A text from outside as a record keeps it: without the secret parts of keys, storable, not too long."""
    if not text:
        return text
    kept = without_tokens(text[: 2 * MAX_TEXT_CHARACTERS])[:MAX_TEXT_CHARACTERS]
    return "".join("\ufffd" if one == "\0" or "\ud800" <= one <= "\udfff" else one for one in kept)
