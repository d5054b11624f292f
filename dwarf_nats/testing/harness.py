"""An engine for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from dwarf_nats.engine.ports import Ports
from dwarf_nats.library import engine_on
from dwarf_nats.ports import TaskCapabilities
from dwarf_nats.testing.proxy import TaskProxy

if TYPE_CHECKING:
    from dwarf_nats.engine import Engine
    from dwarf_nats.ports import Clock, Notices, Signals
    from dwarf_nats.settings import EngineSettings


@asynccontextmanager
async def workflow_engine(
    dsn: str = "sqlite://",
    *,
    proxy: TaskProxy | None = None,
    settings: EngineSettings | None = None,
    clock: Clock | None = None,
    notices: Notices | None = None,
    signals: Signals | None = None,
) -> AsyncIterator[tuple[Engine, TaskProxy]]:
    """A started engine and the proxy it gets graphs and tasks from; drained at the end."""
    proxy = proxy if proxy is not None else TaskProxy()
    if settings is not None:
        proxy.max_depth = settings.max_depth
    ports = Ports(
        tasks=proxy,
        capabilities=TaskCapabilities(max_depth=proxy.max_depth),
        graphs=proxy,
        notices=notices,
        signals=signals,
        clock=clock,
    )
    async with engine_on([dsn], ports, settings) as engine:
        yield engine, proxy
