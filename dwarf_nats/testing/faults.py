"""Failures that a test has happen at a certain call of a task or service."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from dwarf_nats.errors import BadRequest
from dwarf_nats.testing.fakes import Raised, ServiceRecord, TaskRecord
from dwarf_nats.workflow.sources import matches


class Kind(Enum):
    """The kinds of failures."""

    ERROR = "error"
    TIMEOUT = "timeout"
    MALFORMED = "malformed reply"
    CRASH = "crash"


Nth: TypeAlias = "int | Collection[int]"
"""Which calls: the first is 1."""
When: TypeAlias = "Callable[[TaskRecord | ServiceRecord], Any]"
"""Says which calls count."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """A failure at the calls `nth` of those that `when` lets count."""

    kind: Kind
    name: str
    nth: frozenset[int]
    when: When | None = None
    error: Raised | None = None
    _seen: int = 0
    _happened: set[int] = field(default_factory=set)

    def strikes(self, names: Iterable[str], record: TaskRecord | ServiceRecord) -> bool:
        """Count a call of that which has these names; tell whether it fails."""
        if not any(matches(self.name, name) for name in names) or (self.when is not None and not self.when(record)):
            return False
        self._seen += 1
        if self._seen not in self.nth:
            return False
        self._happened.add(self._seen)
        return True

    @property
    def missing(self) -> str:
        """Describe what has not happened; empty if all has."""
        left = sorted(self.nth - self._happened)
        if not left:
            return ""
        calls = ", ".join(str(one) for one in left)
        return f"{self.kind.value} at call {calls} of {self.name} (there were {self._seen} calls that count)"


class Faults:
    """The failures of one test environment."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, kind: Kind, name: str, nth: Nth, when: When | None, *, error: Raised | None = None) -> None:
        """Have a failure happen. Raises `BadRequest` for calls that are not counted from 1."""
        wanted = frozenset([nth] if isinstance(nth, int) else nth)
        if not wanted or min(wanted) < 1:
            raise BadRequest(f"the calls of {name} are counted from 1, got {nth}")
        self._faults.append(Fault(kind=kind, name=name, nth=wanted, when=when, error=error))

    def of(self, names: Iterable[str], record: TaskRecord | ServiceRecord) -> Fault | None:
        """Return the failure of a call of that which has these names, if it has one. Every failure counts the call."""
        names = list(names)
        struck = [fault for fault in self._faults if fault.strikes(names, record)]
        return struck[0] if struck else None

    def check_all_happened(self) -> None:
        """Raise `AssertionError` for failures that were asked for and did not happen."""
        missing: Iterable[str] = [text for fault in self._faults if (text := fault.missing)]
        if missing:
            raise AssertionError("these failures were asked for and did not happen: " + "; ".join(missing))
