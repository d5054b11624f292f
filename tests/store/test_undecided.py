"""An error of the database says whether what was asked for may have been done all the same."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.errors import Unavailable
from dwarf_nats.store.postgres import Postgres
from dwarf_nats.store.store import SqlStore


class Broken:
    """A connection that fails in the middle of a statement."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def is_closed(self) -> bool:
        return False

    def terminate(self) -> None:
        """There is nothing to end."""

    async def fetch(self, *_: Any) -> Any:
        raise self.error

    execute = fetch


@pytest.mark.parametrize(
    ("error", "undecided"),
    [
        (ConnectionResetError("reset"), True),
        (TimeoutError("no answer"), True),
        (asyncpg.ConnectionDoesNotExistError("lost"), True),
        (asyncpg.AdminShutdownError("terminated"), True),
        (asyncpg.TooManyConnectionsError("full"), False),
        (asyncpg.LockNotAvailableError("lock timeout"), False),
        (asyncpg.DiskFullError("full"), False),
        (asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"), False),
    ],
)
async def test_only_a_lost_answer_leaves_it_open(pg_dsn: str, error: Exception, undecided: bool) -> None:
    store = SqlStore(1, pg_dsn, pool=1, clock=SystemClock())
    await store.open("test", migrated=True)
    try:
        database = store.database
        assert isinstance(database, Postgres)
        await database.fetch_by_index("select 1")
        hot, database._hot = database._hot, Broken(error)  # type: ignore[assignment]
        with pytest.raises(Unavailable) as caught:
            await database.fetch_by_index("select 1")
        assert caught.value.undecided is undecided
        if hot is not None:
            await hot.close()
    finally:
        await store.close()


async def test_what_was_never_sent_was_not_done(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqlStore(1, pg_dsn, pool=1, clock=SystemClock())
    await store.open("test", migrated=True)
    try:
        database = store.database
        assert isinstance(database, Postgres)

        async def refused(*_: Any) -> Any:
            raise ConnectionRefusedError("refused")

        with monkeypatch.context() as patched:
            hot, database._hot = database._hot, None
            patched.setattr(type(database.target), "connect", refused)
            with pytest.raises(Unavailable) as caught:
                await database.fetch_by_index("select 1")
        assert caught.value.undecided is False
        database._hot = hot
    finally:
        await store.close()
