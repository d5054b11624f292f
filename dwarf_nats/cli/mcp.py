"""`dwarf-nats mcp`: the operations as tools of a Model Context Protocol server."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from dwarf_nats.actor import system_actor
from dwarf_nats.cli import logs
from dwarf_nats.cli.command import command
from dwarf_nats.cli.options import Bus, FlowService, read_claim_checks, read_codec
from dwarf_nats.console.settings import parse_address
from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk import Client
from dwarf_nats.settings import CONNECTION_SETTINGS, LogFormat

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

_INSTALL = 'pip install "dwarf-nats[mcp]"'
NAME = "dwarf-mcp"
"""The name of its connection, as NATS reports it."""


def register(app: typer.Typer) -> None:
    command(
        app,
        "mcp",
        short="A Model Context Protocol server: tools for language models.",
        example="dwarf-nats mcp --read-only\n"
        "dwarf-nats mcp --creds agent.creds --inbox-prefix _INBOX.agent --http 127.0.0.1:8090",
    )(mcp)


async def mcp(
    bus: Bus,
    service: FlowService,
    read_only: Annotated[
        bool, typer.Option("--read-only", envvar="DWARF_MCP_READ_ONLY", help="Offer only tools that change nothing.")
    ] = False,
    payloads: Annotated[
        bool,
        typer.Option(
            "--payloads/--no-payloads",
            envvar="DWARF_MCP_PAYLOADS",
            help="Show states, changes and payloads of workflows to the model.",
        ),
    ] = True,
    http: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", envvar="DWARF_MCP_HTTP", help="Serve HTTP there, at /mcp, instead of stdin and stdout."
        ),
    ] = "",
    http_token: Annotated[
        str,
        typer.Option(metavar="TOKEN", envvar="DWARF_MCP_HTTP_TOKEN", help="Bearer token that HTTP callers must send."),
    ] = "",
) -> None:
    """Serve the operations as tools of a Model Context Protocol server, for Claude, an editor or an agent of your own.

    It speaks on stdin and stdout until its client closes them, or over HTTP. It may do what its NATS user may do.
    """
    check_installed()
    logs.set_up(LogFormat.TEXT)
    from dwarf_nats.mcp.server import build_server  # slow to load, and of an extra

    how = {row.attribute: getattr(bus, row.attribute) for row in CONNECTION_SETTINGS}
    client = Client(
        prefix=service.prefix,
        name=NAME,
        actor=f"{system_actor()} by MCP" if service.actor is None else service.actor,
        codec=read_codec(service.codec),
        claim_checks=read_claim_checks(service.claim_checks),
        retry_creates=True,
        **how | {"connect_seconds": service.connect_timeout_ms / 1000},
    )
    server = build_server(client, read_only=read_only, payloads=payloads)
    logging.getLogger("mcp").setLevel(logging.WARNING)  # it logs each call
    try:
        if http:
            await _serve_http(server, http, http_token)
        else:
            await server.run_stdio_async()
    finally:
        await client.close()


async def _serve_http(server: MCPServer, address: str, token: str) -> None:
    from dwarf_nats.mcp.http import PATH, http_server

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with http_server(server, parse_address(address), token) as web:
        print(f"mcp       {web.url}{PATH}", flush=True)
        await stop.wait()


def check_installed() -> None:
    """Raise `BadRequest` if the extra is not installed."""
    if importlib.util.find_spec("mcp") is None:
        raise BadRequest(f"the MCP server needs the package mcp: {_INSTALL}")
