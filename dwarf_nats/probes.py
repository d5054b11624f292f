"""Liveness and readiness over HTTP, for orchestrators that know no NATS: `/livez`, `/readyz`, and `/healthz` for `/livez`.

`/metrics` has the metrics for Prometheus, if they are wanted.

Only the part of HTTP that a probe needs, with narrow limits: GET and HEAD, a request head of 4 KiB within 5 s, 64 connections
at once, one request each. The answers contain nothing that a log would not contain, but there is no authentication: the
loopback address is the default.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from dwarf_nats.errors import BadRequest
from dwarf_nats.redact import redacted_url, scrubbed

log = logging.getLogger("dwarf_nats.server")

MAX_HEAD_BYTES = 4096
"""Longest request head; probes send a few hundred bytes."""
HEAD_SECONDS = 5.0
"""Longest wait for the head of a request, and for the client to take the answer."""
MAX_CONNECTIONS = 64
"""Connections at once; further ones are closed, so that a client cannot take all descriptors."""
LIVE, READY = "/livez", "/readyz"
METRICS = "/metrics"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PATHS = {LIVE: LIVE, READY: READY, "/healthz": LIVE}


class Report(NamedTuple):
    """The health of a replica. `body`: JSON with the reasons."""

    live: bool
    ready: bool
    body: bytes


class ProbeServer:
    """Answers probes on one port with the report of the moment. `report` must not block. Use it with `async with`.

    `metrics` makes the page for Prometheus; it is called in a thread, once at a time.

    Raises `BadRequest` if it cannot have the port.
    """

    def __init__(
        self, host: str, port: int, report: Callable[[], Report], metrics: Callable[[], bytes] | None = None
    ) -> None:
        self._host = host
        self.port = port
        """The port; 0 becomes a free one when entered."""
        self._report = report
        self._metrics = metrics
        self._open = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> ProbeServer:
        try:
            self._server = await asyncio.start_server(self._connected, self._host, self.port, limit=MAX_HEAD_BYTES)
        except (OSError, OverflowError) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            raise BadRequest(
                f"no health port {self._host}:{self.port}: {why}; choose another with --health-port"
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]
        log.info("health on http://%s:%d%s and %s", self._host, self.port, LIVE, READY)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            if hasattr(self._server, "close_clients"):
                self._server.close_clients()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MAX_CONNECTIONS:
                writer.write(await self._answer(reader))
                async with asyncio.timeout(HEAD_SECONDS):
                    await writer.drain()
                    writer.write_eof()
                    while await reader.read(MAX_HEAD_BYTES):  # closing with unread data would lose the answer
                        pass
        except (OSError, TimeoutError):
            pass
        except asyncio.CancelledError:  # the server closes, and nobody waits for this task
            pass
        finally:
            self._open -= 1
            with contextlib.suppress(Exception):
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b'{"error":"the request head is too large"}')
        except asyncio.IncompleteReadError:
            return b""
        except TimeoutError:
            return _response(HTTPStatus.REQUEST_TIMEOUT, b'{"error":"the request head did not come"}')
        method, _, rest = head.split(b"\r\n", 1)[0].partition(b" ")
        target, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST, b'{"error":"this is no HTTP/1.1 request"}')
        if method not in (b"GET", b"HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, b'{"error":"GET or HEAD"}', "Allow: GET, HEAD\r\n")
        return await self._page(target.split(b"?", 1)[0].decode("latin-1"), bare=method == b"HEAD")

    async def _page(self, asked: str, *, bare: bool) -> bytes:
        if asked == METRICS and self._metrics is not None:
            page = await asyncio.to_thread(self._metrics)
            return _response(HTTPStatus.OK, page, bare=bare, kind=METRICS_TYPE)
        path = PATHS.get(asked)
        if path is None:
            there = "/livez and /readyz" if self._metrics is None else "/livez, /readyz and /metrics"
            return _response(HTTPStatus.NOT_FOUND, f'{{"error":"there are {there}"}}'.encode(), bare=bare)
        report = self._report()
        good = report.live if path == LIVE else report.ready
        return _response(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, report.body, bare=bare)


def _response(
    status: HTTPStatus, body: bytes, more: str = "", *, bare: bool = False, kind: str = "application/json"
) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\nConnection: close\r\n{more}\r\n"
    )
    return head.encode("ascii") + (b"" if bare else body)


def ask(url: str, seconds: float) -> tuple[int, bytes]:
    """Status and body of a probe, as a client. Raises `OSError` if nobody answers in that time."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=seconds) as reply:
            return reply.status, reply.read(MAX_HEAD_BYTES * 16)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(MAX_HEAD_BYTES * 16)
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{redacted_url(url)} does not answer as a replica does: {scrubbed(str(error), url)}") from None
