"""`dwarf-nats tasks`: who serves which task, how fast it may be asked, and whether its breaker is tripped."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import typer

from dwarf_nats.cli.command import command
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.output import Output, table
from dwarf_nats.cli.setting_options import default, option
from dwarf_nats.sdk import discovery
from dwarf_nats.workflow.names import check_task_name


def register(app: typer.Typer) -> None:
    command(
        app,
        "tasks",
        short="Who serves which task, its rate limit and its breaker.",
        example="dwarf-nats tasks\ndwarf-nats tasks billing.charge --json",
    )(tasks)


class Server(msgspec.Struct, rename="camel"):
    """An instance of a service that serves a task."""

    service: str
    id: str
    queue_group: str


class Rate(msgspec.Struct, rename="camel"):
    """The rate at which one replica sends requests to a task."""

    replica: str
    rate_per_second: float


class TaskRow(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """A task as it is printed. `cause`: the reason why its breaker is tripped, if a replica knows it."""

    task: str
    served_by: list[Server]
    rates: list[Rate]
    tripped: bool
    cause: str = ""


@dataclass(slots=True)
class _Task:
    servers: list[Server] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)
    cause: str = ""


async def tasks(
    out: Output,
    bus: Bus,
    service: Service,
    name: Annotated[
        str,
        typer.Argument(
            help="Only this task, by its url, or by the subject of a request or message as the graph has it."
        ),
    ] = "",
    task_prefix: Annotated[str, option("task_prefix")] = default("task_prefix"),
) -> None:
    """Print who serves which task, the rate it is held to, and whether its breaker is tripped.

    Services are found if they are NATS services, as those of the SDK are; one that only subscribes serves as well, but is not
    listed. Rates and causes are what each replica knows; a task that is neither listed by a service nor held back is shown
    only by its name.
    """
    if name:
        check_task_name(name)
    async with service.client(bus) as client:
        served, replicas = await asyncio.gather(
            discovery.find_services(client.nc, "INFO"), discovery.find_services(client.nc, "STATS", "dwarf")
        )
        known: dict[str, _Task] = {name: _Task()} if name else {}
        _add_servers(known, served, f"{task_prefix}.")
        _add_limits(known, [one for one in replicas if _prefix(one) == service.prefix])
        urls = [name] if name else sorted(known)
        tripped = await asyncio.gather(*(client.breaker(url) for url in urls))
    shown = [
        TaskRow(
            task=url,
            served_by=known[url].servers,
            rates=known[url].rates,
            tripped=is_tripped,
            cause=known[url].cause if is_tripped else "",
        )
        for url, is_tripped in zip(urls, tripped, strict=True)
    ]
    out.show({"tasks": shown}, table(("task", "served by", "rate limit", "breaker"), map(_row, shown)))


def _add_servers(known: dict[str, _Task], services: list[dict[str, Any]], prefix: str) -> None:
    for one in services:
        for endpoint in one.get("endpoints") or ():
            subject = str(endpoint.get("subject", ""))
            if subject.startswith(prefix):
                server = Server(str(one.get("name")), str(one.get("id")), str(endpoint.get("queue_group", "")))
                known.setdefault(subject[len(prefix) :], _Task()).servers.append(server)


def _add_limits(known: dict[str, _Task], replicas: list[dict[str, Any]]) -> None:
    for one in replicas:
        for endpoint in one.get("endpoints") or ():
            for held in (endpoint.get("data") or {}).get("tasks", ()):
                task = known.setdefault(held["task"], _Task())
                if "ratePerSecond" in held:
                    task.rates.append(Rate(str(one.get("id")), held["ratePerSecond"]))
                cause = held.get("breaker", {}).get("cause", "")
                if cause and task.cause in ("", "told"):
                    task.cause = cause


def _prefix(replica: dict[str, Any]) -> str:
    return str((replica.get("metadata") or {}).get("prefix", ""))


def _row(task: TaskRow) -> tuple[str, str, str, str]:
    counts = Counter(one.service for one in task.served_by)
    served = ", ".join(f"{service} × {count}" if count > 1 else service for service, count in sorted(counts.items()))
    rates = sorted(one.rate_per_second for one in task.rates)
    limit = "" if not rates else f"{rates[0]:.1f}/s" + (f" to {rates[-1]:.1f}/s" if rates[-1] > rates[0] else "")
    breaker = f"tripped: {task.cause}" if task.cause else "tripped" if task.tripped else "closed"
    return task.task, served or "no service listed", limit or "none", breaker
