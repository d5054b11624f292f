"""Engines whose metrics and spans end in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.telemetry import instruments
from dwarf_nats.testing import TaskProxy
from tests.support.telemetry import Spans, Watched, graphs, until, watched


@pytest.fixture
def proxy() -> TaskProxy:
    return graphs()


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def every_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Histograms take every value, also of flows that end within a millisecond of each other."""
    monkeypatch.setattr(instruments, "SAMPLE_INTERVAL_US", 0)


@pytest.fixture
async def on(dsn: str, proxy: TaskProxy) -> AsyncIterator[Watched]:
    """An engine on each database, which has looked into its queue: before that, a first step waits there (C1)."""
    async with watched(dsn, proxy) as made:
        await until(lambda: made.engine.shards[1].ready_queue.backlog_band is None, made.engine)
        yield made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def timed(proxy: TaskProxy, clock: ManualClock) -> AsyncIterator[Watched]:
    """An engine on SQLite whose time is `clock`."""
    async with watched("sqlite://", proxy, clock=clock) as made:
        yield made
