"""SQLite in memory for test environments: opened in milliseconds, and kept when its replica is killed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from dwarf_nats.clock import SystemClock
from dwarf_nats.store.sqlite import Sqlite

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock
    from dwarf_nats.store.database import Operation, Tx
    from dwarf_nats.testing.activity import Activity

T = TypeVar("T")
DATABASE = "the database"
_schema: list[bytes] = []
"""The image of an empty database with the schema, once one was made: to migrate takes a second."""


async def schema_image() -> bytes:
    """Return the image of an empty database with the schema."""
    if not _schema:
        database = Sqlite("", SystemClock())
        await database.open_shard(migrated=True)
        try:
            _schema.append(await database.call(_image))
        finally:
            await database.close()
    return _schema[-1]


def _image(connection: Any) -> bytes:
    return bytes(connection.serialize())


class MemoryDatabase(Sqlite):
    """A database in memory that begins as an image, and tells when it works."""

    def __init__(self, clock: Clock, activity: Activity, image: bytes) -> None:
        super().__init__("", clock)
        self._activity = activity
        self._first_image = image

    async def open(self) -> None:
        await super().open()
        await self.call(lambda connection: connection.deserialize(self._first_image))

    async def image(self) -> bytes:
        """Return all that is committed."""
        return await self.call(_image)

    async def call(self, work: Callable[[Any], T]) -> T:
        with self._activity.during(DATABASE):
            return await super().call(work)

    async def run(self, operation: Operation[T]) -> T:
        with self._activity.during(DATABASE):
            return await super().run(operation)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        with self._activity.during(DATABASE):
            async with super().transaction() as tx:
                yield tx
