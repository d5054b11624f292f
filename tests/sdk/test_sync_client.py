"""The synchronous client: the same operations, for threads, scripts and processes that fork."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import dwarf_nats.sync
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest, NotFound, Unavailable
from dwarf_nats.sdk import Client as AsyncClient
from dwarf_nats.sdk import generate_sync
from dwarf_nats.sync import Client, loop_thread
from dwarf_nats.sync.loop_thread import LoopThread
from dwarf_nats.wire.operations import OPERATIONS
from tests.sdk.test_sdk_client import FLOW

ROOT = Path(__file__).parents[2]
NOBODY = "nats://127.0.0.1:1"


def public(one: type) -> dict[str, Any]:
    return {name: member for name, member in inspect.getmembers(one) if name[0] != "_" and callable(member)}


def test_it_has_every_method_with_the_same_signature() -> None:
    found, wanted = public(Client), public(AsyncClient)
    assert found.keys() == wanted.keys()
    for name, method in wanted.items():
        ours, theirs = inspect.signature(found[name]), inspect.signature(method)
        assert ours.parameters.keys() == theirs.parameters.keys(), name
        kinds = [(one.kind, one.default, one.annotation) for one in ours.parameters.values()]
        assert kinds == [(one.kind, one.default, one.annotation) for one in theirs.parameters.values()], name
        assert ours.return_annotation == re.sub("^Async", "", theirs.return_annotation), name
        assert not inspect.iscoroutinefunction(found[name])
    own, other = inspect.signature(Client.__init__).parameters, inspect.signature(AsyncClient.__init__).parameters
    assert own == {name: one for name, one in other.items() if name != "nc"}
    assert {one.client for one in OPERATIONS} <= found.keys()


@pytest.mark.slow
def test_the_modules_are_those_that_the_generator_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate_sync.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_type_checkers_know_its_methods(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from dwarf_nats import Outcome\n"
        "from dwarf_nats.sync import Client\n"
        "def run(client: Client) -> Outcome:\n"
        "    for change in client.watch('1-2-t'):\n"
        "        status: str = change.outcome.status\n"
        "    return client.run('order', {'a': 1}, timeout=3)\n"
        "client = Client()\n"
        "client.cancel()  # type: ignore[call-arg]\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--strict", str(program)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stdout


async def test_threads_share_a_client(nats_server: NatsServer, prefix: str, service: Callable[..., Any]) -> None:
    asked: list[str] = []

    def respond(message: Any) -> Any:
        asked.append(message.body["flowKey"])
        return {"flowKey": message.body["flowKey"], "workflow": "w", "status": "completed", "state": {"n": 1}}

    await service("flow.snapshot", respond)

    def use() -> list[Any]:
        with Client(nats_server.url, prefix=prefix) as client, ThreadPoolExecutor(8) as pool:
            before = threading.active_count()
            found = list(pool.map(lambda _: client.snapshot(FLOW), range(40)))
            assert threading.active_count() <= before + 8
            with pytest.raises(BadRequest):
                client.create("greet", [1])  # type: ignore[arg-type]
        with pytest.raises(Unavailable, match="closed"):
            client.snapshot(FLOW)
        return found

    found = await asyncio.to_thread(use)
    assert [one.state for one in found] == [{"n": 1}] * 40
    assert len(asked) == 40


async def test_iterators_are_read_page_by_page_and_may_be_left(
    nats_server: NatsServer, prefix: str, service: Callable[..., Any]
) -> None:
    pages: list[str] = []
    summary = {
        "flowKey": FLOW,
        "threadKey": FLOW,
        "workflow": "w",
        "status": "failed",
        "createdAt": "2026-12-01T08:00:00Z",
        "updatedAt": "2026-12-01T08:00:00Z",
        "priority": 0,
    }

    def respond(message: Any) -> Any:
        pages.append(message.body.get("cursor", ""))
        return {"flows": [summary, summary], "cursor": f"c{len(pages)}"}

    await service("flow.list", respond)

    def use() -> int:
        with Client(nats_server.url, prefix=prefix) as client:
            flows = client.list_all()
            found = [next(flows).flow_key for _ in range(3)]
            flows.close()  # type: ignore[attr-defined]
            return len(found)

    assert await asyncio.to_thread(use) == 3
    assert pages == ["", "c1"]


async def test_the_output_of_tasks_is_followed(
    nats_server: NatsServer, nc: Any, prefix: str, service: Callable[..., Any]
) -> None:
    """B8: the same stream, read in a thread."""
    subscribed = asyncio.Event()
    over = asyncio.Event()
    subject = AsyncClient(NOBODY, prefix=prefix).subjects.stream("1-42", "1-43")

    def respond(_: Any) -> Any:
        status = "completed" if over.is_set() else "running"
        return {"flowKey": FLOW, "workflow": "w", "status": status, "state": {"n": 1}}

    await service("flow.poll", respond)
    loop = asyncio.get_running_loop()

    def use() -> tuple[list[str], Any]:
        with Client(nats_server.url, prefix=prefix) as client, client.stream(FLOW) as chunks:
            loop.call_soon_threadsafe(subscribed.set)
            found = []
            for chunk in chunks:
                found.append(chunk.text)
                loop.call_soon_threadsafe(over.set)
            return found, chunks.outcome

    using = asyncio.ensure_future(asyncio.to_thread(use))
    await subscribed.wait()
    await nc.publish(subject, b"hello")
    found, outcome = await using
    assert found == ["hello"]
    assert outcome.state == {"n": 1}


async def test_a_refusal_is_raised_in_the_thread_that_asked(
    nats_server: NatsServer, prefix: str, service: Callable[..., Any]
) -> None:
    await service(
        "flow.cancel", lambda _: ({"Nats-Service-Error-Code": "404", "Nats-Service-Error": "no such flow"}, {})
    )

    def use() -> None:
        client = Client(nats_server.url, prefix=prefix)
        try:
            with pytest.raises(NotFound, match="no such flow"):
                client.cancel(FLOW)
        finally:
            client.close()
            client.close()

    await asyncio.to_thread(use)


def test_no_server_is_an_error_and_no_thread_stays() -> None:
    before = set(threading.enumerate())
    with pytest.raises(Unavailable), Client(NOBODY, patience=0):
        pass
    client = Client(NOBODY, patience=0)
    with pytest.raises(Unavailable):
        client.connect()
    client.close()
    assert set(threading.enumerate()) <= before


def test_a_timeout_of_the_coroutine_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that waits looks again now and then, which is no timeout."""
    monkeypatch.setattr(loop_thread, "LOOK_SECONDS", 0.0)
    thread = LoopThread("test")

    async def late() -> str:
        for _ in range(100):
            await asyncio.sleep(0)
        return "done"

    async def too_late() -> None:
        await late()
        raise TimeoutError("of its own")

    assert thread.run(late()) == "done"
    with pytest.raises(TimeoutError, match="of its own"):
        thread.run(too_late())
    thread.stop()


