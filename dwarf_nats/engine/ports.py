"""The ports of one engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from dwarf_nats.errors import BadRequest
from dwarf_nats.ports import TaskCapabilities

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock, Graphs, Notices, Peers, Services, Signals, Sources, Tasks
    from dwarf_nats.ports.values import ValueBucket
    from dwarf_nats.workflow.options import FlowOptions


OptionsReader: TypeAlias = "Callable[[bytes], FlowOptions | None]"
"""Reads the options of a flow from JSON text. Raises `BadRequest`."""


def no_options(text: bytes) -> FlowOptions | None:
    """Read none: the host of the engine has said nothing about options as JSON."""
    if text.strip() not in (b"", b"{}"):
        raise BadRequest("this engine reads no options: it was made without a reader for them")
    return None


@dataclass(slots=True, frozen=True, kw_only=True)
class Ports:
    """The ports that a host gives an engine; all but `tasks` may be left out.

    `capabilities`: the checks that `tasks` makes by itself, so that the engine need not. Without `graphs` only registered and
    inline graphs run; without `services` steps of request and publish nodes fail; without `notices` nobody is told; without
    `signals` other replicas poll; without `peers` an explanation lacks what only they know; without `sources` no messages are
    received; without `values` no large values are removed; `read_options` reads those of rows in an outbox; `clock` is the
    machine's.
    """

    tasks: Tasks
    capabilities: TaskCapabilities = field(default_factory=TaskCapabilities)
    graphs: Graphs | None = None
    services: Services | None = None
    notices: Notices | None = None
    signals: Signals | None = None
    peers: Peers | None = None
    sources: Sources | None = None
    values: ValueBucket | None = None
    read_options: OptionsReader = no_options
    clock: Clock | None = None
