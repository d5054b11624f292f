"""A schedule: which flow is made, and when (R3). Times are microseconds since the epoch, unless they are datetimes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

import msgspec

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.cron import cron_times, described
from dwarf_nats.workflow.names import check_subject_name

MAX_NAME = 128
"""Longest name of a schedule: with a due time it is an idempotency key."""
DEFAULT_CATCH_UP_MS = 60_000
MAX_MS = 366 * 86_400_000
"""Longest interval and longest time to catch up, in milliseconds: about a year."""
MAX_JITTER_MS = 3_600_000
MIN_EVERY_MS = 100
_UNITS = (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1_000), ("millisecond", 1))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Overlap(StrEnum):
    """The rule for a due time while the last flow still lives."""

    SKIP = "skip"
    ALLOW = "allow"
    QUEUE = "queue"
    CANCEL = "cancel"


class RunOutcome(StrEnum):
    """The outcome of a due time."""

    STARTED = "started"
    SKIPPED = "skipped"
    MISSED = "missed"
    FAILED = "failed"


class Schedule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A schedule of a workflow. Exactly one of `cron` and `every_ms` is given.

    `state`, `options`: JSON objects for each flow, as templates that know `scheduledAt` and `firedAt`. `cron`: five fields,
    or six with the second first, in the `timezone`. `every_ms`: counted from `from_`, else from the epoch. `jitter_ms`: each
    due time is late by a part of it that depends on name and due time alone. `catch_up_ms`: age up to which a due time
    fires that was missed. `from_`, `until`: the first and the last moment at which it is due.
    """

    name: str
    workflow: str
    state: dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    cron: str = ""
    every_ms: int = 0
    timezone: str = "UTC"
    jitter_ms: int = 0
    overlap: Overlap = Overlap.SKIP
    catch_up_ms: int = DEFAULT_CATCH_UP_MS
    from_: datetime | None = msgspec.field(default=None, name="from")
    until: datetime | None = None
    paused: bool = False

    def after(self, at: int) -> int | None:
        """Return the first due time after `at`, if there is one."""
        first = None if self.from_ is None else micros_of(self.from_)
        if first is not None:
            at = max(at, first - 1)
        if self.every_ms:
            anchor, every = first or 0, self.every_ms * 1000
            due: int | None = anchor + ((at - anchor) // every + 1) * every
        else:
            seconds = cron_times(self.cron, self.timezone).after(at // 1_000_000)
            due = None if seconds is None else seconds * 1_000_000
        return None if due is None or (self.until is not None and due > micros_of(self.until)) else due

    def following(self, at: int, count: int) -> list[int]:
        """Return up to `count` due times after `at`."""
        found: list[int] = []
        while len(found) < count and (due := self.after(found[-1] if found else at)) is not None:
            found.append(due)
        return found

    def between(self, first: int, last: int) -> Iterator[int]:
        """Yield the due times from `first` to `last`, both included."""
        due = self.after(first - 1)
        while due is not None and due <= last:
            yield due
            due = self.after(due)

    def fires_at(self, due: int) -> int:
        """Return when a due time fires: so much later as its jitter says."""
        if not self.jitter_ms:
            return due
        digest = hashlib.sha256(f"{self.name}\0{due}".encode()).digest()
        return due + int.from_bytes(digest[:8], "big") % (self.jitter_ms * 1000 + 1)

    def key_of(self, due: int) -> str:
        """Return the idempotency key of the flow of a due time."""
        return f"schedule:{self.name}:{rfc3339_short(due)}"

    def description(self) -> str:
        """Say in plain words when it is due."""
        if self.every_ms:
            return f"Every {_duration(self.every_ms)}"
        return f"{described(self.cron)} ({self.timezone})"


class ScheduleRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of a due time, or of several that were missed together. `flow_id` is token-free."""

    due_at: int
    outcome: RunOutcome
    fired_at: int | None = None
    flow_id: str | None = None
    message: str | None = None


@dataclass(slots=True, frozen=True, kw_only=True)
class ScheduleInfo:
    """A schedule as it stands: its last runs, the newest first, and its next due times.

    `description`: when it is due, in plain words. `warnings`: what looks like a mistake, told when it is put.
    """

    schedule: Schedule
    last: Sequence[ScheduleRun] = ()
    next: Sequence[int] = ()
    description: str = ""
    created_at: int = 0
    updated_at: int = 0
    warnings: Sequence[str] = ()


def check_schedule_name(name: str) -> str:
    """Return the name of a schedule, or raise `BadRequest`."""
    check_subject_name(name, "schedule name")
    if len(name) > MAX_NAME:
        raise BadRequest(f"a schedule name has at most {MAX_NAME} characters, got {len(name)}")
    return name


def micros_of(when: datetime) -> int:
    """Return a datetime with a zone in microseconds since the epoch."""
    return (when - _EPOCH) // _MICROSECOND


def rfc3339_short(at: int) -> str:
    """Return a time as templates and keys have it: `2026-12-01T03:00:00Z`, with a fraction only if there is one."""
    return (_EPOCH + at * _MICROSECOND).isoformat().replace("+00:00", "Z")


@lru_cache(maxsize=4096)
def schedule_of(body: str) -> Schedule:
    """Read a schedule as the database has it."""
    return msgspec.json.decode(body, type=Schedule)


def body_of(schedule: Schedule) -> str:
    """Return a schedule as the database has it."""
    return msgspec.json.encode(schedule).decode()


def _duration(milliseconds: int) -> str:
    """Return a duration in words: `hour`, `2 hours`, `1 minute 30 seconds`."""
    shown: list[tuple[int, str]] = []
    for unit, size in _UNITS:
        count, milliseconds = divmod(milliseconds, size)
        if count:
            shown.append((count, unit))
    if len(shown) == 1 and shown[0][0] == 1:
        return shown[0][1]
    return " ".join(f"{count} {unit}{'s' if count > 1 else ''}" for count, unit in shown)
