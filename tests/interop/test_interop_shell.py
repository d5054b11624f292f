"""Tasks served by a bash script that speaks the NATS protocol over /dev/tcp: `examples/shell`."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest

from dwarf_nats.cli.graph import read_graph
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import Client
from dwarf_nats.workflow.status import Status

SCRIPT = Path(__file__).parents[2] / "examples" / "shell" / "service.sh"
PATIENCE = 30.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("bash"), reason="bash is not at hand"),
]


@asynccontextmanager
async def shell(url: str, task_prefix: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The script, serving; told to stop at the end, it must do so by itself."""
    environment = {**os.environ, "NATS_URL": url, "TASK_PREFIX": task_prefix}
    process = await asyncio.create_subprocess_exec("bash", str(SCRIPT), env=environment, stdout=asyncio.subprocess.PIPE)
    try:
        await serving(process)
        yield process
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def serving(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
    assert line.startswith(b"serving "), line


async def test_tasks_in_shell_answer_fail_retry_and_wait_for_a_person(service: str, prefix: str) -> None:
    async with shell(service, "task"), Client(service, prefix=prefix) as client:
        key = await client.create_task("shell.shout", {"word": "hi", "nested": {"ö": [1]}}, start=True)
        assert (await client.await_(key)).state == {"word": "HI!", "nested": {"ö": [1]}}

        key = await client.create_task("shell.shout", {"word": 7}, start=True)
        failed = await client.await_(key)
        assert failed.error is not None
        assert failed.error.message == "shout needs a plain string `word` in the state"

        key = await client.create_task("shell.flaky", start=True)
        assert (await client.await_(key)).state == {"attempts": 3}
        assert [step.attempt for step in await client.history(key)] == [2]

        key = await client.create_task("shell.approve", {"resumed": {"data": 0}}, start=True)
        paused = await client.await_(key)
        assert (paused.status, paused.interrupt_payload) == (Status.INTERRUPTED, {"question": "may it be shouted?"})
        await client.resume(key, {"yes": ["of", "course"]})
        assert (await client.await_(key)).state["answer"] == {"yes": ["of", "course"]}


async def test_tasks_in_shell_wait_for_events_and_not_for_ever(service: str, prefix: str) -> None:
    """E2, E3, P6: an event that came before, one that comes, one that never does, and a person who does not either."""
    async with shell(service, "task"), Client(service, prefix=prefix) as client:
        assert (await client.signal("shell.bell", "1", {"twice": [True]})).kept
        key = await client.create_task("shell.bell", {"door": 1}, start=True)
        assert (await client.await_(key)).state["rung"] == {"twice": [True]}

        key = await client.create_task("shell.bell", {"door": 2}, start=True)
        await client.signal("shell.bell", "2", 'ding, "dong"')
        assert (await client.await_(key)).state["rung"] == 'ding, "dong"'

        key = await client.create_task("shell.bell", {"door": 3, "patience": 30}, start=True)
        assert (await client.await_(key)).state["rung"] is False

        key = await client.create_task("shell.approve", {"patience": 30}, start=True)
        while not (outcome := await client.await_(key)).status.terminal:
            pass
        assert outcome.state["answer"] == "nobody came"


async def test_a_graph_asks_a_service_in_shell_and_gives_its_task_more_attempts(service: str, prefix: str) -> None:
    """N3, L1: a request node to a plain responder, and a node's own retry."""
    graph = read_graph(str(SCRIPT.with_name("words.yaml")))
    async with shell(service, "task"), Client(service, prefix=prefix) as client:
        outcome = await client.run(graph, {"text": 'to be "or" not\nto be * '})
        assert outcome.state == {"text": 'to be "or" not\nto be * ', "words": 7, "mood": "fine"}
        attempts = {step.task: step.attempt for step in await client.history(outcome.flow_key)}
        assert attempts == {"count": 0, "moody": 2, "done": 0}


async def test_a_service_in_shell_answers_what_it_has_before_it_stops(nats_server: NatsServer, prefix: str) -> None:
    nc = await nats.connect(nats_server.url)
    try:
        async with shell(nats_server.url, prefix):
            replies = await nc.subscribe(inbox := nc.new_inbox())
            for number in range(20):
                await nc.publish(f"{prefix}.shell.shout", b'{"state":{"word":"n%d"}}' % number, reply=inbox)
            await nc.publish(f"{prefix}.shell.shout", b'{"state":{"word":"to nobody"}}')
            await nc.flush()
        got = [(await replies.next_msg(PATIENCE)).data for _ in range(20)]
        assert got == [b'{"changes":{"word":"N%d!"}}' % number for number in range(20)]
    finally:
        await nc.close()


async def test_a_service_in_shell_comes_back_when_the_server_does_and_takes_large_requests(prefix: str) -> None:
    async with NatsServer() as server, shell(server.url, prefix) as process:
        await server.restart()
        await serving(process)
        nc = await nats.connect(server.url)
        try:
            word = b"x" * 100_000
            reply = await nc.request(f"{prefix}.shell.shout", b'{"state":{"word":"%s"}}' % word, timeout=PATIENCE)
            assert reply.data == b'{"changes":{"word":"%s!"}}' % word.upper()
        finally:
            await nc.close()


async def test_a_service_in_shell_logs_in_with_what_the_address_says(prefix: str, tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("authorization {user: ada, password: secret}")
    async with NatsServer(config=config) as server:
        url = server.url.replace("://", "://ada:secret@")
        async with shell(url, prefix):
            nc = await nats.connect(url)
            try:
                reply = await nc.request(f"{prefix}.shell.flaky", b'{"attempt":4}', timeout=PATIENCE)
                assert reply.data == b'{"changes":{"attempts":5}}'
            finally:
                await nc.close()


@asynccontextmanager
async def command_worker(url: str, task: str, command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`dwarf-nats worker --command`, serving."""
    words = ["worker", "--nats", url, "--task", task, "--command", command]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DWARF_", "NATS_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dwarf_nats.cli.main", *words, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        await serving(process)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_command_serves_a_task_and_its_failure_fails_the_step(service: str, prefix: str) -> None:
    command = (
        """read -r state; case $state in *paper*) echo '{"word": "HI"}' ;; *) echo out of paper >&2; exit 3 ;; esac"""
    )
    async with command_worker(service, "command.shout", command) as process, Client(service, prefix=prefix) as client:
        key = await client.create_task("command.shout", {"paper": 1}, start=True)
        assert (await client.await_(key)).state == {"paper": 1, "word": "HI"}
        key = await client.create_task("command.shout", start=True)
        failed = await client.await_(key)
        assert failed.status is Status.FAILED
        assert failed.error is not None
        assert (failed.error.message, failed.error.extra) == ("out of paper", {"exitCode": 3})
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0


async def test_a_cancelled_flow_ends_its_command(service: str, prefix: str, tmp_path: Path) -> None:
    """O10: the worker is told, and the command gets SIGTERM."""
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    os.mkfifo(begun)
    os.mkfifo(ended)
    command = f"trap 'echo ended > {ended}; exit 0' TERM; echo begun > {begun}; while true; do sleep 0.01; done"
    async with command_worker(service, "command.hang", command), Client(service, prefix=prefix) as client:
        key = await client.create_task("command.hang", start=True)
        assert await asyncio.wait_for(asyncio.to_thread(begun.read_text), PATIENCE) == "begun\n"
        await client.cancel(key)
        assert await asyncio.wait_for(asyncio.to_thread(ended.read_text), PATIENCE) == "ended\n"
