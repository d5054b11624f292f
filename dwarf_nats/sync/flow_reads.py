"""The synchronous client's operations that read flows and steps (O5-O9).

Made by `python -m dwarf_nats.sdk.generate_sync`; do not edit.
"""

from __future__ import annotations

from collections.abc import Iterator

from dwarf_nats.sdk.flow_reads import Steps, Summaries
from dwarf_nats.sync.requester import SyncRequester
from dwarf_nats.workflow.explanation import Explanation
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.records import FlowCounts, FlowSummary, Outcome, Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.tags import TagValue


class FlowReads(SyncRequester):
    """Base of `Client` with the operations that change nothing."""

    def snapshot(self, flow_key: str) -> Outcome:
        """Return where a flow stands now (O5).

        Example: `status = (client.snapshot(key)).status`
        """
        return self._run(self._async.snapshot(flow_key=flow_key))

    def fingerprint(self, flow_key: str) -> tuple[str, Status]:
        """Return a digest that changes whenever anything observable about the flow does, and the flow's status (O6).

        Example: `digest, status = client.fingerprint(key)`
        """
        return self._run(self._async.fingerprint(flow_key=flow_key))

    def history(self, flow_key: str) -> Steps:
        """Return all steps of the flow by depth and id, without state and changes, reading as many pages as there are (O7).

        A step that called a sub-workflow has the beginning of that flow's history in `sub_history`; if the step is `truncated`,
        read the whole history with its `sub_flow_key`. `iter_history` yields the steps page by page.

        Example: `for step in client.history(key): print(step.task, step.status)`
        """
        return self._run(self._async.history(flow_key=flow_key))

    def iter_history(self, flow_key: str, limit: int = 1000) -> Iterator[Step]:
        """Yield the steps of the flow in the order of `history`. `limit` is the number of steps per page.

        Example: `for step in client.iter_history(key): print(step.task)`
        """
        return self._iterate(self._async.iter_history(flow_key=flow_key, limit=limit))

    def history_page(self, flow_key: str, limit: int = 100, cursor: str = "") -> tuple[Steps, str]:
        """Return at most `limit` steps after the cursor, and the cursor of the next page, empty on the last (O7).

        A page that would not fit the bus is shorter.

        Example: `steps, cursor = client.history_page(key, limit=50)`
        """
        return self._run(self._async.history_page(flow_key=flow_key, limit=limit, cursor=cursor))

    def explain(self, flow_key: str) -> Explanation:
        """Return why the flow stands where it stands: what each living step of it waits for, and what would help (Q2).

        Example: `explanation = client.explain(key)`
        """
        return self._run(self._async.explain(flow_key=flow_key))

    def step(self, step_key: str) -> Step:
        """Return one step with state, changes and the keys of its neighbours (O7).

        Example: `step = client.step(step_key)`
        """
        return self._run(self._async.step(step_key=step_key))

    def mermaid(self, flow_key: str) -> str:
        """Return the flow's history as a Mermaid flowchart (O8).

        Example: `text = client.mermaid(key)`
        """
        return self._run(self._async.mermaid(flow_key=flow_key))

    def flow_graph(self, flow_key: str) -> Graph:
        """Return the graph that the flow runs: the one of its creation, whatever is registered now (G10, O7).

        Example: `graph = client.flow_graph(key)`
        """
        return self._run(self._async.flow_graph(flow_key=flow_key))

    def list(self, query: Query | None = None, cursor: str = "") -> tuple[Summaries, str]:
        """Return a page of root flows, newest first, and the cursor of the next page, empty on the last (O9).

        Example: `flows, cursor = client.list(Query(status="failed"))`
        """
        return self._run(self._async.list(query=query, cursor=cursor))

    def count(self, query: Query | None = None) -> FlowCounts:
        """Return how many root flows have each status, counted up to a bound (O9).

        Example: `counts = (client.count(Query(workflow="order"))).counts`
        """
        return self._run(self._async.count(query=query))

    def find(self, query: Query | None = None, /, **tags: TagValue) -> Summaries:
        """Return the newest root flows that have these tags, 100 unless the query has a limit (Q1).

        `find(customer=4711)`, or together with other filters `find(Query(status="failed"), customer=4711)`. Tags whose names
        are no Python names go into the query: `find(Query(tags={"order-id": 7}))`.

        Example: `flows = client.find(customer=4711)`
        """
        return self._run(self._async.find(query, **tags))

    def list_all(self, query: Query | None = None) -> Iterator[FlowSummary]:
        """Yield every flow that matches, page by page. `limit` of the query is the number of flows per page.

        Example: `for flow in client.list_all(Query(status="failed")): print(flow.flow_key)`
        """
        return self._iterate(self._async.list_all(query=query))
