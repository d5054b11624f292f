"""Bringing a database to the current schema, forward only; several replicas may start at once.

An empty database gets the schema at once, from a file that is made from the migrations. Any other is upgraded by them.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import asyncpg

from dwarf_nats.errors import Unavailable
from dwarf_nats.ports import DatabaseAway, Unusable
from dwarf_nats.store import pooler
from dwarf_nats.store.dsn import read
from dwarf_nats.store.faults import CONNECTION, needs_a_person, one_line
from dwarf_nats.store.revisions import HEAD, compatibility, is_later

T = TypeVar("T")
log = logging.getLogger("dwarf_nats.store")
MIGRATION_LOCK_POLL_SECONDS = 0.2
"""Seconds between two attempts of a replica that waits for its turn to migrate."""
MIGRATION_LOCK_ID = 0x64776172
"""The advisory lock that replicas starting together take in turn: "dwar" in ASCII."""
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
_SCHEMA = Path(__file__).parent / "schema"


class _Sqlite(Protocol):
    """An open SQLite database."""

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T: ...


def creation(kind: str) -> str:
    """The statements that give an empty database the newest schema; `kind`: `postgres` or `sqlite`."""
    made = (_SCHEMA / f"create_{kind}.sql").read_text()
    rows = (f"insert into dwarf_schema (version_num) values ('{HEAD}')", *compatibility())
    return "".join([made, *(f"{statement};\n" for statement in rows)])


def _turn() -> asyncio.Lock:
    """The lock under which databases are migrated one after the other: Alembic keeps its context in globals of the process."""
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())


async def migrate_postgres(dsn: str) -> None:
    """Upgrade a PostgreSQL database. Raises `Unavailable` if that is not possible, `Unusable` if only a person can help."""
    async with _turn():
        await _with_postgres(dsn, upgrade=True)


async def revision_postgres(dsn: str) -> str | None:
    """The revision a PostgreSQL database is at, `None` for an empty one."""
    return await _with_postgres(dsn, upgrade=False)


async def _with_postgres(dsn: str, *, upgrade: bool) -> str | None:
    target = read(dsn)
    raw: Any = None
    try:
        # A migration takes as long as it takes.
        raw = await target.connect({"application_name": "dwarf-nats"}, command_timeout=None)
        await pooler.check(target, raw)
        found = await _revision(raw)
        if not upgrade or found == HEAD:  # then the lock is not needed, whoever has it
            return found
        await _lock(raw, target.label)
        await _upgrade_postgres(raw, target.label)
        return await _revision(raw)
    except (*CONNECTION, asyncpg.PostgresError) as error:
        words = f"PostgreSQL at {target.label} cannot be {'migrated' if upgrade else 'read'}: {one_line(error)}"
        raise _grave_or_passing(words, error) from error
    finally:
        if raw is not None:
            raw.terminate()  # with it goes the lock


async def _revision(raw: Any) -> str | None:
    if await raw.fetchval("select to_regclass('dwarf_schema')") is None:
        return None
    revision: str | None = await raw.fetchval("select version_num from dwarf_schema")
    return revision


async def _upgrade_postgres(raw: Any, label: str) -> None:
    found = await _revision(raw)  # another replica may have done it meanwhile
    if found is None:
        async with raw.transaction():
            await raw.execute(creation("postgres"))
    elif found != HEAD:
        _check_known(found, f"PostgreSQL at {label}")
        from dwarf_nats.store import upgrade  # heavy: only for what has to be upgraded

        await upgrade.upgrade_postgres(raw)


async def _lock(raw: Any, where: str) -> None:
    """Wait for our turn to migrate; say so if somebody else has it."""
    told = False
    while not await raw.fetchval("select pg_try_advisory_lock($1)", MIGRATION_LOCK_ID):
        if not told:
            log.warning("%s: waiting for its migration lock, %s; Ctrl-C stops", where, await _holder(raw))
            told = True
        await asyncio.sleep(MIGRATION_LOCK_POLL_SECONDS)
    if told:
        log.info("%s: the migration lock is free", where)


async def _holder(raw: Any) -> str:
    row = await raw.fetchrow(
        """
        select a.pid, a.usename, a.application_name, host(a.client_addr), a.backend_start
        from pg_locks l left join pg_stat_activity a on a.pid = l.pid
        where l.locktype = 'advisory' and l.granted and l.classid = 0 and l.objid = $1 and l.objsubid = 1
          and l.database = (select oid from pg_database where datname = current_database())
        """,
        MIGRATION_LOCK_ID,
    )
    pid, user, name, host, since = row if row is not None else [None] * 5
    if pid is None:
        return "which was held by another session a moment ago"
    more = [
        f"user {user}" if user else "",
        name or "",
        f"from {host}" if host else "",
        f"since {since:%F %T%z}" if since else "",
    ]
    return f"held by process {pid} ({', '.join(filter(None, more))})"


def _check_known(revision: str, label: str) -> None:
    if is_later(revision):
        raise Unusable(
            f"{label} cannot be migrated: it is at revision {revision}; the schema is of a later version than this one:"
            " upgrade this replica"
        )


def _grave_or_passing(words: str, error: Exception) -> Unavailable:
    return Unusable(words) if needs_a_person(error) else DatabaseAway(words)


async def migrate_sqlite(database: _Sqlite) -> None:
    """Upgrade the SQLite database behind an open connection."""
    async with _turn():
        await database.call(_upgrade_sqlite)


async def revision_sqlite(database: _Sqlite) -> str | None:
    """The revision a SQLite database is at, `None` for an empty one."""
    return await database.call(_revision_sqlite)


def _revision_sqlite(raw: sqlite3.Connection) -> str | None:
    if not raw.execute("select 1 from sqlite_master where name = 'dwarf_schema'").fetchall():
        return None
    for (revision,) in raw.execute("select version_num from dwarf_schema").fetchall():
        return str(revision)
    return None


def _upgrade_sqlite(raw: sqlite3.Connection) -> None:
    try:
        found = _revision_sqlite(raw)
        if found is None:
            _create_sqlite(raw)
        elif found != HEAD:
            _check_known(found, "the SQLite file")
            from dwarf_nats.store import upgrade  # heavy: only for what has to be upgraded

            upgrade.upgrade_sqlite(raw)
    except sqlite3.Error as error:
        raise _grave_or_passing(f"the SQLite file cannot be migrated: {one_line(error)}", error) from error


def _create_sqlite(raw: sqlite3.Connection) -> None:
    try:
        raw.executescript(f"begin immediate;\n{creation('sqlite')}commit;\n")
    except sqlite3.Error:
        if raw.in_transaction:
            raw.execute("rollback")
        raise
