"""The facts that the replicas of a deployment agree on, kept in the databases themselves (O17)."""

from __future__ import annotations

IDENTITY = "select deployment, shard, shards, counts from dwarf_deployment where one = 1"
# Of keys that are there already nobody knows with how many shards they were placed.
JOIN = (
    "insert into dwarf_deployment (one, deployment, shard, shards, counts) values (1, $1, $2, 0,"
    " case when exists (select 1 from dwarf_flows where idempotency_key <> '') then '0' else '' end)"
    " on conflict (one) do nothing"
)
RAISE_SHARDS = "update dwarf_deployment set shards = $1, counts = $2 where one = 1 and shards = $3 returning shards"
LEAST_KNOWN_SHARDS = "select coalesce(min(shards), 0) from dwarf_replicas where seen_at > {now} - $1"
SCHEMA = "select version_num, (select oldest_revision from dwarf_compatibility where one = 1) from dwarf_schema"
