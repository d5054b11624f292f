"""The ports of one engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwarf_nats.ports import TaskCapabilities

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock, Graphs, Notices, Peers, Services, Signals, Tasks


@dataclass(slots=True, frozen=True, kw_only=True)
class Ports:
    """The ports that a host gives an engine; all but `tasks` may be left out.

    `capabilities`: the checks that `tasks` makes by itself, so that the engine need not. Without `graphs` only registered and
    inline graphs run; without `services` steps of request and publish nodes fail; without `notices` nobody is told; without
    `signals` other replicas poll; without `peers` an explanation lacks what only they know; `clock` is the machine's.
    """

    tasks: Tasks
    capabilities: TaskCapabilities = field(default_factory=TaskCapabilities)
    graphs: Graphs | None = None
    services: Services | None = None
    notices: Notices | None = None
    signals: Signals | None = None
    peers: Peers | None = None
    clock: Clock | None = None
