"""Serves an ASGI application by uvicorn, in a program that has an event loop and handlers of signals of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import uvicorn

from dwarf_nats.errors import BadRequest

log = logging.getLogger("dwarf_nats.web_server")
STOP_SECONDS = 2
"""Time that requests under way get at the end."""


class _Server(uvicorn.Server):
    """uvicorn without handlers of signals, which belong to the program."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class WebServer:
    """Serves an application while entered. Raises `BadRequest` if it cannot have the port.

    `what` names the application in messages, `option` the one that says where it listens.
    """

    def __init__(self, app: Any, address: tuple[str, int], *, what: str, option: str) -> None:
        self._what, self._option = what, option
        self._host, self._port = address
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=STOP_SECONDS,
            lifespan="on",
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The address to open in a browser."""
        host = "127.0.0.1" if self._host in ("0.0.0.0", "::") else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    async def __aenter__(self) -> Self:
        bound = self._bound()
        self._port = bound.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve(sockets=[bound]))
        while not self._server.started:
            if self._task.done():
                await self._task
                raise BadRequest(f"{self._what} did not start; its log says why")
            await asyncio.sleep(0.01)
        log.info("%s is at %s", self._what, self.url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task

    def _bound(self) -> socket.socket:
        host, port = self._host, self._port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except (OSError, OverflowError) as error:
            bound.close()
            why = "the port is taken" if getattr(error, "errno", 0) == errno.EADDRINUSE else str(error)
            raise BadRequest(
                f"{self._what} cannot listen on {host}:{port}: {why}; choose another with {self._option}"
            ) from None
        bound.set_inheritable(True)
        return bound
