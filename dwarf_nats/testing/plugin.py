"""The pytest fixture `dwarf_engine` (needs pytest-asyncio)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest_asyncio

if TYPE_CHECKING:
    from dwarf_nats.engine import Engine
    from dwarf_nats.testing.proxy import TaskProxy


@pytest_asyncio.fixture
async def dwarf_engine() -> AsyncIterator[tuple[Engine, TaskProxy]]:
    """An engine on SQLite in memory, and the proxy that serves its graphs and tasks."""
    from dwarf_nats.testing.harness import workflow_engine

    async with workflow_engine() as pair:
        yield pair
