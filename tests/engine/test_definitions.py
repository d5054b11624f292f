"""Definitions are kept in one place, and every replica follows them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.errors import NotFound
from dwarf_nats.ports import Definition
from dwarf_nats.testing import TaskProxy
from tests.support.engines import SOON, maintenance_of, replica, rows, wired


class Watcher:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []
        self._heard = asyncio.Event()

    def __call__(self, known: Mapping[str, Definition]) -> None:
        self.told.append({name: one.body for name, one in known.items()})
        self._heard.set()

    async def until(self, wanted: dict[str, str]) -> None:
        async with asyncio.timeout(SOON):
            while not self.told or self.told[-1] != wanted:
                self._heard.clear()
                await self._heard.wait()


async def test_a_definition_is_kept_replaced_listed_and_forgotten(engine: Engine) -> None:
    definitions = engine.replica.definitions
    before = await engine.replica.definitions.put("hold", "b", '{"a":1}')
    await definitions.put("hold", "a", "{}")
    await definitions.put("limit", "a", '{"of":"another kind"}')
    after = await definitions.put("hold", "b", '{"a":2}')
    assert after.updated_at >= before.updated_at
    assert [(one.name, one.body) for one in await definitions.list("hold")] == [("a", "{}"), ("b", '{"a":2}')]
    assert (await definitions.get("hold", "b")).body == '{"a":2}'
    await definitions.delete("hold", "b")
    assert [one.name for one in await definitions.list("hold")] == ["a"]
    for refused in (definitions.delete("hold", "b"), definitions.get("hold", "b"), definitions.get("nothing", "b")):
        with pytest.raises(NotFound, match="list what there is"):
            await refused


async def test_a_watcher_hears_of_its_kind_alone(engine: Engine) -> None:
    definitions = engine.replica.definitions
    watcher = Watcher()
    definitions.watch("hold", watcher)
    await definitions.put("hold", "a", "{}")
    await definitions.put("limit", "a", "{}")
    await definitions.delete("hold", "a")
    assert watcher.told == [{}, {"a": "{}"}, {}]


async def test_a_watcher_that_fails_keeps_nobody_else_from_hearing(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_: Mapping[str, Definition]) -> None:
        raise ValueError("a defect")

    definitions, watcher = engine.replica.definitions, Watcher()
    with caplog.at_level(logging.ERROR):
        definitions.watch("hold", failing)
        definitions.watch("hold", watcher)
        await definitions.put("hold", "a", "{}")
    assert watcher.told[-1] == {"a": "{}"}
    assert "a defect in what follows the definitions of kind hold" in caplog.text


async def test_another_replica_hears_at_once(dsn: str, proxy: TaskProxy) -> None:
    """The signal is followed; the clock of the poll does not move here."""
    (one, _), (two, _) = wired(dsn, proxy) if dsn.startswith("postgres") else _same(dsn, proxy)
    await one.startup()
    if two is not one:
        await two.startup()
    watcher = Watcher()
    two.replica.definitions.watch("hold", watcher)
    await one.replica.definitions.put("hold", "a", "{}")
    await watcher.until({"a": "{}"})
    await one.replica.definitions.delete("hold", "a")
    await watcher.until({})
    await one.shutdown()
    if two is not one:
        await two.shutdown()


def _same(dsn: str, proxy: TaskProxy) -> tuple[tuple[Engine, None], tuple[Engine, None]]:
    engine = replica(dsn, proxy)  # SQLite has one replica
    return (engine, None), (engine, None)


async def test_a_lost_signal_is_found_by_the_heartbeat_and_a_restart_reads_all(dsn: str, proxy: TaskProxy) -> None:
    one = replica(dsn, proxy)
    await one.startup()
    watcher = Watcher()
    one.replica.definitions.watch("hold", watcher)
    # As another replica would, whose signal was lost.
    await one.shards[1].store.definitions.put("hold", "a", "{}")
    assert watcher.told == [{}]
    await maintenance_of(one).heartbeat.run_once()
    await watcher.until({"a": "{}"})
    assert watcher.told == [{}, {"a": "{}"}]
    await one.shutdown()

    two = replica(dsn, proxy)
    again = Watcher()
    two.replica.definitions.watch("hold", again)
    assert again.told == []
    await two.startup()
    assert again.told == [{"a": "{}"}], "before the first step of the shard"
    await two.shutdown()


async def test_an_idle_replica_reads_one_number(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    database = engine.shards[1].store.database
    asked: list[str] = []
    fetch = database.fetch

    async def counting(sql: str, *args: object) -> object:
        asked.append(sql)
        return await fetch(sql, *args)

    await engine.replica.definitions.put("hold", "a", "{}")
    monkeypatch.setattr(database, "fetch", counting)
    await engine.replica.definitions.refresh()
    assert [sql for sql in asked if "definitions" in sql] == ["select definitions from dwarf_deployment where one = 1"]


async def test_two_changes_at_once_are_both_counted(engine: Engine) -> None:
    store = engine.shards[1].store.definitions
    before = await store.revision()
    await asyncio.gather(*(store.put("hold", f"h{number}", "{}") for number in range(10)))
    assert await store.revision() == before + 10
    assert await rows(engine, "select count(*) from dwarf_definitions") == [(10,)]
