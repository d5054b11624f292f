"""The client's operations that read flows and steps (O5-O9)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from msgspec import UNSET

from dwarf_nats.wire import messages as m
from dwarf_nats.wire.codec import or_default, outcome_record, summary_record
from dwarf_nats.workflow.options import LIST_DEFAULT_FLOWS, Query
from dwarf_nats.workflow.records import FlowCounts, FlowSummary, Outcome, Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.tags import TagValue

from .arguments import query_fields
from .replies import decode
from .requester import Requester

if TYPE_CHECKING:
    from dwarf_nats.workflow.explanation import Explanation
    from dwarf_nats.workflow.graph import Graph

# The method `list` hides the builtin from annotations in the class.
Steps: TypeAlias = list[Step]
Summaries: TypeAlias = list[FlowSummary]


class FlowReads(Requester):
    """Base of `Client` with the operations that change nothing."""

    async def snapshot(self, flow_key: str) -> Outcome:
        """Return where a flow stands now (O5).

        Example: `status = (await client.snapshot(key)).status`
        """
        body = await self._read("flow.snapshot", m.FlowRequest(flow_key=flow_key))
        return outcome_record(decode(m.Outcome, body, "flow.snapshot"))

    async def fingerprint(self, flow_key: str) -> tuple[str, Status]:
        """Return a digest that changes whenever anything observable about the flow does, and the flow's status (O6).

        Example: `digest, status = await client.fingerprint(key)`
        """
        body = await self._read("flow.fingerprint", m.FlowRequest(flow_key=flow_key))
        reply = decode(m.FingerprintReply, body, "flow.fingerprint")
        return reply.fingerprint, Status(reply.status)

    async def history(self, flow_key: str) -> Steps:
        """Return all steps of the flow by depth and id, without state and changes, reading as many pages as there are (O7).

        A step that called a sub-workflow has the beginning of that flow's history in `sub_history`; if the step is `truncated`,
        read the whole history with its `sub_flow_key`. `iter_history` yields the steps page by page.

        Example: `for step in await client.history(key): print(step.task, step.status)`
        """
        return [step async for step in self.iter_history(flow_key)]

    async def iter_history(self, flow_key: str, limit: int = 1000) -> AsyncIterator[Step]:
        """Yield the steps of the flow in the order of `history`. `limit` is the number of steps per page.

        Example: `async for step in client.iter_history(key): print(step.task)`
        """
        cursor = ""
        while True:
            page, cursor = await self.history_page(flow_key, limit, cursor)
            for step in page:
                yield step
            if not cursor:
                return

    async def history_page(self, flow_key: str, limit: int = 100, cursor: str = "") -> tuple[Steps, str]:
        """Return at most `limit` steps after the cursor, and the cursor of the next page, empty on the last (O7).

        A page that would not fit the bus is shorter.

        Example: `steps, cursor = await client.history_page(key, limit=50)`
        """
        from dwarf_nats.wire.steps import step_record

        request = m.FlowHistoryRequest(
            flow_key=flow_key, limit=UNSET if limit == 100 else limit, cursor=cursor or UNSET
        )
        reply = decode(m.HistoryReply, await self._read("flow.history", request), "flow.history")
        return [step_record(one) for one in reply.steps], or_default(reply.cursor, "")

    async def explain(self, flow_key: str) -> Explanation:
        """Return why the flow stands where it stands: what each living step of it waits for, and what would help (Q2).

        Example: `explanation = await client.explain(key)`
        """
        from dwarf_nats.wire.explanations import explanation_record

        body = await self._read("flow.explain", m.FlowRequest(flow_key=flow_key))
        return explanation_record(decode(m.ExplanationReply, body, "flow.explain"))

    async def step(self, step_key: str) -> Step:
        """Return one step with state, changes and the keys of its neighbours (O7).

        Example: `step = await client.step(step_key)`
        """
        from dwarf_nats.wire.steps import step_record

        body = await self._read("step.get", m.StepRequest(step_key=step_key))
        return step_record(decode(m.Step, body, "step.get"))

    async def mermaid(self, flow_key: str) -> str:
        """Return the flow's history as a Mermaid flowchart (O8).

        Example: `text = await client.mermaid(key)`
        """
        body = await self._read("flow.mermaid", m.FlowRequest(flow_key=flow_key))
        return decode(m.MermaidReply, body, "flow.mermaid").mermaid

    async def flow_graph(self, flow_key: str) -> Graph:
        """Return the graph that the flow runs: the one of its creation, whatever is registered now (G10, O7).

        Example: `graph = await client.flow_graph(key)`
        """
        from dwarf_nats.workflow.graph import Graph

        body = await self._read("flow.graph", m.FlowRequest(flow_key=flow_key))
        return Graph.from_json(bytes(decode(m.FlowGraphReply, body, "flow.graph").graph))

    async def list(self, query: Query | None = None, cursor: str = "") -> tuple[Summaries, str]:
        """Return a page of root flows, newest first, and the cursor of the next page, empty on the last (O9).

        Example: `flows, cursor = await client.list(Query(status="failed"))`
        """
        request = m.FlowListRequest(**query_fields(query or Query()), cursor=cursor or UNSET)
        reply = decode(m.FlowListReply, await self._read("flow.list", request), "flow.list")
        return [summary_record(one) for one in reply.flows], or_default(reply.cursor, "")

    async def count(self, query: Query | None = None) -> FlowCounts:
        """Return how many root flows have each status, counted up to a bound (O9).

        Example: `counts = (await client.count(Query(workflow="order"))).counts`
        """
        from dwarf_nats.wire.shards import counts_record

        request = m.FlowCountRequest(**query_fields(query or Query()))
        return counts_record(decode(m.FlowCountReply, await self._read("flow.count", request), "flow.count"))

    async def find(self, query: Query | None = None, /, **tags: TagValue) -> Summaries:
        """Return the newest root flows that have these tags, 100 unless the query has a limit (Q1).

        `find(customer=4711)`, or together with other filters `find(Query(status="failed"), customer=4711)`. Tags whose names
        are no Python names go into the query: `find(Query(tags={"order-id": 7}))`.

        Example: `flows = await client.find(customer=4711)`
        """
        query = query or Query()
        if tags:
            query = replace(query, tags={**(query.tags or {}), **tags})
        limit = query.limit or LIST_DEFAULT_FLOWS
        flows, cursor = await self.list(query)
        while cursor and len(flows) < limit:  # a page may end early
            more, cursor = await self.list(replace(query, limit=limit - len(flows)), cursor)
            flows += more
        return flows

    async def list_all(self, query: Query | None = None) -> AsyncIterator[FlowSummary]:
        """Yield every flow that matches, page by page. `limit` of the query is the number of flows per page.

        Example: `async for flow in client.list_all(Query(status="failed")): print(flow.flow_key)`
        """
        cursor = ""
        while True:
            page, cursor = await self.list(query, cursor)
            for flow in page:
                yield flow
            if not cursor:
                return
