"""Bringing a database to the current schema with Alembic, forward only; several replicas may start at once."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, NullPool, StaticPool, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from dwarf_nats.errors import Unavailable
from dwarf_nats.ports import DatabaseAway, Unusable
from dwarf_nats.store import pooler
from dwarf_nats.store.dsn import read
from dwarf_nats.store.faults import CONNECTION, needs_a_person, one_line, root_of

T = TypeVar("T")
logging.getLogger("alembic").setLevel(logging.WARNING)  # its progress is no news of ours
log = logging.getLogger("dwarf_nats.store")
MIGRATION_LOCK_POLL_SECONDS = 0.2
"""Seconds between two attempts of a replica that waits for its turn to migrate."""
MIGRATION_LOCK_ID = 0x64776172
"""The advisory lock that replicas starting together take in turn: "dwar" in ASCII."""
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
_HERE = Path(__file__).resolve().parent.parent


class _Sqlite(Protocol):
    """An open SQLite database."""

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T: ...


def _turn() -> asyncio.Lock:
    """The lock under which databases are migrated one after the other: Alembic keeps its context in globals of the process."""
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())


def migrations_dir() -> Path:
    """The folder of the migrations: beside the package in a wheel, at the root of a checkout."""
    for place in (_HERE / "_migrations", _HERE.parent / "migrations"):
        if (place / "env.py").exists():
            return place
    raise Unavailable("the migrations are missing from this installation: install dwarf-nats again")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    return config


def head() -> str:
    """The newest revision."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


@cache
def known_revisions() -> Mapping[str, bool]:
    """Every revision of this version, the newest first, and whether older replicas may stay when a database gets it."""
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return {one.revision: bool(vars(one.module).get("old_replicas_may_stay")) for one in scripts}


def oldest_compatible() -> str:
    """The oldest revision whose replicas may run on a database at the newest one."""
    return next(revision for revision, old_may_stay in known_revisions().items() if not old_may_stay)


def is_later(revision: str | None) -> bool:
    """Say whether a revision is one that only a later version knows."""
    return revision is not None and revision not in known_revisions()


def check_revision(revision: str | None, label: str) -> None:
    """Raise `Unavailable` unless the database `label` is at the newest revision, `Unusable` if it is at a later one."""
    if is_later(revision):
        raise Unusable(
            f"the schema of {label} is at revision {revision}, of a later version than this one: upgrade this replica"
        )
    if revision != head():
        raise Unavailable(
            f"the schema of {label} is at revision {revision}, this version needs {head()}: run dwarf-nats migrate"
        )


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.exec_driver_sql("delete from dwarf_compatibility")
    connection.exec_driver_sql(
        f"insert into dwarf_compatibility (one, oldest_revision) values (1, '{oldest_compatible()}')"
    )


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": "dwarf_schema"}).get_current_revision()


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

    async def connected(*_: Any, **__: Any) -> Any:
        return raw

    try:
        # A migration takes as long as it takes.
        raw = await target.connect({"application_name": "dwarf-nats"}, command_timeout=None)
        await pooler.check(target, raw)
        engine = create_async_engine("postgresql+asyncpg://", async_creator=connected, poolclass=NullPool)
        async with engine.connect() as connection:
            found = await connection.run_sync(_revision)
            if not upgrade or found == head():  # then the lock is not needed, whoever has it
                return found
            await connection.rollback()
            await _lock(raw, target.label)
            await connection.run_sync(_upgrade)
            await connection.commit()
            return await connection.run_sync(_revision)
    except (*CONNECTION, SQLAlchemyError, asyncpg.PostgresError, CommandError) as error:
        words = f"PostgreSQL at {target.label} cannot be {'migrated' if upgrade else 'read'}: {_words(error)}"
        raise _grave_or_passing(words, error) from error
    finally:
        if raw is not None:
            raw.terminate()  # with it goes the lock


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


def _words(error: Exception) -> str:
    """The driver's words, without what SQLAlchemy adds to them."""
    root = root_of(error)
    return one_line(root if isinstance(error, SQLAlchemyError) else error)


def _grave_or_passing(words: str, error: Exception) -> Unavailable:
    if isinstance(error, CommandError):  # a revision that nobody here knows
        return Unusable(f"{words}; the schema is of a later version than this one: upgrade this replica")
    return Unusable(words) if needs_a_person(error) else DatabaseAway(words)


async def migrate_sqlite(database: _Sqlite) -> None:
    """Upgrade the SQLite database behind an open connection."""
    async with _turn():
        await database.call(lambda raw: _with_sqlite(raw, upgrade=True))


async def revision_sqlite(database: _Sqlite) -> str | None:
    """The revision a SQLite database is at, `None` for an empty one."""
    return await database.call(lambda raw: _with_sqlite(raw, upgrade=False))


def _with_sqlite(raw: sqlite3.Connection, *, upgrade: bool) -> str | None:
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    with engine.connect() as connection:
        if upgrade:
            try:
                _upgrade(connection)
            except (CommandError, SQLAlchemyError) as error:
                raise _grave_or_passing(f"the SQLite file cannot be migrated: {_words(error)}", error) from error
            connection.commit()
        return _revision(connection)
