"""Engines whose metrics and spans end in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from telemetry_helpers import Heard, Spans, Watched, graphs

from dwarf_nats.clock import ManualClock
from dwarf_nats.embedding import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy


@pytest.fixture
def proxy() -> TaskProxy:
    return graphs()


@pytest.fixture
def spans() -> Spans:
    return Spans()


@asynccontextmanager
async def watched(dsn: str, proxy: TaskProxy, **more: Any) -> AsyncIterator[Watched]:
    """A started engine, and what its metrics and spans say."""
    heard, spans = Heard(), Spans()
    settings = EngineSettings(drain_ms=0, **more.pop("settings", {}))
    engine = open_engine(
        dsn,
        tasks=proxy,
        graphs=proxy,
        settings=settings,
        meter_provider=heard.provider,
        tracer_provider=spans.provider,
        **more,
    )
    async with engine:
        yield Watched(engine, proxy, heard, spans)


@pytest.fixture
async def on(dsn: str, proxy: TaskProxy) -> AsyncIterator[Watched]:
    """An engine on each database."""
    async with watched(dsn, proxy) as made:
        yield made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def timed(proxy: TaskProxy, clock: ManualClock) -> AsyncIterator[Watched]:
    """An engine on SQLite whose time is `clock`."""
    async with watched("sqlite://", proxy, clock=clock) as made:
        yield made
