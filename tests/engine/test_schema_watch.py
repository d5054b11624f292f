"""A replica that meets a newer schema while it runs: it goes on if it may, or takes no more steps and says so."""

from __future__ import annotations

import logging

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.store.revisions import OLDEST_COMPATIBLE
from dwarf_nats.workflow.status import Status
from tests.support.engines import Remembered, maintenance_of, quiet


async def newer(engine: Engine, oldest: str) -> None:
    """What a newer version leaves in the database, of which only replicas from `oldest` on may stay."""
    database = engine.shards[1].store.database
    await database.fetch("update dwarf_schema set version_num = '9999'")
    await database.fetch("update dwarf_compatibility set oldest_revision = $1", oldest)


async def test_a_replica_that_may_stay_goes_on_and_says_so_once(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    watch = maintenance_of(engine).schema_watch
    with caplog.at_level(logging.INFO):
        await watch.run_once()
        assert "9999" not in caplog.text
        await newer(engine, OLDEST_COMPATIBLE)
        await maintenance_of(engine).heartbeat.run_once()
        await watch.run_once()
    assert caplog.text.count("may stay until it is upgraded") == 1
    assert (await engine.run("line", None, None, 20)).status is Status.COMPLETED
    assert engine.health()[0].reason == ""


async def test_a_replica_that_is_too_old_takes_no_more_steps_and_is_not_ready(
    engine: Engine, heard: Remembered, caplog: pytest.LogCaptureFixture
) -> None:
    watch = maintenance_of(engine).schema_watch
    await newer(engine, "9998")
    await maintenance_of(engine).heartbeat.run_once()
    await watch.run_once()
    assert caplog.text.count("takes no more steps") == 1
    (health,) = engine.health()
    assert "revision 9999, of a later version than this one: upgrade this replica" in health.reason
    key = await engine.create("line", start=True)
    await quiet(engine)
    assert (await engine.snapshot(key)).status is Status.RUNNING
    (step,) = await engine.history(key)
    assert step.status is Status.PENDING
    assert heard.of(key.rsplit("-", 1)[0])[-1] is Status.RUNNING
