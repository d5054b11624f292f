"""The service driven by a client that is not ours, tasks served by it as well: Node's `@nats-io/transport-node`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest

from dwarf_nats.workflow.keys import parse_key

EXAMPLE = Path(__file__).parents[2] / "examples" / "node"
PATIENCE = 60.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not at hand"),
]


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its dependencies installed, in a temporary folder."""
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode and any(code in done.stderr for code in ("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN")):
        pytest.skip("the npm registry cannot be reached")
    assert done.returncode == 0, done.stderr
    return folder


async def node(folder: Path, script: str, url: str, prefix: str) -> asyncio.subprocess.Process:
    """Start one of the example's scripts."""
    environment = {**os.environ, "NATS_URL": url, "DWARF_PREFIX": prefix}
    return await asyncio.create_subprocess_exec(
        "node", script, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE
    )


@pytest.fixture
async def node_tasks(service: str, prefix: str, node_folder: Path) -> AsyncIterator[None]:
    """The example's task service."""
    process = await node(node_folder, "service.mjs", service, prefix)
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        line = await process.stdout.readline()
    assert line.startswith(b"serving "), line
    yield
    process.terminate()
    assert await process.wait() == 0


@pytest.mark.usefixtures("node_tasks")
async def test_a_node_client_and_a_node_task_service_need_nothing_of_ours(
    service: str, prefix: str, node_folder: Path
) -> None:
    process = await node(node_folder, "client.mjs", service, prefix)
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    assert process.returncode == 0
    shown: dict[str, Any] = {}
    for line in output.splitlines():
        one = json.loads(line)
        shown[one["name"]] = one["value"]

    run = shown["run"]
    step = parse_key(run["flowKey"])
    assert run["status"] == "completed"
    assert run["workflow"] == "node-order"
    assert run["state"]["total"] == 4497
    assert run["state"]["receipt"].startswith("receipt-")
    assert "items" not in run["state"]  # S3: a null deletes
    assert step.shard == 1

    steps = shown["history"]["steps"]
    assert [(one["task"], one["status"]) for one in steps] == [("quote", "completed"), ("charge", "completed")]
    assert steps[0]["successorId"] == steps[1]["stepId"]

    assert shown["declined"]["status"] == "failed"
    assert shown["declined"]["error"] == {"message": "card declined: 4497 is over the limit", "code": 402}
    assert shown["idempotent"] is True
    assert shown["await"]["status"] == "completed"
    paused, shipped = shown["paused"], shown["shipped"]
    assert paused["status"] == "interrupted"
    assert paused["interruptPayload"] == {"question": "May this go to Oslo?"}
    assert paused["state"] == {"city": "Oslo", "askedFor": "Oslo"}
    assert shipped["status"] == "completed", shipped
    assert shipped["state"] == {"city": "Oslo", "askedFor": "Oslo", "approvedBy": "ada", "tracking": "OSLO-2"}
    approve, ship = shown["nested"]["steps"]
    assert (approve["task"], approve["attempt"], ship["task"], ship["subWorkflow"]) == (
        "approve", 0, "ship", "node-shipping",
    )  # fmt: skip
    (label,) = ship["subHistory"]
    assert (label["task"], label["status"], label["attempt"]) == ("node.label", "completed", 2)

    check_plain_service(shown)
    check_waits(shown)
    assert shown["refuse"]["error"] == {"message": "short and stout", "code": 418}

    refused = {name: shown[name] for name in ("unknown workflow", "unknown field", "wrong status")}
    assert {name: one["refused"] for name, one in refused.items()} == {
        "unknown workflow": 404,
        "unknown field": 400,
        "wrong status": 409,
    }
    for one in refused.values():
        assert one["error"]["code"] == one["refused"]
        assert one["error"]["message"].startswith(one["text"][:40])
    assert "workflow" in refused["unknown field"]["text"]


def check_plain_service(shown: dict[str, Any]) -> None:
    """N3, L1, L2: a request node and the policy of a node."""
    billed = shown["billed"]
    assert billed["status"] == "completed", billed
    assert billed["state"]["rate"] == {"currency": "NOK", "rate": 11.5, "of": 100}
    assert (billed["state"]["booked"], billed["state"]["bill"]) == (2, 1150.0)
    rate, bank, bill = shown["attempts"]["steps"]
    assert (rate["kind"], bank["attempt"], bill["kind"]) == ("request", 2, "set")
    assert shown["no rate"]["error"] == {"message": "no rate of XXX", "code": 404}


def check_waits(shown: dict[str, Any]) -> None:
    """E1-E3, P6: an event that came early, one that came in time, and nobody in time."""
    assert shown["early"] == {"delivered": 0, "kept": True}
    assert shown["paid early"]["state"]["amount"] == 5
    assert shown["signalled"] in ({"delivered": 1, "kept": False}, {"delivered": 0, "kept": True})
    assert (shown["paid"]["state"]["paid"], shown["paid"]["state"]["amount"]) == (True, 7)
    assert shown["unpaid"]["state"]["paid"] is False
    assert shown["unsigned"]["state"]["signedBy"] == "nobody"


async def test_a_node_task_service_answers_what_it_has_begun_before_it_ends(
    service: str, prefix: str, node_folder: Path
) -> None:
    """SIGTERM in the middle of a task: its answer comes, nothing is published on a connection that is drained."""
    process = await node(node_folder, "service.mjs", service, prefix)
    assert process.stdout is not None
    nc = await nats.connect(service)
    try:
        async with asyncio.timeout(PATIENCE):
            assert (await process.stdout.readline()).startswith(b"serving ")
            replies = await nc.subscribe(inbox := nc.new_inbox())
            request = {"flowKey": f"1-1-{'a' * 16}", "stepKey": f"1-2-{'b' * 16}", "attempt": 0, "state": {}}
            body = json.dumps(request).encode()
            await nc.publish("task.node.bank", body, reply=inbox, headers={"Dwarf-Accept-Ms": "1"})
            accepted = await replies.next_msg(timeout=PATIENCE)
            assert accepted.headers is not None
            assert accepted.headers["Dwarf-Signal"] == "accepted"
            process.terminate()
            answer = await replies.next_msg(timeout=PATIENCE)
            assert json.loads(answer.data) == {"changes": {"booked": 0}}
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await nc.close()
