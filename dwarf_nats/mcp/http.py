"""The server over HTTP: the transport `streamable HTTP`, with a bearer token."""

from __future__ import annotations

import hmac
import json
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp, Receive, Scope, Send

from dwarf_nats.errors import BadRequest
from dwarf_nats.web_server import WebServer

LOOPBACK = ("127.0.0.1", "::1", "localhost")
PATH = "/mcp"


def http_server(server: MCPServer, address: tuple[str, int], token: str = "") -> WebServer:
    """The web server of an MCP server. Raises `BadRequest` if it would be open to everybody.

    `token`: what callers must send as bearer token; without one it listens on loopback only, and a page of another host that a
    browser shows cannot reach it (DNS rebinding).
    """
    host = address[0]
    if host not in LOOPBACK and not token:
        raise BadRequest(
            f"the tools would be open to everybody who reaches {host}:{address[1]}: give --http-token, or listen on 127.0.0.1"
        )
    app: ASGIApp = server.streamable_http_app(
        streamable_http_path=PATH,
        stateless_http=True,  # a session has no state here, so callers need not come back to the same process
        json_response=True,
        host=host,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False) if token else None,
    )
    return WebServer(_Guarded(app, token) if token else app, address, what="the MCP server", option="--http")


class _Guarded:
    """Lets requests with the token through."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._may(scope):
            await self._app(scope, receive, send)
            return
        body = json.dumps({"error": "send the token of this server: Authorization: Bearer TOKEN"}).encode()
        headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _may(self, scope: dict[str, Any] | Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, self._expected)
