"""`dwarf-nats dev`: the whole service on one machine, for authors of workflows."""

from __future__ import annotations

import asyncio
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from dwarf_nats.cli.command import command
from dwarf_nats.cli.local_stack import LocalStack, WorkerProcess
from dwarf_nats.cli.setting_options import option
from dwarf_nats.errors import BadRequest, DwarfError
from dwarf_nats.render.terminal import one_line

_POLL_SECONDS = 0.5
"""Pause between two checks of the files and the processes."""


def register(app: typer.Typer) -> None:
    command(
        app,
        "dev",
        short="Everything on this machine: NATS, database, replica, tasks.",
        example="dwarf-nats dev orders/tasks.py --graphs orders/graphs/\ndwarf-nats dev --postgres --data /tmp/dwarf",
    )(dev)


async def dev(
    modules: Annotated[
        list[str] | None, typer.Argument(metavar="MODULE…", help="Modules with tasks, by name or path.")
    ] = None,
    data: Annotated[Path, typer.Option(envvar="DWARF_DATA", help="Folder of the database.")] = Path(".dwarf"),
    postgres: Annotated[bool, typer.Option("--postgres", help="Embedded PostgreSQL instead of SQLite.")] = False,
    graphs: Annotated[Path | None, option("graphs_dir", help="Folder of graph files.")] = None,
    nats_port: Annotated[int, typer.Option(min=1, max=65535, help="A free one if that is taken.")] = 4222,
    console_port: Annotated[int, typer.Option(min=1, max=65535, help="Of the web console; likewise.")] = 8080,
) -> None:
    """Run NATS, a database, a replica and the workers of the modules named; reload those when they change.

    Ctrl-C stops everything; the data stays in --data.
    """
    sources = {module: source_of(module) for module in modules or []}
    stop = asyncio.Event()
    main = asyncio.current_task()
    assert main is not None
    starting = True

    def on_signal() -> None:
        stop.set()
        if starting:  # interrupts the wait for a server
            main.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    data = prepared(data)
    try:
        async with LocalStack(data, postgres=postgres, port=nats_port, graphs=graphs) as stack:
            reloaders = [Reloader(stack.add_worker(module), source) for module, source in sources.items()]
            console = asyncio.ensure_future(stack.add_console(console_port))
            await asyncio.gather(console, *(one.start() for one in reloaders))
            url = console.result()
            starting = False
            _print_next_steps(stack, bool(reloaders), nats_port, url)
            while not stop.is_set():
                stack.check_alive()
                for one in reloaders:
                    await one.check()
                await _pause(stop)
            print("stopping", flush=True)
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        print("stopped", flush=True)


def prepared(folder: Path) -> Path:
    """The folder, made if need be, as an absolute path. Raises `BadRequest` if it cannot be one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequest(f"cannot use {folder} as folder: {error.strerror}") from None
    return folder.resolve()


def source_of(module: str) -> Path:
    """The file of a module given by name or path. Raises `BadRequest` if there is none."""
    if module.endswith(".py") or "/" in module:
        path = Path(module)
        if not path.is_file():
            raise BadRequest(f"there is no file {module}")
        return path
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise BadRequest(f"there is no module {module}; give a module's name or a path to a .py file")
    return Path(spec.origin)


class Reloader:
    """Starts a worker again when a Python file in its module's folder changes. After an error it waits for the next change."""

    def __init__(self, worker: WorkerProcess, source: Path) -> None:
        self._worker = worker
        self._folder = source.parent
        self._seen = self._stamps()

    def _stamps(self) -> dict[Path, int]:
        stamps: dict[Path, int] = {}
        for path in self._folder.glob("*.py"):
            try:
                stamps[path] = path.stat().st_mtime_ns
            except FileNotFoundError:  # gone between listing and looking
                continue
        return stamps

    async def start(self) -> None:
        """Start the worker, or print the reason why it does not start."""
        try:
            await self._worker.start()
        except DwarfError as error:
            print(f"{one_line(str(error))}; waiting for a change", file=sys.stderr, flush=True)

    async def check(self) -> None:
        """Start the worker again if a file changed."""
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        print(f"{self._worker.module} changed: reloading", flush=True)
        await self._worker.stop()
        await self.start()


async def _pause(stop: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stop.wait(), _POLL_SECONDS)
    except TimeoutError:
        return


def _print_next_steps(stack: LocalStack, workers: bool, port: int, console: str) -> None:
    at = "" if stack.url.endswith(":4222") else f" --nats {stack.url}"
    taken = [] if stack.url.endswith(f":{port}") else ["", f"Port {port} is taken, so NATS has another one."]
    lines = [
        *taken,
        "",
        f"NATS      {stack.url}",
        f"database  {stack.dsn}",
        f"console   {console}" if console else 'console   needs pip install "dwarf-nats[console]"',
        "",
        "Next, in another terminal:",
        f"  dwarf-nats graph put order.yaml{at}",
        f"  dwarf-nats flow run order --state @order.json{at}",
        f"  dwarf-nats flow list{at}",
    ]
    if not workers:
        lines.append(f"  dwarf-nats worker tasks.py{at}")
    print("\n".join([*lines, "", "Ctrl-C stops everything."]), flush=True)
