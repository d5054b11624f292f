"""Preparation of child flows, before the step that calls one can be settled (P1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from dwarf_nats.backoff import DATABASE_BACKOFF
from dwarf_nats.engine.execution.budgets import time_budget_ms
from dwarf_nats.errors import DwarfError, Unavailable
from dwarf_nats.ports import DatabaseAway, Refused, SourceAway
from dwarf_nats.rules import parking
from dwarf_nats.workflow import fields
from dwarf_nats.workflow.answer import Answer, ErrorInfo, Subgraph
from dwarf_nats.workflow.names import check_subject_name

if TYPE_CHECKING:
    from dwarf_nats.engine.ids import Ids
    from dwarf_nats.engine.shared import Shared
    from dwarf_nats.rules.steps import ClaimedStep

T = TypeVar("T")
SHOWN_NAME = 80
"""Characters of a sub-workflow's name in an error: a task may answer with any text."""


class ChildPreparer:
    """Finds the graph of a sub-workflow, has it saved on the parent's shard, and takes an id for the child flow."""

    def __init__(self, shared: Shared, shard: int, flow_ids: Ids) -> None:
        self._settings = shared.settings
        self._clock = shared.clock
        self._graphs = shared.graphs
        self._tokens = shared.tokens
        self._shard = shard
        self._flow_ids = flow_ids

    async def prepare(self, step: ClaimedStep, answer: Answer) -> tuple[Answer, parking.Child | None]:
        """Prepare the child flow that an answer asks for, if it asks for one.

        If it cannot be had, the answer becomes an error (X4, P1). Raises `DatabaseAway`: that is no fault of the step.
        """
        wanted = parking.wanted_child(step, answer)
        if wanted is None:
            return answer, None
        name = wanted.workflow
        try:
            check_subject_name(name, "workflow")
            graph = await self.retry(step, lambda: self._graphs.find(name, step.flow.baggage))
            answer.subgraph = Subgraph(name, fields.initial_state(graph, wanted.input))
            digest = await self.retry(step, lambda: self._graphs.save(self._shard, graph))
            await self.retry(step, self._flow_ids.ensure)
        except DatabaseAway:
            raise
        except DwarfError as error:
            refused = f"sub-workflow {name[:SHOWN_NAME]!r} cannot be started: {error}"
            return Answer(error=ErrorInfo(refused, error.code)), None
        return answer, parking.Child(graph, digest, self._flow_ids.take(), self._tokens())

    async def retry(self, step: ClaimedStep, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work`, again and again for as long as the step's time budget if what it needs is away (B6)."""
        until = self._clock.now() + time_budget_ms(step, self._settings) * 1000
        failures = 0
        while True:
            try:
                return await work()
            except Refused:
                raise
            except (Unavailable, SourceAway):
                pause = DATABASE_BACKOFF.delay(failures)
                if self._clock.now() + pause * 1_000_000 > until:
                    raise
                await self._clock.sleep(pause)
                failures += 1
