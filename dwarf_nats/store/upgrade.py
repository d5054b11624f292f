"""Upgrading a database with Alembic. It takes a third of a replica's memory, so it is loaded only where it has to work."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, StaticPool, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from dwarf_nats.errors import Unavailable
from dwarf_nats.store.faults import root_of
from dwarf_nats.store.revisions import HEAD, compatibility

logging.getLogger("alembic").setLevel(logging.WARNING)  # its progress is no news of ours
CHANGING = ("create", "alter", "drop", "insert", "update", "delete", "revoke", "grant")
_HERE = Path(__file__).resolve().parent.parent


def migrations_dir() -> Path:
    """The folder of the migrations: beside the package in a wheel, at the root of a checkout."""
    for place in (_HERE / "_migrations", _HERE.parent / "migrations"):
        if (place / "env.py").exists():
            return place
    raise Unavailable("the migrations are missing from this installation: install dwarf-nats again")


def scripts() -> ScriptDirectory:
    """The migrations."""
    return ScriptDirectory.from_config(_config())


async def upgrade_postgres(raw: Any, revision: str = HEAD) -> list[str]:
    """Bring the PostgreSQL database behind a connection of asyncpg to a revision, the newest by default.

    Returns the statements that changed it. Raises the errors of asyncpg.
    """

    async def connected(*_: Any, **__: Any) -> Any:
        return raw

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connected, poolclass=StaticPool)
    try:
        async with engine.connect() as connection:
            said = await connection.run_sync(_upgrade, revision)
            await connection.commit()
            return said
    except SQLAlchemyError as error:
        raise root_of(error) from error


def upgrade_sqlite(raw: sqlite3.Connection, revision: str = HEAD) -> list[str]:
    """Bring the SQLite database behind a connection to a revision, the newest by default.

    Returns the statements that changed it. Raises the errors of sqlite3.
    """
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    try:
        with engine.connect() as connection:
            said = _upgrade(connection, revision)
            connection.commit()
            return said
    except SQLAlchemyError as error:
        raise root_of(error) from error


@contextmanager
def _recorded(connection: Connection) -> Iterator[list[str]]:
    """List the statements that change the database meanwhile, without those for the table of the revision's rows."""
    said: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        words = statement.split()
        if words[0].lower() in CHANGING and words[1:3] not in (["INTO", "dwarf_schema"], ["dwarf_schema", "SET"]):
            said.append(statement.strip())

    event.listen(connection, "before_cursor_execute", note)
    try:
        yield said
    finally:
        event.remove(connection, "before_cursor_execute", note)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    return config


def _upgrade(connection: Connection, revision: str) -> list[str]:
    with _recorded(connection) as said:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    for statement in compatibility() if revision == HEAD else ():
        connection.exec_driver_sql(statement)
    return said
