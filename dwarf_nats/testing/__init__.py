"""Tests of workflows: the real engine on SQLite in memory, in the process of the test. No server is needed.

    async with flow_env() as env:
        env.graphs("graphs/")
        env.use(worker)
        outcome = await env.run("greeting", {"name": "ada"})
        await env.assert_history(outcome, ["greet", "shout"])

`flow_env` has a clock that moves from one due time to the next, fakes and failures. `workflow_engine` is an engine alone, by
default with the machine's clock; `service` is the whole service, NATS included. The fixtures of pytest are `flow_env` and
`dwarf_engine`.
"""

from dwarf_nats.testing.activity import StillBusy
from dwarf_nats.testing.fakes import Emitted, Fake, ServiceRecord, TaskRecord
from dwarf_nats.testing.harness import workflow_engine
from dwarf_nats.testing.histories import assert_history, history_lines
from dwarf_nats.testing.kit import FlowEnv, FlowStuck, flow_env
from dwarf_nats.testing.proxy import TaskProxy
from dwarf_nats.testing.service import service

__all__ = [
    "Emitted",
    "Fake",
    "FlowEnv",
    "FlowStuck",
    "ServiceRecord",
    "StillBusy",
    "TaskProxy",
    "TaskRecord",
    "assert_history",
    "flow_env",
    "history_lines",
    "service",
    "workflow_engine",
]
