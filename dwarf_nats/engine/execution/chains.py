"""Chains: steps that the engine carries out at once are settled in the transaction of the step before them (N8).

A chain is decided as if each of its steps had been created, dispatched and answered. The settlements hang together as `links`,
and the store writes them in waves within one transaction. Whatever it finds meanwhile, such as a breakpoint or a cancel, holds
for them as for any step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from dwarf_nats.engine.ids import NoneLeft
from dwarf_nats.errors import DwarfError
from dwarf_nats.rules.decide import Deciding, decide
from dwarf_nats.rules.steps import eager_step

if TYPE_CHECKING:
    from dwarf_nats.engine.debug_log import DebugLog
    from dwarf_nats.engine.execution.runner import StepRunner
    from dwarf_nats.engine.ids import StepIds
    from dwarf_nats.engine.shared import Shared
    from dwarf_nats.rules.settlement import Settlement
    from dwarf_nats.rules.steps import NewStep
    from dwarf_nats.workflow.graph import Graph

CHAIN_MAX_LINKS = 100
"""Links of one chain: bounds the waves and the rows of one transaction."""
TURN_US = 5_000
"""Microseconds of one turn of the event loop that all chains may take together: other flows wait no longer than that."""


def goes_on(settlement: Settlement) -> bool:
    """True if the engine carries out at once what follows on a settlement, or a part of it."""
    successor = settlement.successor
    if successor is not None:
        return successor.at_once
    return bool(settlement.branches) and any(branch.at_once for branch in settlement.branches)


class Chains:
    """Builds the chains of one shard."""

    def __init__(self, shared: Shared, *, runner: StepRunner, step_ids: StepIds, debug_log: DebugLog) -> None:
        self._clock = shared.clock
        self._holds = shared.holds
        self._log = shared.logger
        self._limits = shared.settings.limits()
        self._runner = runner
        self._step_ids = step_ids
        self._debug_log = debug_log
        self._spent_us = 0
        self._counting = False

    def extend(self, settlement: Settlement, graph: Graph) -> None:
        """Link to a settlement those of the steps after it that the engine carries out at once.

        What is not linked, because a chain is long enough or the turn has taken its time, goes on like any step.
        """
        flow = settlement.step.flow
        if flow.breakpoints or (self._holds.active and self._holds.find("", flow.workflow) is not None):
            return
        self._begin_turn()
        waiting = deque((settlement, new) for new in settlement.made if new.at_once)
        links = 0
        began = self._clock.now()
        while waiting and links < CHAIN_MAX_LINKS and self._spent_us + self._clock.now() - began < TURN_US:
            before, new = waiting.popleft()
            link = self._link(before, new, graph)
            if link is None:
                break
            links += 1
            waiting.extend((link, following) for following in link.made if following.at_once)
        self._spent_us += self._clock.now() - began

    def _link(self, before: Settlement, new: NewStep, graph: Graph) -> Settlement | None:
        """Settle a step that is about to be created, and link it; `None` if it has to go its own way, as when ids are short."""
        step = eager_step(before.step.flow, new)
        if self._debug_log.enabled:
            self._debug_log.dispatched(step)
        try:
            answer = self._runner.carry_out_at_once(step, graph.nodes[new.node])
            link = decide(Deciding(step, graph, self._step_ids.new, self._limits), answer)
        except (NoneLeft, DwarfError):
            return None
        except Exception:
            self._log.exception("a defect while carrying out step %s", step.public_id, extra=step.log_fields)
            return None
        if step.span is not None:
            step.span.done()
        if link.error is not None:
            link.note_error(self._clock.now())
        new.eager = True
        before.links = [*before.links, link]
        return link

    def _begin_turn(self) -> None:
        if not self._counting:
            self._counting = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._counting = False
        self._spent_us = 0
