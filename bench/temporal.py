"""Temporal as arms, with a server that the user gives: a running one by its address, or the program of its CLI.

- `--temporal HOST:PORT`: that server, whatever it stores in. If it runs here, its CPU time is read; if it stores in the
  PostgreSQL that the benchmark was given with `--dsn`, PostgreSQL's is, too.
- `--temporal-server PATH`: the `temporal` command. Its development server is started for each arm, storing in a file.

Two shapes on its Python SDK: ordinary activities, each committed before the next one starts, as our steps are; and local
activities, which run in the worker and are written with the workflow task.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from dwarf_nats.child_process import ChildProcess

from .arms import Servers, Sides
from .children import Child, Failed
from .peers import environment
from .processes import listener
from .served import ServedArm, Started, free_ports, until_connected

SHAPES = {"activities": "", "local": "-local"}
"""By shape, what the name of its arm ends with."""
_PEER = "bench.temporal_peer"
"""By name: it takes the SDK, which is in the environment of the peers only."""
_HERE = ("127.0.0.1", "localhost", "::1")
_MOST = 100_000
_LIMITS = (
    "frontend.rps",
    "frontend.namespaceRPS",
    "frontend.persistenceMaxQPS",
    "history.rps",
    "history.persistenceMaxQPS",
    "matching.rps",
    "matching.persistenceMaxQPS",
)
"""Raised in its favour, so that none of them is what is measured."""


def address(text: str) -> tuple[str, int]:
    """`HOST:PORT`. Raises `ValueError`, with what to write."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"--temporal {text}: write the address of a running server as HOST:PORT, as in 127.0.0.1:7233")
    return host.strip("[]"), int(port)


def check(server: str) -> None:
    """Raise `Failed` unless the program is there."""
    if server and (not os.access(server, os.X_OK) or Path(server).is_dir()):
        raise Failed(
            f"--temporal-server {server}: there is no such program. Give the path of Temporal's command `temporal`, "
            "or the address of a running server with --temporal HOST:PORT"
        )


def arms(servers: Servers, sides: Sides, shapes: Sequence[str] = tuple(SHAPES)) -> list[ServedArm]:
    """The shapes, if a server was given."""
    others = sides.others
    if not (others.temporal or others.temporal_server):
        return []
    return [
        ServedArm(f"temporal{SHAPES[shape]}", servers, sides, partial(_start, servers, sides, shape))
        for shape in shapes
    ]


def command(program: str, port: int, http_port: int, ui_port: int, database: Path) -> list[str]:
    """The development server, without its pages, storing in a file."""
    return [
        program, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port), "--http-port", str(http_port),
        "--ui-port", str(ui_port), "--db-filename", str(database), "--log-level", "error",
        *(part for limit in _LIMITS for part in ("--dynamic-config-value", f"{limit}={_MOST}")),
    ]  # fmt: skip


async def _start(servers: Servers, sides: Sides, shape: str, stack: AsyncExitStack) -> Started:
    python = await environment()
    pids: dict[str, int] = {}
    if sides.others.temporal_server:
        host, port = "127.0.0.1", await _start_server(sides.others.temporal_server, servers.folder, pids, stack)
    else:
        host, port = address(sides.others.temporal)
        await until_connected("Temporal", (port,), host=host)
        found = listener(port) if host in _HERE else None
        if found is not None:
            pids["engine"] = found
    where = ("--address", f"{host}:{port}", "--steps", str(sides.steps), "--shape", shape)
    # The client makes the namespace if there is none, so it comes first.
    client = await stack.enter_async_context(Child(_PEER, "client", *where, executable=python))
    workers = await stack.enter_async_context(Child(_PEER, "workers", *where, executable=python))
    pids["workers"] = workers.pid
    return Started(client, pids, on_database=bool(sides.others.temporal))


async def _start_server(program: str, folder: Path, pids: dict[str, int], stack: AsyncExitStack) -> int:
    port, http_port, ui_port = free_ports(3)
    process = ChildProcess("temporal")
    stack.push_async_callback(process.end)
    database = folder / f"temporal-{port}.db"
    process.launch(command(program, port, http_port, ui_port, database), log=folder / f"temporal-{port}.log")
    await until_connected("temporal", (port,), process)
    pids["engine"] = process.pid
    return port