def test_its_own_loop_cannot_wait_for_itself() -> None:
    thread = LoopThread("test")

    async def outer() -> None:
        thread.run(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="cannot be used in its own event loop"):
        thread.run(outer())
    thread.stop()


INTERRUPTED = """
import asyncio, os, signal, threading, _thread
client = Client(url).connect()
started = threading.Event()
async def forever():
    started.set()
    await asyncio.Event().wait()
def interrupt():
    started.wait()
    {interrupt}
threading.Thread(target=interrupt).start()
try:
    client._run(forever())
except KeyboardInterrupt:
    client.close()
    print("interrupted")
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["interrupted", "interrupted while nothing wakes it", "forked"])
def test_ctrl_c_ends_a_wait_and_a_fork_begins_anew(nats_server: NatsServer, what: str) -> None:
    """In processes of their own, as a script or a server that forks would."""
    programs = {
        "interrupted": INTERRUPTED.format(interrupt="os.kill(os.getpid(), signal.SIGINT)"),
        "interrupted while nothing wakes it": INTERRUPTED.format(interrupt="_thread.interrupt_main()"),
        "forked": """
            import os
            client = Client(url).connect()
            child = os.fork()
            if not child:
                try:
                    client.snapshot("1-1-abcdefghijkl")
                except DwarfError as error:
                    print(type(error).__name__, flush=True)
                client.close()
                os._exit(0)
            os.waitpid(child, 0)
        """,
    }
    text = f"from dwarf_nats.sync import Client\nfrom dwarf_nats import DwarfError\nurl = {nats_server.url!r}\n"
    code = text + textwrap.dedent(programs[what])
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout.strip() in ("interrupted", "Unavailable", "BadRequest"), ran.stderr
    assert ran.stderr == ""
    assert ran.returncode == 0


def test_a_program_that_forgets_to_close_ends(nats_server: NatsServer) -> None:
    code = f"from dwarf_nats.sync import Client\nClient({nats_server.url!r}).connect()\nprint('done')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")


def test_the_package_names_it() -> None:
    assert dwarf_nats.sync.__all__ == ["Client"]
