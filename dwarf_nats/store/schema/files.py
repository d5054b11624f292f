"""The files of the schema, and what belongs in them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from dwarf_nats.clock import SystemClock
from dwarf_nats.store import upgrade
from dwarf_nats.store.dsn import is_postgres, read
from dwarf_nats.store.schema.describe import read_postgres, read_sqlite, render
from dwarf_nats.store.store import SqlStore

FOLDER = Path(__file__).parent
_CREATION = (
    "-- Made by `python -m dwarf_nats.store.schema` from the migrations; do not edit."
    " An empty database gets these statements.\n"
)


async def schema_of(dsn: str) -> tuple[Path, str]:
    """Bring a database to the newest revision; return the file of its kind, and what belongs in it."""
    store = SqlStore(1, dsn, pool=1, clock=SystemClock())
    await store.open("schema", migrated=True)
    try:
        if is_postgres(dsn):
            return FOLDER / "postgres.sql", render(await read_postgres(store.database))
        return FOLDER / "sqlite.sql", render(await read_sqlite(store.database))
    finally:
        await store.replicas.deregister()
        await store.close()


async def creation_of(dsn: str) -> tuple[Path, str]:
    """Run all migrations on an empty database; return the file of its kind that creates the same at once, and its text."""
    if is_postgres(dsn):
        raw = await read(dsn).connect({}, command_timeout=None)
        try:
            return FOLDER / "create_postgres.sql", _script(await upgrade.upgrade_postgres(raw))
        finally:
            await raw.close()
    memory = sqlite3.connect(":memory:", isolation_level=None)
    memory.create_function("dwarf_now", 0, lambda: 0)
    try:
        return FOLDER / "create_sqlite.sql", _script(upgrade.upgrade_sqlite(memory))
    finally:
        memory.close()


def _script(statements: list[str]) -> str:
    return _CREATION + "".join(f"{statement};\n" for statement in statements)
