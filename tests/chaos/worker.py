"""A task service of its own process. It keeps account of every execution: one line when it begins, one when it ends.

`python -m tests.chaos.worker <nats url> <account file>`
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from dwarf_nats.sdk import Worker
from dwarf_nats.workflow.flow import Flow, Suspended
from tests.chaos.node_shapes import BY_WORKFLOW
from tests.chaos.random_flows import RANDOM_URLS, of_baggage
from tests.chaos.shapes import URLS, Mark


class Account:
    """The lines; each one write to a file opened for appending, so that a killed worker leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, **line: Any) -> None:
        os.write(self._file, json.dumps({"at": time.time(), **line}).encode() + b"\n")


def pause(longest: float) -> float:
    """Seconds a task takes: mostly next to none, now and then long enough for something to break meanwhile."""
    chance = random.random()
    if chance < 0.6:
        return 0
    return random.uniform(0, longest) if chance < 0.97 else random.uniform(longest, longest * 4)


async def execute(account: Account, flow: Flow) -> None:
    """One execution of whatever step it is."""
    execution = secrets.token_hex(6)
    baggage = flow.baggage
    shape = of_baggage(baggage) or BY_WORKFLOW[flow.workflow]
    who = {"step": flow.step_key, "execution": execution}
    undone = flow.compensating
    account.write(
        what="begin", **who, flow=flow.flow_key, node=flow.task, attempt=flow.attempt, ticket=baggage["ticket"],
        child_error=flow._call.subgraph_error, undoes=undone.step_key if undone else "",
    )  # fmt: skip
    await asyncio.sleep(pause(shape.linger))
    said = "answered"
    try:
        shape.perform(flow, Mark(flow, execution))
    except Suspended as parked:
        said = str(parked)
        raise
    except Exception as error:
        said = f"raised {error}"
        raise
    finally:
        account.write(what="end", **who, said=said, heard=shape.heard(flow))


def main(url: str, path: Path) -> None:
    account = Account(path)
    worker = Worker(url, name=f"chaos-{path.stem}")

    async def task(flow: Flow) -> None:
        await execute(account, flow)

    for task_url in (*URLS, *RANDOM_URLS):
        worker.add_task(task_url, task)
    worker.main()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
