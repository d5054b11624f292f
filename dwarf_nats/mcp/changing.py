"""The tools that start, steer and repeat flows. The docstring of a tool is the description that a model reads."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from pydantic import Field

from dwarf_nats.errors import BadRequest, TimedOut
from dwarf_nats.sdk import Client, FlowOptions

from . import arguments as a
from .answers import Answers, answer

_ONE_PAUSE = (
    "Key of the paused step, from pauses of get_flow, to answer exactly that pause; then no flow_key is needed."
)
PausedStep = Annotated[str, Field(description=_ONE_PAUSE)]
PausedFlow = Annotated[str, Field(description="Key of the flow, to answer its oldest pause; or give step_key.")]


class ChangingTools:
    """Tools over the operations of a client that change flows. None of them deletes anything that cannot be made again."""

    def __init__(self, client: Client, answers: Answers) -> None:
        self._client = client
        self._answers = answers

    async def run_workflow(
        self,
        workflow: Annotated[str, Field(description="Name of a workflow, from list_workflows.")],
        state: Annotated[
            dict[str, Any] | None, Field(description="Initial state, a JSON object; get_workflow shows needed fields.")
        ] = None,
        tags: a.Tags = None,
        idempotency_key: Annotated[
            str | None, Field(description="Calls with the same key start one flow only; use it when you repeat a call.")
        ] = None,
        timeout_seconds: a.WaitSeconds = 30,
    ) -> str:
        """Start a flow of a workflow and wait for its result. If it is not done in time it goes on: use wait_for_flow."""
        options = FlowOptions(tags=tags, idempotency_key=idempotency_key)
        if not timeout_seconds:
            key = await self._client.create(workflow, state, options, start=True)
            return answer({"flow_key": key, "status": "started"})
        try:
            outcome = await self._client.run(workflow, state, options, timeout=timeout_seconds)
        except TimedOut as error:
            if "flow_key" not in error.details:
                raise
            outcome = await self._client.snapshot(error.details["flow_key"])
        return self._answers.waited(outcome, timeout_seconds)

    async def resume_flow(
        self,
        flow_key: PausedFlow = "",
        step_key: PausedStep = "",
        data: Annotated[
            Any, Field(description="The answer: any JSON value, in the shape that the payload asks for.")
        ] = None,
    ) -> str:
        """Answer a pause of kind interrupt: a step that waits for a person's decision gets data and goes on."""
        await self._client.resume(**_paused(flow_key, step_key), data=data)
        return answer({"resumed": step_key or flow_key})

    async def resume_breakpoint(
        self, flow_key: PausedFlow = "", step_key: PausedStep = "", overrides: a.Overrides = None
    ) -> str:
        """Continue a pause of kind breakpoint, with fields of the step's state replaced if you like."""
        await self._client.resume_break(**_paused(flow_key, step_key), overrides=overrides)
        return answer({"resumed": step_key or flow_key})

    async def restart_flow(self, flow_key: a.FlowKey, overrides: a.Overrides = None) -> str:
        """Run a stopped flow again from its first step, in place: its later steps are removed. All its tasks run again."""
        await self._client.restart(flow_key, overrides)
        return answer({"restarted": flow_key})

    async def restart_step(self, step_key: a.StepKey, overrides: a.Overrides = None) -> str:
        """Run one step of a stopped flow again and go on from there, in place; steps it led to are removed.

        It is the usual remedy for a failed step whose cause is mended.
        """
        await self._client.restart_from(step_key, overrides)
        return answer({"restarted": step_key})

    async def fork_flow(self, step_key: a.StepKey, overrides: a.Overrides = None, tags: a.Tags = None) -> str:
        """Copy an ended flow up to a step and run the copy from there; the original stays. Returns the key of the copy."""
        return answer({"flow_key": await self._client.fork(step_key, overrides, tags), "status": "started"})

    async def cancel_flow(
        self,
        flow_key: a.FlowKey,
        reason: Annotated[str, Field(description="Why, in one sentence; it is shown with the flow.")] = "",
    ) -> str:
        """Cancel a flow that has not ended. Running tasks are told; steps with a compensation are undone."""
        await self._client.cancel(flow_key, reason)
        return answer({"cancelled": flow_key})

    async def signal_event(
        self,
        event: Annotated[str, Field(description="Name of the event, such as payment.settled.")],
        key: Annotated[str, Field(description="Key of the event, such as an order number; a text.")] = "",
        data: Annotated[Any, Field(description="Data of the event: any JSON value.")] = None,
        event_id: Annotated[str | None, Field(description="Repeated with the same id, an event counts once.")] = None,
        keep_seconds: Annotated[
            float | None, Field(ge=0, description="Seconds to keep it if no step waits for it yet; a day by default.")
        ] = None,
    ) -> str:
        """Hand an event to every step that waits for it with this key."""
        given = event_id or uuid.uuid4().hex  # so that the request may be sent again if its reply is lost
        receipt = await self._client.signal(event, key, data, id=given, keep=keep_seconds)
        return answer({"delivered_to_steps": receipt.delivered, "kept_for_later": receipt.kept})


def _paused(flow_key: str, step_key: str) -> dict[str, str]:
    """The place of a pause. A model tends to give both keys; the step is the more exact one."""
    if not flow_key and not step_key:
        raise BadRequest("name the pause: give flow_key, or step_key from pauses of get_flow")
    return {"step_key": step_key} if step_key else {"flow_key": flow_key}
