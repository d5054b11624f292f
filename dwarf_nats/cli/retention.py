"""`dwarf-nats retention …`: rules by which ended flows are removed once they are old enough (M2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from dwarf_nats.cli.command import command, new_app, option_group
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.output import Output, day_and_clock, table
from dwarf_nats.cli.removal import flows_text
from dwarf_nats.cli.tag_args import SYNTAX, read_tags, tags_line
from dwarf_nats.sdk import RetentionRule
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.retention_messages import preview_reply, retention_entry

app = new_app("Retention: remove flows by themselves, once they have ended and are old.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The rule's name.")]


@option_group("Which flows")
@dataclass(slots=True, frozen=True)
class Selection:
    """The flows that a rule removes (M2)."""

    older_than_ms: Annotated[int | None, typer.Option(min=1, help="That ended longer ago.")] = None
    workflow: Annotated[str, typer.Option(metavar="NAME", help="Of this workflow only.")] = ""
    status: Annotated[str, typer.Option(metavar="STATUS", help="completed, failed or cancelled only.")] = ""
    keep_tagged: Annotated[
        list[str] | None,
        typer.Option(metavar=SYNTAX, help="Keep flows with this tag; of several, those with all of them."),
    ] = None

    def rule(self, name: str) -> RetentionRule:
        """The rule of that name."""
        return RetentionRule(
            name=name,
            workflow=self.workflow,
            status=self.status,
            older_than_ms=self.older_than_ms or 0,
            keep_tagged=dict(read_tags(self.keep_tagged, "--keep-tagged") or {}),
        )


def register(root: typer.Typer) -> None:
    """Add the family to an app."""
    root.add_typer(app, name="retention")


@command(
    app,
    "put",
    short="Set a rule, in place of the one of its name.",
    example="dwarf-nats retention put done --status completed --older-than 30d --keep-tagged legal=hold",
)
async def put(out: Output, bus: Bus, service: Service, name: Name, selection: Selection) -> None:
    """Set a rule, in place of the one of its name. Flows that match are removed from about a minute later on.

    Look first with `retention preview`, with the same options.
    """
    if selection.older_than_ms is None:
        raise typer.BadParameter("say how old flows must be: --older-than 30d", param_hint="--older-than")
    async with service.client(bus) as client:
        await client.put_retention(selection.rule(name))
    out.show(m.Empty(), "set")


@command(app, "list", example="dwarf-nats retention list --json")
async def list_(out: Output, bus: Bus, service: Service) -> None:
    """List the rules, how many flows they have removed, and when they were last carried out to the end."""
    async with service.client(bus) as client:
        found = await client.list_retention()
    rows = [
        (
            one.rule.name,
            one.rule.workflow,
            one.rule.status or "ended",
            _age(one.rule.older_than_ms),
            tags_line(one.rule.keep_tagged),
            f"{one.removed:,}",
            "" if one.last_run is None else day_and_clock(one.last_run),
        )
        for one in found
    ]
    names = ("name", "workflow", "status", "older than", "keep tagged", "removed", "last run")
    out.show(m.RetentionListReply(rules=[retention_entry(one) for one in found]), table(names, rows))


@command(app, "delete", example="dwarf-nats retention delete done")
async def delete(out: Output, bus: Bus, service: Service, name: Name) -> None:
    """Remove a rule; flows that it has not removed stay."""
    async with service.client(bus) as client:
        await client.delete_retention(name)
    out.show(m.Empty(), "deleted")


@command(
    app,
    "preview",
    short="What a rule would remove now.",
    example="dwarf-nats retention preview done\ndwarf-nats retention preview new --status failed --older-than 90d",
)
async def preview(out: Output, bus: Bus, service: Service, name: Name, selection: Selection) -> None:
    """Count what a rule would remove now: one that is there, or with --older-than one that is not."""
    async with service.client(bus) as client:
        found = await client.preview_retention(selection.rule(name))
    least = "at least " if found.truncated else ""
    since = "" if found.oldest is None else f"; the first of them ended {day_and_clock(found.oldest)}"
    out.show(preview_reply(found), f"would remove {least}{flows_text(found.flows)}{since}")


def _age(age_ms: int) -> str:
    """An age for people, in its largest whole unit."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if age_ms % size == 0:
            return f"{age_ms // size}{unit}"
    return f"{age_ms}ms"
