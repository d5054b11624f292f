"""What the model says of tags: which values each may have once a flow has ended (Q1)."""

from __future__ import annotations

from collections.abc import Mapping

from dwarf_nats.workflow.tags import TagValue
from tests.model.records import Record, Run
from tests.model.values import canonical

ABSENT = "absent"


def problems(run: Run, before: Mapping[str, TagValue], found: Mapping[str, TagValue]) -> list[str]:
    """What is wrong with the tags that a flow has, which it began with `before`.

    A tag that steps of several branches set has the value of any of them that no other one followed.
    """
    writers: dict[str, list[tuple[Record, TagValue | None]]] = {}
    for record in run.everything():
        for changes in record.tags:
            for name, value in changes.items():
                writers.setdefault(name, []).append((record, value))
    wrong = []
    for name in sorted({*writers, *before, *found}):
        allowed = {_shown(before.get(name))} if name not in writers else _last(writers[name])
        if _shown(found.get(name)) not in allowed:
            wrong.append(f"tag {name} is {_shown(found.get(name))}, and not one of {sorted(allowed)}")
    return wrong


def _shown(value: TagValue | None) -> str:
    return ABSENT if value is None else canonical(value)


def _last(writers: list[tuple[Record, TagValue | None]]) -> set[str]:
    found = set()
    for at, (record, value) in enumerate(writers):
        later = [other for other, _ in writers[at + 1 :]]
        if not any(_precedes(record, other) for other in later):
            found.add(_shown(value))
    return found


def _precedes(one: Record, other: Record) -> bool:
    """True if a step had ended before another one began, or is the same step, whose executions follow each other."""
    mine, theirs = _callers(one), _callers(other)
    shared = next(run for run in mine if run in theirs)
    first, second = mine[shared], theirs[shared]
    return first is second or first in _led_here(second)


def _callers(record: Record) -> dict[Run, Record]:
    """The step itself and the steps that waited for its flow, by their flows."""
    found = {record.run: record}
    while record.run.caller is not None:
        record = record.run.caller
        found[record.run] = record
    return found


def _led_here(record: Record) -> set[Record]:
    found: set[Record] = set()
    ahead = list(record.origins)
    while ahead:
        one = ahead.pop()
        if one not in found:
            found.add(one)
            ahead += one.origins
    return found
