"""A database that cannot be reached, for engines that run in the process of the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from dwarf_nats.engine import Engine
from dwarf_nats.ports import DatabaseAway

METHODS = ("fetch", "fetch_by_index", "run", "read", "read_aside", "transaction", "transact", "transact_by_index")


@contextmanager
def shard_away(number: int, *engines: Engine, noticed: bool = False) -> Iterator[None]:
    """Let no statement of these engines reach the database of a shard. `noticed`: they know it before they ask."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise DatabaseAway(f"the database of shard {number} is away, try again")

    databases: list[Any] = [engine.shards[number].store.database for engine in engines]  # type: ignore[attr-defined]
    for database in databases:
        for method in METHODS:
            setattr(database, method, refuse)
    if noticed:
        for engine in engines:
            engine.shards[number].availability.report_away("the database is away")
    try:
        yield
    finally:
        for database in databases:
            for method in METHODS:
                delattr(database, method)
        for engine in engines:
            engine.shards[number].availability.report_answer()
            engine.replica.deployment._not_answering.discard(number)
