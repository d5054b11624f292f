"""`dwarf-nats worker`: serves the tasks of a Python module."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from dwarf_nats.cli import logs
from dwarf_nats.cli.command import command
from dwarf_nats.cli.logs import LogFormat
from dwarf_nats.cli.options import Bus
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.sdk import ConnectOptions, Worker

log = logging.getLogger("dwarf_nats.worker")
RETRY_SECONDS = 1.0


def register(app: typer.Typer) -> None:
    command(
        app,
        "worker",
        example="dwarf-nats worker orders/tasks.py --nats nats://127.0.0.1:4222\ndwarf-nats worker shop.tasks",
    )(worker)


def worker(
    bus: Bus,
    module: Annotated[str, typer.Argument(metavar="MODULE", help="A module's name, or a path to a .py file.")],
    log_format: Annotated[
        LogFormat, typer.Option(envvar="DWARF_LOG_FORMAT", help="Of the lines on stderr.")
    ] = LogFormat.TEXT,
    ready_file: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve the tasks of a module until SIGTERM, which lets it finish what is in hand; a second one stops at once."""
    logs.set_up(log_format)
    workers = find_workers(load_module(module), module)
    for one in workers:
        one.options = _with_given(one.options, bus)
    code = asyncio.run(_serve(workers, ready_file))
    if code:
        # Threads cannot be ended, and leaving in order would wait for them.
        logging.shutdown()
        os._exit(code)


def _with_given(options: ConnectOptions, bus: Bus) -> ConnectOptions:
    """The worker's connection settings, those given to the command in place of the module's."""
    return replace(
        options,
        url=bus.nats or options.url,
        context=bus.context or options.context,
        creds=bus.creds or options.creds,
        nkey=bus.nkey or options.nkey,
        tls_ca=bus.tls_ca or options.tls_ca,
        tls_cert=bus.tls_cert or options.tls_cert,
        tls_key=bus.tls_key or options.tls_key,
        inbox_prefix=bus.inbox_prefix or options.inbox_prefix,
    )


def load_module(name: str) -> ModuleType:
    """Import a module by name or by path. Raises `BadRequest` with the reason if that fails."""
    by_path = name.endswith(".py") or os.sep in name
    sys.path.insert(0, str(Path(name).resolve().parent) if by_path else os.getcwd())
    try:
        if not by_path:
            return importlib.import_module(name)
        if not Path(name).is_file():
            raise BadRequest(f"there is no file {name}")
        spec = importlib.util.spec_from_file_location(Path(name).stem, name)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    except BadRequest:
        raise
    except ModuleNotFoundError as error:
        raise BadRequest(f"cannot import {name}: {error}; give a module's name or a path to a .py file") from None
    except Exception as error:
        raise BadRequest(f"cannot import {name}: {type(error).__name__}: {error}{_place(error, name)}") from None
    return module


def _place(error: Exception, name: str) -> str:
    trace = error.__traceback__
    line = 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.endswith(Path(name).name):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line})" if line else ""


def find_workers(module: ModuleType, name: str) -> list[Worker]:
    """The workers a module has as globals, each once. Raises `BadRequest` if it has none or one without tasks."""
    workers = list({id(one): one for one in vars(module).values() if isinstance(one, Worker)}.values())
    if not workers:
        raise BadRequest(f'{name} has no Worker: write `worker = Worker()` and `@worker.task("name")` above functions')
    if not all(one.tasks for one in workers):
        raise BadRequest(f'a Worker of {name} has no tasks: write `@worker.task("name")` above functions')
    return workers


async def _serve(workers: list[Worker], ready_file: Path | None) -> int:
    """Serve until a signal; exit code 0 if everything in hand was finished."""
    loop = asyncio.get_running_loop()
    threads = sum(one.concurrency for one in workers)
    loop.set_default_executor(ThreadPoolExecutor(threads, thread_name_prefix="dwarf-task"))
    first, second = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (second if first.is_set() else first).set())
    starting = asyncio.gather(*(_start(one) for one in workers))
    await _first_of(starting, first)
    if not first.is_set():
        await starting
        _say_ready(workers, ready_file)
        await first.wait()
        log.info("draining; a second signal stops at once")
    else:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    stopping = asyncio.gather(*(one.stop() for one in workers))
    await _first_of(stopping, second)
    if not stopping.done():
        stopping.cancel()
        await asyncio.gather(*(one.stop(0) for one in workers), return_exceptions=True)
        return 1
    return 0 if all(stopping.result()) else 1


def _say_ready(workers: list[Worker], ready_file: Path | None) -> None:
    tasks = ", ".join(sorted(task for one in workers for task in one.tasks))
    print(f"serving {tasks}", flush=True)
    if ready_file is not None:
        ready_file.touch()


async def _start(worker: Worker) -> None:
    """Start a worker, however long NATS is away."""
    while True:
        try:
            await worker.start()
        except Unavailable as error:
            if error.details.get("refused"):
                raise
            log.warning("%s; trying again", error)
            await asyncio.sleep(RETRY_SECONDS)
        except TypeError as error:
            raise BadRequest(str(error)) from None
        else:
            return


async def _first_of(work: asyncio.Future[list[None]] | asyncio.Future[list[bool]], event: asyncio.Event) -> None:
    """Wait until the work is done or the event is set; work that has not come to its end goes on."""
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
