"""`dwarf-nats worker`: serves the tasks of a Python module, or a command as a task."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from dwarf_nats.cli import logs
from dwarf_nats.cli.command import command, option_group
from dwarf_nats.cli.options import Bus, ClaimsFile, CodecFile, read_claim_checks, read_codec
from dwarf_nats.cli.setting_options import default, option
from dwarf_nats.collector import collect_seldom
from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk import Worker, serving
from dwarf_nats.sdk.command_task import CommandTask
from dwarf_nats.settings import LogFormat


def register(app: typer.Typer) -> None:
    command(
        app,
        "worker",
        short="Serve the tasks of a Python module, or a command as a task.",
        example="dwarf-nats worker orders/tasks.py --nats nats://127.0.0.1:4222\n"
        "dwarf-nats worker --task shout --command 'jq -c \"{word: (.word | ascii_upcase)}\"'",
    )(worker)


@option_group("Options")
@dataclass(slots=True, frozen=True)
class WorkerOptions:
    """The command to serve a task with, if it is not a module's functions, and how this process behaves."""

    command: Annotated[
        str, typer.Option(help="Shell command to serve a task with: state as JSON on stdin, changes on stdout.")
    ] = ""
    task: Annotated[str, typer.Option(help="The task (its url) that the command serves.")] = ""
    concurrency: Annotated[int, typer.Option(min=1, help="Commands at once; further requests wait here.")] = 64
    queue: Annotated[str, typer.Option(help="Queue group, the same for all workers that serve the task.")] = "workers"
    task_prefix: Annotated[str, option("task_prefix")] = default("task_prefix")
    codec: CodecFile = None
    claim_checks: ClaimsFile = None
    log_format: Annotated[LogFormat, option("log_format")] = default("log_format")
    ready_file: Annotated[Path | None, typer.Option(hidden=True)] = None

    def command_worker(self) -> Worker:
        """The worker that runs the command. Raises `typer.BadParameter` unless both command and task are given."""
        for value, name, example in (
            (self.command, "--command", "'./thumbnail.sh'"),
            (self.task, "--task", "thumbnail"),
        ):
            if not value.strip():
                raise typer.BadParameter(f"--command and --task go together: add {name} {example}", param_hint=name)
        worker = Worker(
            concurrency=self.concurrency, queue=self.queue, task_prefix=self.task_prefix, name="dwarf-command"
        )
        worker.add_task(self.task, CommandTask(self.command))
        return worker


def worker(
    options: WorkerOptions,
    bus: Bus,
    module: Annotated[str, typer.Argument(metavar="MODULE", help="A module's name, or a path to a .py file.")] = "",
) -> None:
    """Serve tasks until SIGTERM, which lets the worker finish what it has begun; a second SIGTERM stops it at once.

    With MODULE, serve the tasks of a Python module. With --command and --task, run a shell command for each request: it reads
    the state as a JSON object on stdin and prints the changes as a JSON object on stdout. An exit code other than 0 fails the
    step with the end of stderr as the message.
    """
    logs.set_up(options.log_format)
    if bool(module) == bool(options.command or options.task):
        raise typer.BadParameter("name a module, or give --command and --task", param_hint="MODULE")
    workers = find_workers(load_module(module), module) if module else [options.command_worker()]
    codec, claim_checks = read_codec(options.codec), read_claim_checks(options.claim_checks)
    for one in workers:
        one.options = bus.over(one.options)
        one.codec = codec or one.codec
        one.claim_checks = claim_checks or one.claim_checks
    collect_seldom()
    try:
        serving.run(*workers, ready=partial(_say_ready, workers, options.ready_file))
    except TypeError as error:
        raise BadRequest(str(error)) from None


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
    """The workers that a module has as globals, each once. Raises `BadRequest` if it has none or one without tasks."""
    workers = list({id(one): one for one in vars(module).values() if isinstance(one, Worker)}.values())
    if not workers:
        raise BadRequest(f'{name} has no Worker: write `worker = Worker()` and `@worker.task("name")` above functions')
    if not all(one.tasks for one in workers):
        raise BadRequest(f'a Worker of {name} has no tasks: write `@worker.task("name")` above functions')
    return workers


def _say_ready(workers: list[Worker], ready_file: Path | None) -> None:
    tasks = ", ".join(sorted(task for one in workers for task in one.served))
    print(f"serving {tasks}", flush=True)
    if ready_file is not None:
        ready_file.touch()
