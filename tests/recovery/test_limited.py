"""A limit holds while its replicas are killed and replaced, as the task service itself counts (K1, B2)."""

from __future__ import annotations

import random

import pytest

from dwarf_nats.dev_servers import NatsServer
from tests.chaos.limited import limits_of, new_round

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite_dsn", "pg_dsn"])
def any_dsn(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


async def test_no_task_runs_more_often_at_once_than_allowed_while_replicas_are_killed(
    nats_server: NatsServer, any_dsn: str
) -> None:
    """K1: two limits at once, two replicas where the database can have them, one of which dies with its steps in hand."""
    random.seed(11)
    replicas = 1 if any_dsn.startswith("sqlite") else 2
    async with new_round(nats_server.url, [any_dsn]) as one:
        for _ in range(replicas):
            await one.crew.add()
        await limits_of(one, 200)
        await one.feed(60)
        await one.crew.kill_one(one.service)
        await one.crew.add()
        await one.feed(40)
        await one.until_done()
        assert one.service.exceeded == []
        assert one.service.executions >= one.flows == 100
        assert 2 <= one.service.most <= 5
