"""The tools that change nothing. The docstring of a tool is the description that a model reads."""

from __future__ import annotations

from typing import Annotated

import msgspec
from pydantic import Field

from dwarf_nats.sdk import Client

from . import arguments as a
from .answers import MAX_ANSWER_CHARS, Answers, answer, page, shortened, time_text

_parse = msgspec.json.Decoder().decode


class ReadingTools:
    """Tools over the operations of a client that read."""

    def __init__(self, client: Client, answers: Answers) -> None:
        self._client = client
        self._answers = answers

    async def find_flows(
        self,
        status: a.StatusFilter = None,
        workflow: a.WorkflowFilter = None,
        text: a.TextFilter = None,
        tags: a.TagFilter = None,
        older_than_seconds: a.OlderThan = None,
        newer_than_seconds: a.NewerThan = None,
        limit: a.Limit = 20,
        cursor: a.Cursor = "",
    ) -> str:
        """List flows (runs of workflows), newest first, with key, status, error and what each waits for. Times are UTC."""
        query = a.query(
            status=status,
            workflow=workflow,
            text=text,
            tags=tags,
            older_than_seconds=older_than_seconds,
            newer_than_seconds=newer_than_seconds,
            limit=limit,
        )
        flows, following = await self._client.list(query, cursor)
        return page([self._answers.summary(one) for one in flows], following, "flows")

    async def count_flows(
        self,
        status: a.StatusFilter = None,
        workflow: a.WorkflowFilter = None,
        text: a.TextFilter = None,
        tags: a.TagFilter = None,
        older_than_seconds: a.OlderThan = None,
        newer_than_seconds: a.NewerThan = None,
    ) -> str:
        """Count flows by status. Counting stops at 1,000 of a status; such a status is listed in at_least."""
        query = a.query(
            status=status,
            workflow=workflow,
            text=text,
            tags=tags,
            older_than_seconds=older_than_seconds,
            newer_than_seconds=newer_than_seconds,
        )
        found = await self._client.count(query)
        return answer(
            {
                "flows": {status.value: number for status, number in found.counts.items()},
                "at_least": sorted(status.value for status in found.more),
                "only_created_since": time_text(found.searched_to),
            }
        )

    async def get_flow(self, flow_key: a.FlowKey) -> str:
        """Get a flow: status, error, what it is paused by, tags and, if it has stopped, its state (the result)."""
        return answer(self._answers.outcome(await self._client.snapshot(flow_key)))

    async def explain_flow(self, flow_key: a.FlowKey) -> str:
        """Say why a flow stands where it stands: what each unfinished step waits for, since when, and the remedy."""
        return answer(self._answers.explanation(await self._client.explain(flow_key)))

    async def flow_history(self, flow_key: a.FlowKey, limit: a.Limit = 50, cursor: a.Cursor = "") -> str:
        """List the steps of a flow in order, with status, times and errors; get_step reads the values of one.

        A sub-workflow has its own flow, sub_flow_key.
        """
        steps, following = await self._client.history_page(flow_key, limit, cursor)
        return page([self._answers.step(one) for one in steps], following, "steps")

    async def get_step(self, step_key: a.StepKey) -> str:
        """Get one step with the state it was given and the changes it made. Long values are cut."""
        step = await self._client.step(step_key)
        values = {
            "payload": self._answers.value(step.interrupt_json),
            "state": self._answers.value(step.state_json),
            "changes": self._answers.value(step.changes_json),
        }
        return answer(self._answers.step(step) | values)

    async def list_workflows(
        self, name_contains: Annotated[str, Field(description="Only names with this text; empty for all.")] = ""
    ) -> str:
        """List the names of the registered workflows, which run_workflow runs."""
        found = await self._client.list_graphs()
        names = sorted(one.name for one in found if name_contains.lower() in one.name.lower())
        return answer({"workflows": shortened(names, MAX_ANSWER_CHARS // 2) or "none"})

    async def get_workflow(
        self, name: Annotated[str, Field(description="Name of a workflow, from list_workflows.")]
    ) -> str:
        """Get the graph of a workflow as JSON: its tasks, transitions, and the fields its initial state needs, if declared."""
        return answer({"graph": _parse((await self._client.get_graph(name)).to_json())})

    async def wait_for_flow(self, flow_key: a.FlowKey, timeout_seconds: a.WaitSeconds = 30) -> str:
        """Wait until a flow completes, fails, is cancelled or pauses, and get it. If the time passes, call it again."""
        return self._answers.waited(await self._client.poll(flow_key, timeout_seconds), timeout_seconds)
