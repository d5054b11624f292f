"""Workers and client of Temporal, a process each, in the virtual environment of the peers. Imports nothing of dwarf_nats."""

from __future__ import annotations

import argparse
import asyncio
import uuid
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from .children import converse
from .peer import STATE, Lane, Lanes

NAMESPACE, QUEUE = "default", "dwarf-bench"
_AT_MOST = timedelta(seconds=60)
_SLOTS = 500
_NAMESPACE_SECONDS = 60.0
_RETRY_SECONDS = 0.5


@activity.defn
async def count(state: dict[str, Any]) -> dict[str, Any]:
    """A step."""
    return {"n": state["n"] + 1}


@workflow.defn
class Activities:
    """Each step an ordinary activity."""

    @workflow.run
    async def run(self, state: dict[str, Any], steps: int) -> dict[str, Any]:
        """Run the line."""
        for _ in range(steps):
            state = {**state, **await workflow.execute_activity(count, state, start_to_close_timeout=_AT_MOST)}
        return state


@workflow.defn
class LocalActivities:
    """Each step a local activity."""

    @workflow.run
    async def run(self, state: dict[str, Any], steps: int) -> dict[str, Any]:
        """Run the line."""
        for _ in range(steps):
            state = {**state, **await workflow.execute_local_activity(count, state, start_to_close_timeout=_AT_MOST)}
        return state


SHAPES = {"activities": Activities, "local": LocalActivities}


async def workers(address: str) -> None:
    """Serve workflows and activities, without the sandbox, which costs the Python SDK much and a line of steps nothing."""
    connected = await Client.connect(address, namespace=NAMESPACE)
    async with Worker(
        connected, task_queue=QUEUE, workflows=list(SHAPES.values()), activities=[count],
        workflow_runner=UnsandboxedWorkflowRunner(), max_concurrent_workflow_tasks=_SLOTS, max_concurrent_activities=_SLOTS,
        max_concurrent_local_activities=_SLOTS, max_concurrent_workflow_task_polls=8, max_concurrent_activity_task_polls=8,
    ):  # fmt: skip

        async def answer(_question: dict[str, Any]) -> dict[str, bool]:
            return {"serving": True}

        await converse(answer)


async def client(address: str, steps: int, shape: str) -> None:
    """Run workflows."""
    connected = await Client.connect(address, namespace=NAMESPACE)
    await _have_namespace(connected)
    kind = SHAPES[shape]

    async def lane() -> int:
        done = await connected.execute_workflow(
            kind.run, args=[STATE, steps], id=str(uuid.uuid4()), task_queue=QUEUE, rpc_timeout=_AT_MOST
        )
        return int(done["n"])

    async def make() -> Lane:
        return lane

    await converse(Lanes(make, steps).run)


async def _have_namespace(connected: Client) -> None:
    """A server that was just set up has none; it takes some seconds until all its parts know of a new one."""
    service = connected.workflow_service
    try:
        await service.describe_namespace(DescribeNamespaceRequest(namespace=NAMESPACE))
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        request = RegisterNamespaceRequest(namespace=NAMESPACE)
        request.workflow_execution_retention_period.FromTimedelta(timedelta(days=1))
        await service.register_namespace(request)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _NAMESPACE_SECONDS
    while True:
        try:
            async for _ in connected.list_workflows(f'TaskQueue = "{QUEUE}"', limit=1):
                pass
            return
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND or loop.time() > deadline:
                raise
        await asyncio.sleep(_RETRY_SECONDS)


async def main() -> None:
    """Serve the parent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("workers", "client"))
    parser.add_argument("--address", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    args = parser.parse_args()
    if args.what == "workers":
        await workers(args.address)
    else:
        await client(args.address, args.steps, args.shape)


if __name__ == "__main__":
    asyncio.run(main())
