"""The whole service in this process, for tests that talk to it over NATS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings

if TYPE_CHECKING:
    from pathlib import Path

    from dwarf_nats.engine import Engine


@asynccontextmanager
async def service(
    nats_url: str,
    dsn: str = "sqlite://",
    *,
    prefix: str = "dwarf",
    task_prefix: str = "task",
    graphs_dir: Path | None = None,
) -> AsyncIterator[Engine]:
    """One replica on `nats_url` and `dsn`, ready when entered, drained at the end. Give each test prefixes of its own."""
    settings = ServerSettings.of(
        dsns=[dsn],
        nats_url=nats_url,
        prefix=prefix,
        task_prefix=task_prefix,
        graphs_dir=graphs_dir,
        drain_ms=2_000,
        wait_for_servers=False,
    )
    async with replica(settings) as engine:
        yield engine
