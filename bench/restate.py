"""Restate as arms. Its server comes from the npm registry, on request, into a cache folder of the user.

Two shapes, each with the Python SDK and, where Node.js is, with the TypeScript SDK:

- *run*: one handler with a durable `ctx.run` for each step. The steps run in the handler's process.
- *chained*: the handler calls the handler of another service for each step, the nearest to what ours does.

Server, workers and client are a process each. The server runs with its defaults (one node, fsync on), but without
telemetry, and logs only warnings.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from dwarf_nats.child_process import ChildProcess

from .arms import Servers, Sides
from .children import ROOT, Child, Failed
from .others import Restate
from .peers import environment
from .served import ServedArm, Started, free_ports, until_connected

SERVER_VERSION = "1.7.12"
SDK_VERSION = "1.17.2"
SHAPES = {"run": "", "chained": "-chained"}
"""By shape, what the name of its arm ends with."""
_PEER = "bench.restate_peer"
"""By name: it takes the SDK, which is in the environment of the peers only."""
_FETCH_SECONDS = 300.0
_SDK = "@restatedev/restate-sdk"
_SYSTEMS = {"Linux": "linux", "Darwin": "darwin"}
_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def cache(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of the pinned versions, outside the project."""
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "dwarf-nats-bench" / f"restate-{SERVER_VERSION}-{SDK_VERSION}"


def package() -> str:
    """The npm package that has the server for this kind of machine. Raises `Failed` if there is none."""
    system, machine = _SYSTEMS.get(platform.system()), _MACHINES.get(platform.machine().lower())
    if system is None or machine is None:
        raise Failed(
            f"Restate has no server for {platform.system()} on {platform.machine()}: leave out --with restate, "
            "or give a program of your own with --restate-server"
        )
    return f"@restatedev/restate-server-{system}-{machine}"


async def fetch(own_server: str = "") -> Restate:
    """The server and the TypeScript SDK, fetched unless they are there; or a server of the user's own, with Python only.

    Raises `Failed`, with what to do about it.
    """
    if own_server:
        return _own(own_server)
    home = cache()
    server = home / "node_modules" / package() / "bin" / "restate-server"
    modules = home / "node_modules" / _SDK
    if not (server.exists() and modules.exists()):
        await _install(home, f"{package()}@{SERVER_VERSION}", f"{_SDK}@{SDK_VERSION}")
        if not server.exists():
            raise Failed(
                f"{package()} {SERVER_VERSION} has no bin/restate-server: it is not the package this was written for"
            )
    node = shutil.which("node") or ""
    return Restate(str(server), node, str(home) if node else "")


def _own(server: str) -> Restate:
    path = Path(server).resolve()
    if not os.access(path, os.X_OK) or path.is_dir():
        raise Failed(f"--restate-server {server}: there is no such program")
    return Restate(str(path))


def versions(restate: Restate) -> dict[str, str]:
    """Of what was fetched; a server of the user's own says its version itself."""
    if not restate.modules:
        return {}
    return {"restate-server": SERVER_VERSION, _SDK: SDK_VERSION}


async def _install(home: Path, *packages: str) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Failed(
            "--with restate needs npm, which is not here: install Node.js 20 or later, or give a server of your own with "
            "--restate-server PATH (then only the Python SDK is measured)"
        )
    os.makedirs(home, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        npm, "install", "--prefix", str(home), "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error", *packages,
        stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_FETCH_SECONDS):
            _, said = await process.communicate()
    except TimeoutError:
        raise Failed(
            f"npm did not fetch Restate within {_FETCH_SECONDS:.0f} s: is the npm registry reachable?"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        last = " / ".join(said.decode(errors="replace").strip().splitlines()[-3:])
        raise Failed(
            f"npm could not fetch Restate ({last or 'it said nothing'}): "
            "it needs the npm registry; without it, give a server of your own with --restate-server PATH"
        )


def arms(servers: Servers, sides: Sides) -> list[ServedArm]:
    """Each shape with each SDK, if it was asked for."""
    restate = sides.others.restate
    if restate is None:
        return []
    return [
        ServedArm(f"restate-{sdk}{suffix}", servers, sides, partial(_start, restate, servers, sides, sdk, shape))
        for sdk in restate.sdks
        for shape, suffix in SHAPES.items()
    ]


async def _start(
    restate: Restate, servers: Servers, sides: Sides, sdk: str, shape: str, stack: AsyncExitStack
) -> Started:
    python = await environment()
    steps = str(sides.steps)
    if sdk == "python":
        workers = Child(_PEER, "workers", "--steps", steps, executable=python)
    else:
        script = str(ROOT / "bench" / "restate_peer.mjs")
        workers = Child.of(restate.node, script, restate.modules, steps)
    await stack.enter_async_context(workers)
    endpoint = f"http://127.0.0.1:{(await workers.ask())['port']}"
    ingress, admin, fabric = free_ports(3)
    process = ChildProcess("restate-server")
    stack.push_async_callback(process.end)
    folder = servers.folder / f"restate-{sdk}-{shape}-{ingress}"
    folder.mkdir()
    process.launch(
        [restate.server, "--no-logo", "--node-name", "bench", "--base-dir", str(folder)],
        log=folder / "log",
        env=server_environment(os.environ, ingress, admin, fabric),
    )
    await until_connected("restate-server", (admin, ingress), process)
    client = await stack.enter_async_context(
        Child(
            _PEER, "client", "--steps", steps, "--shape", shape, "--endpoint", endpoint,
            "--admin", f"http://127.0.0.1:{admin}", "--ingress", f"http://127.0.0.1:{ingress}", executable=python,
        )
    )  # fmt: skip
    return Started(client, {"engine": process.pid, "workers": workers.pid})


def server_environment(environ: Mapping[str, str], ingress: int, admin: int, fabric: int) -> dict[str, str]:
    """The defaults, whatever the user has set for a Restate of theirs, on loopback only, without telemetry."""
    kept = {name: value for name, value in environ.items() if not name.startswith("RESTATE_")}
    return kept | {
        "DO_NOT_TRACK": "1",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_LOG_FILTER": "warn",
        "RESTATE_LOG_DISABLE_ANSI_CODES": "true",
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{fabric}",
        "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{fabric}",
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
    }
