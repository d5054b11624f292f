"""Groups of options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from dwarf_nats.actor import system_actor
from dwarf_nats.cli.command import option_group, register_group
from dwarf_nats.cli.setting_options import connect_options, default, option, parameters
from dwarf_nats.cli.tag_args import SYNTAX, read_tags
from dwarf_nats.settings import CONNECTION_SETTINGS, SERVICE
from dwarf_nats.wire.connect_options import ConnectOptions
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.sdk.claim_checks import ClaimChecks
    from dwarf_nats.sdk.client import Client
    from dwarf_nats.sdk.codec import Codec


class FlowStatus(StrEnum):
    """A status a flow can have."""

    CREATED = "created"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


Bus: TypeAlias = ConnectOptions
"""The connection to NATS. Fields that are not given come from the variables and contexts of the `nats` CLI."""
register_group(ConnectOptions, parameters(CONNECTION_SETTINGS), connect_options)
CodecFile = Annotated[
    Path | None,
    typer.Option(envvar="DWARF_CODEC", metavar="FILE", help="Keys to seal fields with, and to open sealed ones."),
]
ClaimsFile = Annotated[
    Path | None,
    typer.Option(
        envvar="DWARF_CLAIM_CHECKS",
        metavar="FILE",
        help="Which values travel by the object store; empty file: all large.",
    ),
]
Dsns = Annotated[list[str] | None, option("dsns")]


def read_codec(path: Path | None) -> Codec | None:
    """The codec of a file, if one was given. Raises `BadRequest`."""
    if path is None:
        return None
    from dwarf_nats.sdk.codec import Codec

    return Codec.from_file(path)


def read_claim_checks(path: Path | None) -> ClaimChecks | None:
    """The claim checks of a file, if one was given. Raises `BadRequest`."""
    if path is None:
        return None
    from dwarf_nats.sdk.claim_checks import ClaimChecks

    return ClaimChecks.from_file(path)


def given_dsns(dsns: list[str] | None) -> list[str]:
    """The DSNs. Raises `typer.BadParameter` if there are none."""
    if not dsns:
        raise typer.BadParameter("name a database: postgresql://… or sqlite:///path", param_hint="--dsn")
    return dsns


@option_group(SERVICE)
@dataclass(slots=True, frozen=True)
class Service:
    """The deployment to talk to."""

    prefix: Annotated[str, option("prefix")] = default("prefix")
    connect_timeout_ms: Annotated[
        int, typer.Option(min=1, envvar="DWARF_CONNECT_TIMEOUT_MS", help="How long to look for NATS.")
    ] = 5_000
    actor: Annotated[
        str | None,
        typer.Option(envvar="DWARF_ACTOR", help="Who acts, for the audit trail; by default USER@HOST."),
    ] = None

    @property
    def who(self) -> str:
        """The actor: as given, else the operating system's user and host."""
        return system_actor() if self.actor is None else self.actor

    def client(self, bus: Bus, codec: Codec | None = None, claim_checks: ClaimChecks | None = None) -> Client:
        """A client, not connected yet."""
        from dwarf_nats.cli import logs
        from dwarf_nats.sdk.client import Client

        logs.tell_warnings()
        how = {row.attribute: getattr(bus, row.attribute) for row in CONNECTION_SETTINGS}
        how["connect_seconds"] = self.connect_timeout_ms / 1000
        return Client(
            prefix=self.prefix, name="dwarf-cli", actor=self.who, codec=codec, claim_checks=claim_checks, **how
        )


@option_group(SERVICE)
@dataclass(slots=True, frozen=True)
class FlowService(Service):
    """The deployment whose flows a command is about, and the keys of their sealed fields (B9)."""

    codec: CodecFile = None
    claim_checks: ClaimsFile = None

    def client(self, bus: Bus, codec: Codec | None = None, claim_checks: ClaimChecks | None = None) -> Client:
        codec, claim_checks = codec or read_codec(self.codec), claim_checks or read_claim_checks(self.claim_checks)
        return Service.client(self, bus, codec, claim_checks)


@option_group("Which flows")
@dataclass(slots=True, frozen=True)
class Matching:
    """The conditions that flows are selected by (O9)."""

    status: Annotated[FlowStatus | None, typer.Option(help="In this status.")] = None
    workflow: Annotated[str | None, typer.Option(help="Of this workflow.")] = None
    thread: Annotated[str | None, typer.Option(help="Of the thread with this flow key.")] = None
    task: Annotated[str | None, typer.Option(help="At this task.")] = None
    fairness_key: Annotated[str | None, typer.Option(help="With this fairness key.")] = None
    priority: Annotated[int | None, typer.Option(min=1, help="With this priority.")] = None
    older_than_ms: Annotated[int | None, typer.Option(min=0, help="Status unchanged for longer.")] = None
    newer_than_ms: Annotated[int | None, typer.Option(min=0, help="Status changed since.")] = None
    shard: Annotated[int | None, typer.Option(min=1, help="On this shard.")] = None
    flow_id: Annotated[str | None, typer.Option(help="The one with this id, such as 1-42.")] = None
    search: Annotated[str | None, typer.Option(help="Part of key, workflow, task, error or reason.")] = None
    tag: Annotated[
        list[str] | None, typer.Option(metavar=SYNTAX, help="With this tag; of several, with all of them.")
    ] = None

    def query(self) -> Query:
        """The conditions as the client takes them."""
        return Query(
            status=Status(self.status.value) if self.status else None,
            workflow=self.workflow,
            thread=self.thread,
            task=self.task,
            fairness_key=self.fairness_key,
            priority=self.priority,
            older_than_ms=self.older_than_ms,
            newer_than_ms=self.newer_than_ms,
            shard=self.shard,
            search=self.search,
            flow_id=self.flow_id,
            tags=read_tags(self.tag),
        )


@option_group("Which flows")
@dataclass(slots=True, frozen=True)
class Filters(Matching):
    """The conditions that flows are selected by, and the number of flows (O9)."""

    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100

    def query(self) -> Query:
        return replace(Matching.query(self), limit=self.limit)
