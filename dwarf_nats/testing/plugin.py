"""The pytest fixtures `flow_env` and `dwarf_engine`. Without pytest-asyncio, which they need, they say so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dwarf_nats.engine import Engine
    from dwarf_nats.testing.kit import FlowEnv
    from dwarf_nats.testing.proxy import TaskProxy

if find_spec("pytest_asyncio") is not None:
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def flow_env() -> AsyncIterator[FlowEnv]:
        """An environment for the test of a workflow; see `dwarf_nats.testing.flow_env`."""
        from dwarf_nats.testing.kit import flow_env as opened

        async with opened() as env:
            yield env

    @pytest_asyncio.fixture
    async def dwarf_engine() -> AsyncIterator[tuple[Engine, TaskProxy]]:
        """An engine on SQLite in memory, and the proxy that serves its graphs and tasks."""
        from dwarf_nats.testing.harness import workflow_engine

        async with workflow_engine() as pair:
            yield pair

else:

    @pytest.fixture(name="flow_env")
    def missing_flow_env() -> None:
        """Say what is missing."""
        _refuse("flow_env")

    @pytest.fixture(name="dwarf_engine")
    def missing_dwarf_engine() -> None:
        """Say what is missing."""
        _refuse("dwarf_engine")

    def _refuse(fixture: str) -> None:
        pytest.fail(f'the fixture {fixture} needs pytest-asyncio: pip install "dwarf-nats[testing]"', pytrace=False)
