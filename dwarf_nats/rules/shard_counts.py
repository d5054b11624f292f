"""The numbers of shards that a deployment has had: they say where keys may lie (O1, O17). Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

UNKNOWN = 0
"""Stands among the counts for a time of which no count is known: what was kept then may lie on any shard."""


def read_counts(text: str, shards: int) -> frozenset[int]:
    """Read the counts that a database has. `shards`: the number agreed on there; without it among them they are not all."""
    counts = frozenset(map(int, text.split()))
    return counts | {UNKNOWN} if shards and shards not in counts else counts


def write_counts(counts: Collection[int]) -> str:
    """Write counts as a database has them."""
    return " ".join(map(str, sorted(counts)))


def home_of(shards: int, fairness_key: str, idempotency_key: str) -> int:
    """Return the home of a key among this many shards, the same on every replica; 0 if there are none.

    One more shard takes keys from all others, and no key moves between these (rendezvous hashing).
    """
    seed = f"{fairness_key}\0{idempotency_key}\0".encode("utf-8", "surrogatepass")
    return max(range(1, shards + 1), key=lambda number: hashlib.sha256(seed + str(number).encode()).digest(), default=0)


def homes_of(counts: Collection[int], fairness_key: str, idempotency_key: str) -> set[int]:
    """Return the homes that a key has had."""
    return {home_of(shards, fairness_key, idempotency_key) for shards in counts if shards != UNKNOWN}
