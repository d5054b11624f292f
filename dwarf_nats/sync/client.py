"""The synchronous client.

Made by `python -m dwarf_nats.sdk.generate_sync`; do not edit.
"""

from __future__ import annotations

from collections.abc import Iterator

from dwarf_nats.sdk.arguments import Values
from dwarf_nats.sdk.client import Change
from dwarf_nats.sync.deployment import Deployment
from dwarf_nats.sync.flow_control import FlowControl
from dwarf_nats.sync.flow_reads import FlowReads
from dwarf_nats.sync.holds import Holds
from dwarf_nats.sync.limits import Limits
from dwarf_nats.sync.message_sources import MessageSources
from dwarf_nats.sync.retention import Retention
from dwarf_nats.sync.schedules import Schedules
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.records import Outcome


class Client(FlowReads, FlowControl, Limits, Holds, Retention, Schedules, MessageSources, Deployment):
    """A synchronous client of the service, for scripts, threads and frameworks without an event loop.

    One client serves any number of threads at once. Its methods and arguments are those of `dwarf_nats.Client`; only
    a connection of your own, `nc`, it does not take. Ctrl-C ends a method that waits.
    """

    def create(
        self, workflow: str | Graph, state: Values = None, options: FlowOptions | None = None, *, start: bool = False
    ) -> str:
        """Create a flow of a registered workflow, named, or of a graph sent along; returns its key (O1).

        Example: `key = client.create("order", {"total": 5}, start=True)`
        """
        return self._run(self._async.create(workflow=workflow, state=state, options=options, start=start))

    def create_task(
        self, task: str, state: Values = None, options: FlowOptions | None = None, *, start: bool = False
    ) -> str:
        """Create a flow of a single task; returns its key (O1).

        Example: `key = client.create_task("charge", {"total": 5})`
        """
        return self._run(self._async.create_task(task=task, state=state, options=options, start=start))

    def continue_(
        self, thread_key: str, state: Values = None, options: FlowOptions | None = None, *, start: bool = False
    ) -> str:
        """Create the next flow of a thread, named by the key of any of its flows; returns its key (O15).

        Its graph is that of the thread's latest flow, which must be completed; its state is that flow's final state merged
        with `state` through the graph's reducers. Baggage is inherited unless given, scheduling is not. A `thread` in the
        options is refused. Raises `Conflict` if the latest flow is not completed, `BadRequest` if a reducer cannot merge.

        Example: `next_key = client.continue_(key, {"total": 7}, start=True)`
        """
        return self._run(self._async.continue_(thread_key=thread_key, state=state, options=options, start=start))

    def start(self, flow_key: str, notify: str = "") -> None:
        """Start a created flow (O2); `notify` names the subject on which its outcome is announced (B4).

        Example: `client.start(key)`
        """
        self._run(self._async.start(flow_key=flow_key, notify=notify))

    def run(
        self,
        workflow: str | Graph,
        state: Values = None,
        options: FlowOptions | None = None,
        *,
        timeout: float | None = 30.0,
    ) -> Outcome:
        """Create a flow, start it and wait for its outcome (O3). `timeout`: in seconds, `None` for no limit.

        Raises `TimedOut`, with the key in `details["flow_key"]`, if the flow is still going then.

        Example: `outcome = client.run("order", {"total": 5}, timeout=60)`
        """
        return self._run(self._async.run(workflow=workflow, state=state, options=options, timeout=timeout))

    def await_(self, flow_key: str, timeout: float | None = 30.0) -> Outcome:
        """Return the outcome as soon as the flow is stopped (O4).

        `timeout`: in seconds, `None` for no limit. Raises `TimedOut` if the flow is still going then.

        Example: `outcome = client.await_(key, timeout=60)`
        """
        return self._run(self._async.await_(flow_key=flow_key, timeout=timeout))

    def poll(self, flow_key: str, timeout: float | None = 30.0) -> Outcome:
        """Wait as `await_` does, but return where the flow stands if it is still going after `timeout` seconds (O4).

        Example: `outcome = client.poll(key, timeout=1)`
        """
        return self._run(self._async.poll(flow_key=flow_key, timeout=timeout))

    def watch(self, flow_key: str, interval: float = 0.25) -> Iterator[Change]:
        """Yield the flow as it is now, then again after every change, until it is completed, failed or cancelled.

        The flow is polled every `interval` seconds, and at once when it stops; several changes in between are one.

        Example: `for change in client.watch(key): print(change.outcome.status)`
        """
        return self._iterate(self._async.watch(flow_key=flow_key, interval=interval))


__all__ = ["Client"]
