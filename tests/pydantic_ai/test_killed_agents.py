"""An agent whose worker is killed in the middle of a tool call goes on elsewhere, and asks the model nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import Client, Status
from tests.recovery.processes import WorkerProcess
from tests.support.caller import WAIT, deployment, take

AGENT = """
import asyncio, os, sys
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel
from dwarf_nats.pydantic_ai import current_flow, serve_agent
from dwarf_nats.sdk import Client, Worker

url, prefix, name = sys.argv[1:]

def say(what):
    os.write(1, f"{what}\\n".encode())

def answer(messages, info):
    say("model")
    if len(messages) == 1:
        return ModelResponse(parts=[ToolCallPart("quick"), ToolCallPart("slow")])
    returns = sorted(str(part.content) for part in messages[-1].parts)
    return ModelResponse(parts=[TextPart(" and ".join(returns))])

agent = Agent(FunctionModel(answer), name="assistant")

@agent.tool_plain
def quick() -> str:
    say("quick")
    return f"quick by {name}"

@agent.tool_plain
async def slow() -> str:
    say(f"slow {current_flow().step_key.rpartition('-')[0]}")
    if name == "killed":
        await asyncio.Event().wait()
    return f"slow by {name}"

worker = Worker(url, task_prefix=f"{prefix}task")
served = serve_agent(worker, agent, register=False)

async def main():
    async with Client(url, prefix=prefix) as client:
        await served.register(client)
        async with worker:
            say("ready")
            await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def agent_process(script: Path, url: str, prefix: str, name: str) -> AsyncIterator[WorkerProcess]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), url, prefix, name),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield WorkerProcess(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_after_kill_9_in_a_tool_call_only_that_call_runs_again(
    nats_server: NatsServer, sqlite_dsn: str, tmp_path: Path
) -> None:
    script = tmp_path / "agent.py"
    script.write_text(AGENT)
    url, prefix = nats_server.url, "killedagent"
    more = {"accept_ms": 50, "roll_call_ms": 400, "inbox_prefix": f"{prefix}inbox"}
    async with deployment(url, sqlite_dsn, prefix, **more) as caller, Client(url, prefix=prefix) as client:
        heard = await caller.hear(f"{prefix}inbox.>")
        async with agent_process(script, url, prefix, "killed") as killed:
            assert await killed.said() == "ready"
            key = await client.create("assistant", {"prompt": "go"}, start=True)
            said = [await killed.said() for _ in range(3)]
            assert said[0] == "model"
            (begun,) = [line for line in said if line.startswith("slow")]
            async with asyncio.timeout(WAIT):
                async for change in client.watch(key):
                    if {step.task for step in change.steps if step.status is Status.COMPLETED} >= {"model", "quick"}:
                        break
                while not (await take(heard)).data.startswith(b'{"running"'):
                    pass
            async with agent_process(script, url, prefix, "other") as other:
                assert await other.said() == "ready"
                killed.signal(signal.SIGKILL)
                outcome = await client.await_(key, WAIT)
                assert outcome.status is Status.COMPLETED, outcome.error
                assert outcome.state["output"] == "quick by killed and slow by other"
                assert [await other.said() for _ in range(2)] == [begun, "model"]
        steps = [step for step in await client.history(key) if step.task in ("model", "quick", "slow")]
        assert [step.attempt for step in steps] == [0] * 4
        assert outcome.state["usage"]["requests"] == 2
