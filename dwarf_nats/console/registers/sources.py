"""The sources."""

from __future__ import annotations

from .register import Action, Column, Entry, Register

EXAMPLE = """\
name: orders
subject: orders.placed.*
stream: ORDERS
start:
  workflow: order
  state: =data
"""


def _starts(entry: Entry) -> str:
    start = entry.get("start")
    return f"flow of {start['workflow']}" if start else f"event {(entry.get('signal') or {}).get('event', '')}"


SOURCES = Register(
    noun="source",
    plural="sources",
    title="Sources",
    about="Messages that start flows or signal events.",
    columns=(
        Column("Subject", "subject", "code"),
        Column("Stream", "stream", "code"),
        Column("Starts", _starts),
        Column("State", "state", "state"),
        Column("Pending", "pending", "number"),
        Column("Rejected", "rejected", "number"),
        Column("Changed", "updatedAt", "time"),
    ),
    facts=(
        Column("Subject", "subject", "code"),
        Column("Stream", "stream", "code"),
        Column("State", "state", "state"),
        Column("Waits for", "reason"),
        Column("Pending", "pending", "number"),
        Column("In hand", "inHand", "number"),
        Column("Rejected", "rejected", "number"),
        Column("Last error", "lastError"),
        Column("At", "lastErrorAt", "time"),
    ),
    actions=(
        Action(
            verb="pause",
            label="Pause",
            text="Its messages stay in their stream until it is resumed. Without a stream they are lost.",
            done="Paused.",
            when=lambda entry: entry.get("state") != "paused",
        ),
        Action(
            verb="resume",
            label="Resume",
            text="It goes on with the messages that have waited in its stream.",
            done="It goes on.",
            when=lambda entry: entry.get("state") == "paused",
        ),
    ),
    example=EXAMPLE,
    command="dwarf-nats source put orders.yaml",
    delete_text="No message of it starts anything any more. Its consumer is removed from the stream; flows go on.",
)
