"""The facts that the replicas of a deployment agree on, kept in the databases themselves (O17)."""

from __future__ import annotations

IDENTITY = "select deployment, shard, shards from dwarf_deployment where one = 1"
JOIN = (
    "insert into dwarf_deployment (one, deployment, shard, shards) values (1, $1, $2, 0) on conflict (one) do nothing"
)
RAISE_SHARDS = "update dwarf_deployment set shards = $1 where one = 1 and shards < $1"
LEAST_KNOWN_SHARDS = "select coalesce(min(shards), 0) from dwarf_replicas where seen_at > {now} - $1"
SCHEMA = "select version_num, (select oldest_revision from dwarf_compatibility where one = 1) from dwarf_schema"
