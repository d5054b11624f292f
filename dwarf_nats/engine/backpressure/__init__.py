"""What holds steps back: valves for tasks that are busy, breakers for tasks that cannot serve (V1-V6).

`Backpressure` is what one replica knows, `Gate` its share of one shard. A claim asks `Gate.task_budgets`, a dispatch
`Gate.admits`, an answer goes through `Gate.judged`.
"""

from dwarf_nats.engine.backpressure.backpressure import Backpressure, Gate

__all__ = ["Backpressure", "Gate"]
