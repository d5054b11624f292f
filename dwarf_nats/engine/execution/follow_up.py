"""The follow-up on a commit, a few settlements in each turn of the event loop (design note 0061)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dwarf_nats.ports import Logger
    from dwarf_nats.rules.settlement import Settlement, SettleResult

STEPS_A_TURN = 32
"""Settlements that are followed up in one turn: the steps that follow on the first are under way while others are prepared."""


class CommitListener(Protocol):
    """Follows up on commits, in the turn of the event loop in which they come back."""

    def settled(self, group: Sequence[Settlement], result: SettleResult) -> None:
        """These settlements were written; `result` has each of them by its step."""
        ...

    def fenced(self, settlement: Settlement) -> None:
        """The settlement was not written: its step was taken away (X1), or is left to its lease."""
        ...

    def cascaded(self, result: SettleResult) -> None:
        """The group brought about more than its members: fan-in steps, callers resumed, flows ended or paused."""
        ...


class FollowUp:
    """A group that was written, and what of it a listener has heard."""

    __slots__ = ("_group", "_next", "_settled")

    def __init__(self, group: Sequence[Settlement], settled: SettleResult) -> None:
        self._group = group
        self._settled = settled
        self._next = 0

    def __len__(self) -> int:
        return len(self._group)

    @property
    def done(self) -> bool:
        """True if the listener has heard of the whole group."""
        return self._next >= len(self._group)

    def tell_some(self, listener: CommitListener) -> None:
        """Tell a listener what became of the next settlements, and with the last of them what followed from all of them."""
        part = self._group[self._next : self._next + STEPS_A_TURN]
        self._next += len(part)
        written = []
        for one in part:
            if one.step.step_id in self._settled.applied:
                written.append(one)
            else:
                listener.fenced(one)
        if written:
            listener.settled(written, self._settled)
        if self.done and (self._settled.created or self._settled.woken or self._settled.ended or self._settled.asking):
            listener.cascaded(self._settled)


class FollowUps:
    """Follows up on groups in the order in which they were written."""

    def __init__(self, logger: Logger) -> None:
        self._log = logger
        self._groups: deque[FollowUp] = deque()
        self.listener: CommitListener | None = None

    def add(self, group: Sequence[Settlement], settled: SettleResult, *, soon: bool) -> None:
        """Follow up on a group that was written: now, or `soon`, behind the statement of the next group.

        So the database works while the steps that follow are dispatched.
        """
        self._groups.append(FollowUp(group, settled))
        if len(self._groups) > 1:
            return  # those before it come first
        if soon:
            asyncio.get_running_loop().call_soon(self._tell_some)
        else:
            self._tell_some()

    def _tell_some(self) -> None:
        """Follow up on some of what was written, and soon on the rest."""
        if not self._groups:
            return
        assert self.listener is not None
        group = self._groups[0]
        try:
            group.tell_some(self.listener)
        except Exception:
            self._log.exception("a defect after the commit of a group of %d", len(group))
        if group.done:
            self._groups.popleft()
        if self._groups:
            asyncio.get_running_loop().call_soon(self._tell_some)

    def finish(self) -> None:
        """Follow up on all of it now."""
        while self._groups:
            self._tell_some()
