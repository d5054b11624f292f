"""The port to the definitions: small named documents that steer a deployment."""

from __future__ import annotations

from typing import NamedTuple, Protocol

HOME = 1
"""The shard whose database keeps the definitions, and what is counted for all shards."""


class Definition(NamedTuple):
    """A named document. `body`: a JSON text. `updated_at`: microseconds since the epoch."""

    kind: str
    name: str
    body: str
    updated_at: int


class DefinitionStore(Protocol):
    """Keeps definitions by kind and name. There are few: they are read all at once."""

    async def put(self, kind: str, name: str, body: str) -> Definition:
        """Keep a document under its name, in place of one that had it."""
        ...

    async def delete(self, kind: str, name: str) -> bool:
        """Forget a document; return whether there was one."""
        ...

    async def revision(self) -> int:
        """Return a number that every change makes larger."""
        ...

    async def all(self) -> tuple[int, list[Definition]]:
        """Return all documents by kind and name, and the revision they are of or an older one."""
        ...
