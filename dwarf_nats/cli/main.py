"""`dwarf-nats`: the commands, put together."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dwarf_nats import collector
from dwarf_nats.cli import config
from dwarf_nats.cli.command import new_app, print_refusal
from dwarf_nats.cli.lazy_commands import LazyCommand, lazy_family
from dwarf_nats.cli.lazy_module import load_when_used
from dwarf_nats.errors import Internal
from dwarf_nats.redact import scrubbed
from dwarf_nats.version import __version__

COMMANDS = {
    "serve": LazyCommand("dwarf_nats.cli.serve", "One replica of the service; SIGTERM drains it."),
    "init": LazyCommand("dwarf_nats.cli.init", "Make a project: a graph, a worker, a test, a compose file."),
    "dev": LazyCommand("dwarf_nats.cli.dev", "Everything on this machine: NATS, database, replica, tasks."),
    "demo": LazyCommand("dwarf_nats.cli.demo", "See the example orders run, start to end."),
    "console": LazyCommand("dwarf_nats.cli.console", "The web console."),
    "mcp": LazyCommand("dwarf_nats.cli.mcp", "A Model Context Protocol server: tools for language models."),
    "worker": LazyCommand("dwarf_nats.cli.worker", "Serve the tasks of a Python module, or a command as a task."),
    "migrate": LazyCommand("dwarf_nats.cli.migrate", "Bring databases to the current schema."),
    "tasks": LazyCommand("dwarf_nats.cli.tasks", "Who serves which task, its rate limit and its breaker."),
    "shards": LazyCommand("dwarf_nats.cli.shards", "Per shard: does its database answer, what does it hold."),
    "shard": LazyCommand("dwarf_nats.cli.shard", "Shards: say which take new flows."),
    "health": LazyCommand("dwarf_nats.cli.health", "Ask all replicas over NATS, or one over HTTP."),
    "bench": LazyCommand("dwarf_nats.cli.bench", "Run the benchmark harness."),
    "flow": LazyCommand("dwarf_nats.cli.flow_family", "Flows: make, run, look at and steer them."),
    "audit": LazyCommand("dwarf_nats.cli.audit", "The audit trail: who did what, and when."),
    "retention": LazyCommand(
        "dwarf_nats.cli.retention", "Retention: remove flows by themselves, once they have ended and are old."
    ),
    "claim": LazyCommand("dwarf_nats.cli.claim", "Large values: what a sweep would remove."),
    "limit": LazyCommand(
        "dwarf_nats.cli.limit", "Limits: how many of a task or workflow run at once, and how many begin in a second."
    ),
    "hold": LazyCommand("dwarf_nats.cli.hold", "Holds: stop tasks and workflows by hand, and let them go on."),
    "schedule": LazyCommand("dwarf_nats.cli.schedule", "Schedules: start flows at due times."),
    "graph": LazyCommand("dwarf_nats.cli.graph", "Graphs: register, look at and check them."),
    "source": LazyCommand("dwarf_nats.cli.source", "Sources: messages that start flows or signal events."),
    "outbox": LazyCommand(
        "dwarf_nats.cli.outbox", "Outboxes: flows that were enqueued in the database and have not begun yet."
    ),
}
"""The commands in the order of the help. The line of each is that of the command itself, which a test holds."""
_HELP = """Durable workflow orchestration as a service on NATS.

A setting comes from its option, else from its variable (DWARF_…), else from dwarf.toml. A command's own --help lists
its options.
"""
app = new_app(_HELP, completion=True, family=lazy_family(COMMANDS))


def _show_version(asked: bool) -> None:
    if asked:
        print(f"dwarf-nats {__version__}")
        raise typer.Exit


@app.callback(epilog='\b\nExample:\n  dwarf-nats demo\n  dwarf-nats flow run greet --state \'{"name": "ada"}\'')
def root(
    context: typer.Context,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", envvar="DWARF_CONFIG", help="Settings file; dwarf.toml if that is there."),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.default_map = config.load(config_file, context.command)


def main() -> None:
    """The console script. An unexpected error is printed in one line; DWARF_TRACEBACK=1 adds the traceback."""
    collector.collect_hardly()
    load_when_used("nats.js")  # which nats-py loads at once, and most commands never use
    try:
        app()
    except Exception as error:
        if os.environ.get("DWARF_TRACEBACK"):
            import traceback

            print(scrubbed(traceback.format_exc()), file=sys.stderr)
        defect = Internal(f"{type(error).__name__}: {error}; DWARF_TRACEBACK=1 shows more")
        sys.exit(print_refusal(defect, as_json="--json" in sys.argv))
    finally:
        collector.collect_no_more()


if __name__ == "__main__":
    main()
