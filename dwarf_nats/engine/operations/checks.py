"""Checks of the arguments of operations. Each raises `BadRequest` that says what is allowed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.names import check_subject_name
from dwarf_nats.workflow.tags import checked_tags

if TYPE_CHECKING:
    from dwarf_nats.rules.rows import FlowRow
    from dwarf_nats.workflow.options import FlowOptions, Query

MAX_TEXT_CHARACTERS = 256
"""Longest name or key that a column with an index takes."""
MAX_SEARCH_CHARACTERS = 256
MAX_INT = 2**31 - 1
"""Largest number that the database's integer columns hold."""
MAX_AGE_MS = 10**13
"""Largest age in a query, about 300 years: beyond it the database's times overflow."""
MAX_WAIT_SECONDS = 100 * 365 * 86_400
"""A longer wait, a century, has no end: the event loop cannot add it to its time."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


def check_options(options: FlowOptions) -> None:
    """Refuse options no flow can have."""
    if options.priority is not None and not 1 <= options.priority <= MAX_INT:
        raise BadRequest(f"priority must be at least 1 (1 is the best) and at most {MAX_INT}, got {options.priority}")
    if not 0 < options.fairness_weight < float("inf"):
        raise BadRequest(f"fairnessWeight must be above 0, got {options.fairness_weight}")
    if options.time_budget_ms is not None and not 1 <= options.time_budget_ms <= MAX_INT:
        raise BadRequest(f"timeBudgetMs must be between 1 and {MAX_INT}, got {options.time_budget_ms}")
    refuse_empty(idempotencyKey=options.idempotency_key, notify=options.notify, threadKey=options.thread)
    check_text(options.fairness_key, "fairnessKey", MAX_TEXT_CHARACTERS)
    check_text(options.idempotency_key or "", "idempotencyKey", MAX_TEXT_CHARACTERS)
    if options.notify is not None:
        check_subject_name(options.notify, "notify target")
    if options.idempotency_key is not None and options.thread is not None:
        raise BadRequest("idempotencyKey and threadKey cannot be used together: leave one out")
    if options.tags is not None:
        checked_tags(options.tags, "options.tags")
    start_time_us(options.start_at)


def check_query(query: Query) -> None:
    """Refuse filters that no flow can match, except for their shard and thread."""
    refuse_empty(workflow=query.workflow, threadKey=query.thread, task=query.task, search=query.search)
    for name, text, most in (
        ("workflow", query.workflow, MAX_TEXT_CHARACTERS),
        ("task", query.task, 2 * MAX_TEXT_CHARACTERS),
        ("fairnessKey", query.fairness_key, MAX_TEXT_CHARACTERS),
        ("search", query.search, MAX_SEARCH_CHARACTERS),
    ):
        check_text(text or "", name, most)
    if query.tags is not None and not checked_tags(query.tags, "tags"):
        raise BadRequest("tags is empty: leave it out, or name the tags that a flow must have")
    for name, number, limit in (
        ("priority", query.priority, MAX_INT),
        ("olderThanMs", query.older_than_ms, MAX_AGE_MS),
        ("newerThanMs", query.newer_than_ms, MAX_AGE_MS),
    ):
        if number is not None and not 0 <= number <= limit:
            raise BadRequest(f"{name} must be between 0 and {limit}, got {number}")


def checked_limit(limit: int | None, default: int, most: int) -> int:
    """Return the number of items a request asks for, `default` if it names none."""
    limit = default if limit is None else limit
    if not 1 <= limit <= most:
        raise BadRequest(f"limit must be between 1 and {most}, got {limit}")
    return limit


def wait_seconds(timeout: float | None) -> float | None:
    """Return a timeout as the event loop takes it: `None`, without end, for more than a century."""
    if timeout is not None and not timeout >= 0:
        raise BadRequest(f"timeout must be at least 0 seconds, got {timeout}")
    return timeout if timeout is None or timeout < MAX_WAIT_SECONDS else None


def refuse_empty(**texts: str | None) -> None:
    """Refuse a text that is given but empty: an unset variable of the caller must not mean none, or all."""
    for name, text in texts.items():
        if text == "":
            raise BadRequest(f"{name} is empty: leave it out, or give it a value")


def check_text(text: str, what: str, most: int | None = None) -> None:
    """Refuse text that no database column holds, and more than `most` characters."""
    if most is not None and len(text) > most:
        raise BadRequest(f"{what} must be at most {most} characters, got {len(text)}")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise BadRequest(f"{what} must not contain NUL characters or lone surrogates")


def check_is_root(shard: int, flow: FlowRow, verb: str) -> None:
    """Refuse the flow of a sub-workflow (semantics: keys-of-child-flows). `verb`: a participle, for the message."""
    if flow.surgraph_flow_id is not None:
        raise BadRequest(
            f"flow {shard}-{flow.flow_id} is a sub-workflow of flow {shard}-{flow.root_id} and cannot be {verb} by itself:"
            f" use the key of {shard}-{flow.root_id}"
        )


def start_time_us(at: datetime | None) -> int | None:
    """Return a start time in microseconds since the epoch. It must have a zone, and lie in the years 1970 to 9999 UTC."""
    if at is None:
        return None
    if at.tzinfo is None:
        raise BadRequest("startAt needs a time zone: use an aware datetime")
    try:
        micros = (at - _EPOCH) // timedelta(microseconds=1)
    except (OverflowError, ValueError):
        micros = -1
    if not 0 <= micros <= _LAST_US:
        raise BadRequest(f"startAt must be within the years 1970 to 9999 in UTC, got {at.isoformat()}")
    return micros
