"""Limits: how many steps of a task, or flows of a workflow, are under way at once, and how many begin in a second (K1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.names import check_subject_name, check_task_name, is_subject_name
from dwarf_nats.workflow.tags import value_text

KIND = "limit"
"""The kind of its definition."""
BY_FAIRNESS_KEY = "fairnessKey"
BY_TAG = "tag:"
MOST = 1_000_000_000
"""Greatest `concurrency`, `per_second` and `burst`."""
LEAST_PER_SECOND = 1 / 86_400
"""Lowest rate: once a day."""
USUAL_BURST_SECONDS = 0.5
"""The burst of a limit that names none, in seconds of its rate: any ten seconds then see no more than a tenth too many."""


class Limit(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A limit of a task, by its url, or of a workflow.

    `by`: one count for all (empty), for each fairness key, or for each value of a tag (`tag:<name>`); flows without that tag
    share a count. `since`: when it was first put, microseconds since the epoch.
    """

    name: str = ""
    task: str = ""
    workflow: str = ""
    by: str = ""
    concurrency: int | None = None
    per_second: float | None = None
    burst: int | None = None
    since: int = 0

    @property
    def of_flows(self) -> bool:
        """It counts flows, not steps."""
        return bool(self.workflow)

    @property
    def by_tag(self) -> str:
        """The tag by whose values it counts; empty if it does not."""
        return self.by.removeprefix(BY_TAG) if self.by.startswith(BY_TAG) else ""

    @property
    def capacity(self) -> float:
        """The number that may begin at one moment after a pause."""
        if self.burst is not None:
            return float(self.burst)
        return max(1.0, (self.per_second or 0.0) * USUAL_BURST_SECONDS)

    def key(self, fairness_key: str, tags: str | None) -> str:
        """The key under which a step or flow counts. `tags`: of its root flow, as they are stored."""
        if not self.by:
            return ""
        if self.by == BY_FAIRNESS_KEY:
            return fairness_key
        value = orjson.loads(tags).get(self.by_tag) if tags else None
        return "" if value is None else value_text(value)

    def slot(self, key: str) -> str:
        """The text that names one count of it."""
        return f"{self.name}/{key}"

    def body(self) -> str:
        """The JSON text of its definition."""
        return msgspec.json.encode(self).decode()


class LimitInfo(NamedTuple):
    """A limit, the steps or flows that it counts, the steps that wait for it, and when it was put last, in microseconds."""

    limit: Limit
    running: int
    waiting: int
    updated_at: int


_decode = msgspec.json.Decoder(Limit).decode


def read_limit(body: str) -> Limit:
    """The limit of a definition."""
    return _decode(body)


def checked_limit(limit: Limit) -> Limit:
    """Return a limit somebody gave. Raises `BadRequest` with the field and what to do."""
    check_subject_name(limit.name, "name")
    if "." in limit.name:
        raise BadRequest(f"name {limit.name!r} has a dot: use letters, digits, - and _")
    if bool(limit.task) == bool(limit.workflow):
        raise BadRequest("name either a `task`, by its url, or a `workflow` that is to be limited")
    if limit.task:
        check_task_name(limit.task, "task")
    else:
        check_subject_name(limit.workflow, "workflow")
    _check_by(limit.by)
    if limit.concurrency is None and limit.per_second is None:
        raise BadRequest("say how much is allowed: `concurrency`, `perSecond`, or both")
    _check_range("concurrency", limit.concurrency, 1)
    _check_range("perSecond", limit.per_second, LEAST_PER_SECOND)
    if limit.burst is not None and limit.per_second is None:
        raise BadRequest("`burst` belongs to a rate: give `perSecond`, too, or leave it out")
    _check_range("burst", limit.burst, 1)
    return limit


def _check_by(by: str) -> None:
    tag = by.removeprefix(BY_TAG)
    if by in ("", BY_FAIRNESS_KEY) or (by != tag and is_subject_name(tag) and "." not in tag):
        return
    raise BadRequest(f"by {by[:100]!r} is unknown: leave it out for one count, or use fairnessKey or tag:<name>")


def _check_range(field: str, value: float | None, least: float) -> None:
    if value is not None and not least <= value <= MOST:
        shown = "one a day, 0.0000116" if least == LEAST_PER_SECOND else f"{least:g}"
        raise BadRequest(f"{field} must be from {shown} to {MOST}, got {value:g}")


def limits_of(definitions: Mapping[str, Any]) -> dict[str, Limit]:
    """The limits of definitions by name; a document that is none, which nobody can have put as one, limits nothing."""
    found = {}
    for name, definition in definitions.items():
        try:
            limit = read_limit(definition.body)
        except msgspec.DecodeError:
            continue
        if limit.task or limit.workflow:
            found[name] = limit
    return found
