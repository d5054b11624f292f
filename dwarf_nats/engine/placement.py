"""Shards by key and by query (O1, O9, O17)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dwarf_nats.errors import BadRequest, NotFound
from dwarf_nats.workflow.keys import Key, parse_key, parse_public_id

if TYPE_CHECKING:
    from dwarf_nats.engine.deployment import Deployment
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.workflow.options import Query


class Placement:
    """Finds the shards that an operation is for."""

    def __init__(self, shards: Mapping[int, Shard], deployment: Deployment) -> None:
        self._shards = shards
        self._deployment = deployment

    def all_shards(self) -> list[Shard]:
        """Return every shard of this replica."""
        return list(self._shards.values())

    def locate(self, text: str, what: str = "flow") -> tuple[Shard, Key]:
        """Parse a key and find its shard. `what`: `flow`, `step` or `thread`, for messages.

        Raises `BadRequest` for a malformed key, and as `shard_of`.
        """
        key = parse_key(text, what)
        return self.shard_of(key, what), key

    def shard_of(self, key: Key, what: str = "flow") -> Shard:
        """Return the shard of a key.

        Raises `NotFound` if there is no shard of that number, `Unavailable` if only this replica lacks it.
        """
        if self._deployment.count >= key.shard > len(self._shards):
            raise self._deployment.unknown_shard(key.shard)
        shard = self._shards.get(key.shard)
        if shard is None:
            raise NotFound(f"no {what} {key.public_id}: there is no shard {key.shard}")
        return shard

    def shards_of(self, query: Query) -> list[Shard]:
        """Return the shards a query is about, in order. Raises `BadRequest` if it names one that is not there."""
        if query.flow_id is not None:
            number, _ = parse_public_id(query.flow_id)
            return [self._shards[number]] if number in self._shards and query.shard in (None, number) else []
        if query.shard is None:
            return [self._shards[number] for number in sorted(self._shards)]
        if query.shard not in self._shards:
            numbers = ", ".join(map(str, sorted(self._shards)))
            raise BadRequest(f"there is no shard {query.shard}: this deployment has {numbers}")
        return [self._shards[query.shard]]
