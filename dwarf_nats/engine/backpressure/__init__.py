"""Backpressure: valves limit tasks that are busy, breakers hold tasks that cannot serve (V1-V6).

`Backpressure` is what one replica knows, `ShardBackpressure` the share of one shard. A claim reads
`ShardBackpressure.task_budgets`, a dispatch asks `admits`, an answer goes through `release_refused`.
"""

from dwarf_nats.engine.backpressure.backpressure import Backpressure, ShardBackpressure

__all__ = ["Backpressure", "ShardBackpressure"]
