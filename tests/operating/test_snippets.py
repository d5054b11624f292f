"""Every block of every document is checked by a rule for its language, and those a reader runs are run."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import Client
from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings
from dwarf_nats.workflow.status import Status
from tests.operating.command_lines import ROOT
from tests.operating.snippets import CHECKS, PAGES, Block, blocks, fences, output, typed

SOON = 60.0
URL = "nats://127.0.0.1:4222"
"""Where the documents say that NATS is."""


@pytest.mark.parametrize("block", list(blocks()), ids=lambda block: block.shown)
def test_every_block_has_a_language_and_is_as_its_rule_says(block: Block) -> None:
    """A new kind of block needs a rule first."""
    assert block.language in CHECKS, f"{block.shown}: name the language of the block; known are {', '.join(CHECKS)}"
    CHECKS[block.language](block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_block_is_overlooked(page: Path) -> None:
    assert fences(page) == 2 * sum(1 for _ in blocks(page))


def test_a_block_without_a_rule_fails(tmp_path: Path) -> None:
    """What the rules are for."""
    page = tmp_path / "page.md"
    texts = ("```\ndwarf-nats shards\n```", "```python\nasync with y:\n    pass\n```", "```sh\nmake soup\n```")
    page.write_text("\n\n".join(texts))
    unnamed, python, shell = (Block(ROOT / "page.md", one.line, one.language, one.text) for one in blocks(page))
    assert unnamed.language not in CHECKS
    with pytest.raises(AssertionError, match="make has no target soup"):
        CHECKS[shell.language](shell)
    with pytest.raises(SyntaxError):
        CHECKS[python.language](python)


def test_no_page_serves_a_task_of_a_worker_by_hand_as_well() -> None:
    """Wire section 2: two queue groups on one subject would both receive every request."""
    for page in PAGES:
        found = list(blocks(page))
        served = {
            name for one in found if one.language == "python" for name in re.findall(r'\.task\("([\w.]+)"', one.text)
        }
        by_hand = {name for one in found for name in re.findall(r"nats reply task\.([\w.-]+)", one.text)}
        assert not served & by_hand, page


# -- what a reader runs


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[str]:
    """A deployment with the default prefixes; the URL of its nats-server."""
    async with NatsServer() as server:
        settings = ServerSettings.of(
            dsns=[f"sqlite:///{folder / 'dwarf.db'}"], nats_url=server.url, wait_for_servers=False, drain_ms=200
        )
        async with replica(settings):
            yield server.url


@asynccontextmanager
async def worker(url: str, *arguments: str) -> AsyncIterator[None]:
    """A worker as a process, serving."""
    command = [sys.executable, "-m", "dwarf_nats.cli.main", "worker", *arguments, "--nats", url]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), SOON)
        assert line.startswith(b"serving "), line
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def script(url: str, folder: Path, block: Block) -> str:
    """What Python prints that runs a block in an empty folder."""
    environment = {**os.environ, "NATS_URL": url, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=folder
    )
    told, _ = await asyncio.wait_for(process.communicate(block.text.replace(URL, url).encode()), SOON)
    assert process.returncode == 0
    return told.decode()


async def cli(url: str, line: str) -> str:
    """What a command line of the documents prints."""
    words = shlex.split(line, comments=True)
    assert words[0] == "dwarf-nats"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dwarf_nats.cli.main", *words[1:], "--nats", url, stdout=subprocess.PIPE
    )
    told, _ = await asyncio.wait_for(process.communicate(), SOON)
    assert process.returncode == 0, line
    return told.decode()


async def request(url: str, line: str) -> dict[str, Any]:
    """The reply to a `nats req` of the documents."""
    program, verb, subject, *payload = shlex.split(line, comments=True)
    assert (program, verb) == ("nats", "req")
    client = await nats.connect(url)
    try:
        reply = await client.request(subject, "".join(payload[:1]).encode(), timeout=SOON)
        assert reply.headers is None, reply.headers
        told: dict[str, Any] = json.loads(reply.data)
        return told
    finally:
        await client.close()


def alike(shown: Any, told: Any) -> bool:
    """Whether a reply is the one shown, where `…` in a text stands for anything."""
    if isinstance(shown, dict) and isinstance(told, dict):
        return shown.keys() == told.keys() and all(alike(shown[name], told[name]) for name in shown)
    if isinstance(shown, str) and "…" in shown:
        before, after = shown.split("…")
        return isinstance(told, str) and told.startswith(before) and told.endswith(after)
    return bool(shown == told)


@pytest.mark.slow
async def test_the_page_of_the_python_sdk_from_top_to_bottom(tmp_path: Path) -> None:
    python = [one for one in blocks(ROOT / "docs" / "python-sdk.md") if one.language == "python"]
    tasks, pauses, progress, inside, builder, client = python
    assert (
        await script("", tmp_path, Block(builder.page, builder.line, "python", f"{builder.text}\ngraph.validate()\n"))
        == ""
    )
    (tmp_path / "tasks.py").write_text("\n".join((tasks.text.split("if __name__")[0], pauses.text, progress.text)))
    async with running(tmp_path) as url:
        async with worker(url, str(tmp_path / "tasks.py")):
            told = await script(url, tmp_path, client)
            assert told.startswith("completed {")
            assert "reserve completed\ncharge completed\nship completed\n" in told
            async with Client(url) as asking:
                key = await asking.create_task("approve", {"total": 7}, start=True)
                assert (await asking.await_(key, SOON)).interrupt_payload == {"total": 7}
                await asking.resume(key, {"by": "ada"})
                assert (await asking.await_(key, SOON)).state == {"total": 7, "approved_by": "ada"}
                key = await asking.create_task("import", start=True)
                assert (await asking.await_(key, SOON)).status is Status.COMPLETED
        text = tasks.text.split("if __name__")[0] + inside.text
        block = Block(
            inside.page, inside.line, "python", f"{text}\nimport asyncio\nasyncio.run({_function(inside)}())\n"
        )
        assert await script(url, tmp_path, block) == "serving as queue group workers\n"


@pytest.mark.slow
async def test_the_first_steps_of_getting_started(tmp_path: Path) -> None:
    found = list(blocks(ROOT / "docs" / "getting-started.md"))
    (tasks,) = [one for one in found if one.language == "python"]
    (graph,) = [one for one in found if one.language == "yaml"]
    (tmp_path / "tasks.py").write_text(
        tasks.text + '\n\n@worker.task("orders.reserve")\ndef reserve():\n    return {"total": 5}\n'
    )
    (tmp_path / "order.yaml").write_text(graph.text)
    lines = [line for one in found if one.language == "sh" for line in typed(one)]
    (run,) = [line for line in lines if line.startswith("dwarf-nats flow run order")]
    async with running(tmp_path) as url, worker(url, str(tmp_path / "tasks.py")):
        await cli(url, f"dwarf-nats graph put {tmp_path / 'order.yaml'}")
        outcome = json.loads(await cli(url, f"{run} --json"))
        assert (outcome["status"], outcome["state"]["payment"]) == ("completed", "payment of 5.0 for A-1001")
        for line in lines:
            if line.startswith(("dwarf-nats flow list", "dwarf-nats flow history", "dwarf-nats flow mermaid")):
                assert await cli(url, line.replace("FLOW_KEY", outcome["flowKey"]))


@pytest.mark.slow
async def test_the_page_of_the_library(tmp_path: Path) -> None:
    engine, testing = [one for one in blocks(ROOT / "docs" / "library.md") if one.language == "python"]
    assert await script("", tmp_path, engine)
    greet = "from dwarf_nats.sdk import END, Graph\ngreet = Graph('greet')\ngreet.add_chain('hello', 'shout', END)\n"
    text = f"{greet}{testing.text}\nimport asyncio\nasyncio.run({_function(testing)}())\n"
    assert await script("", tmp_path, Block(testing.page, testing.line, "python", text)) == ""


@pytest.mark.slow
async def test_the_page_of_existing_services(tmp_path: Path) -> None:
    """N3, N4: the graph runs over services that know nothing of it."""
    found = list(blocks(ROOT / "docs" / "existing-services.md"))
    (graph,) = [one for one in found if one.language == "yaml"]
    (shown,) = [one for one in found if one.language == "console"]
    (tmp_path / "order.yaml").write_text(graph.text)
    lines = [line for one in found if one.language == "sh" for line in typed(one)]
    async with running(tmp_path) as url:
        client = await nats.connect(url)
        try:
            told = await client.subscribe("orders.placed")
            for line in lines:
                if line.startswith("nats reply"):
                    subject, body = shlex.split(line)[2:]
                    await client.subscribe(subject, cb=_replying(body))
            await client.flush()
            put, run = typed(shown)
            await cli(url, put.replace("order.yaml", str(tmp_path / "order.yaml")))
            assert alike(json.loads("".join(output(shown))), json.loads(await cli(url, run)))
            assert json.loads((await told.next_msg(SOON)).data) == {"sku": "a1", "price": 1250}
            for line in lines:
                if line.startswith("dwarf-nats tasks"):
                    assert shlex.split(line)[2] in await cli(url, line)
        finally:
            await client.close()


def _replying(body: str) -> Callable[[Msg], Awaitable[None]]:
    async def reply(message: Msg) -> None:
        await message.respond(body.encode())

    return reply


def _function(block: Block) -> str:
    (name,) = re.findall(r"^async def (\w+)\(", block.text, re.MULTILINE)
    return str(name)
