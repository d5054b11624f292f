"""The files of the schema, and what belongs in them."""

from __future__ import annotations

from pathlib import Path

from dwarf_nats.clock import SystemClock
from dwarf_nats.store.dsn import is_postgres
from dwarf_nats.store.schema.describe import read_postgres, read_sqlite, render
from dwarf_nats.store.store import SqlStore

FOLDER = Path(__file__).parent


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
