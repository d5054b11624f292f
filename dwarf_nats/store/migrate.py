"""Bringing a database to the current schema with Alembic, forward only; several replicas may start at once."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path
from weakref import WeakKeyDictionary

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, StaticPool, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from dwarf_nats.errors import Unavailable
from dwarf_nats.store.faults import one_line
from dwarf_nats.store.postgres import shown_dsn
from dwarf_nats.store.sqlite import Sqlite

logging.getLogger("alembic").setLevel(logging.WARNING)  # its progress is no news of ours
LOCK = 0x64776172  # "dwar": the advisory lock that replicas starting together take in turn
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
_HERE = Path(__file__).resolve().parent.parent


def _turn() -> asyncio.Lock:
    """Alembic keeps its context in globals of the process: databases are migrated one after the other."""
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())


def migrations_dir() -> Path:
    """Where the migrations are: in the wheel beside the package, in a checkout at its root."""
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


def is_later(revision: str | None) -> bool:
    """Whether a database is at a revision that only a later version knows."""
    known = {one.revision for one in ScriptDirectory.from_config(_config()).walk_revisions()}
    return revision is not None and revision not in known


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": "dwarf_schema"}).get_current_revision()


async def migrate_postgres(dsn: str) -> None:
    """Upgrade a PostgreSQL database. Raises `Unavailable` if it does not answer."""
    async with _turn():
        await _with_postgres(dsn, upgrade=True)


async def revision_postgres(dsn: str) -> str | None:
    """The revision a PostgreSQL database is at, `None` for an empty one."""
    return await _with_postgres(dsn, upgrade=False)


async def _with_postgres(dsn: str, *, upgrade: bool) -> str | None:
    engine = create_async_engine("postgresql+asyncpg://" + dsn.split("://", 1)[1])
    try:
        async with engine.connect() as connection:
            if upgrade:
                await connection.execute(text(f"select pg_advisory_lock({LOCK})"))
                await connection.commit()
                try:
                    await connection.run_sync(_upgrade)
                    await connection.commit()
                finally:
                    await connection.rollback()
                    await connection.execute(text(f"select pg_advisory_unlock({LOCK})"))
                    await connection.commit()
            return await connection.run_sync(_revision)
    except (OSError, SQLAlchemyError, TimeoutError, CommandError) as error:
        raise Unavailable(f"PostgreSQL at {shown_dsn(dsn)} cannot be migrated: {one_line(error)}") from error
    finally:
        await engine.dispose()


async def migrate_sqlite(database: Sqlite) -> None:
    """Upgrade the SQLite database behind an open connection."""
    async with _turn():
        await database.call(lambda raw: _with_sqlite(raw, upgrade=True))


async def revision_sqlite(database: Sqlite) -> str | None:
    """The revision a SQLite database is at, `None` for an empty one."""
    return await database.call(lambda raw: _with_sqlite(raw, upgrade=False))


def _with_sqlite(raw: sqlite3.Connection, *, upgrade: bool) -> str | None:
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    with engine.connect() as connection:
        if upgrade:
            try:
                _upgrade(connection)
            except CommandError as error:
                raise Unavailable(f"the SQLite file cannot be migrated: {one_line(error)}") from error
            connection.commit()
        return _revision(connection)
