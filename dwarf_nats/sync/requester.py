"""The base of the synchronous client: an asynchronous one, and the thread in which it works."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from dwarf_nats.errors import Unavailable
from dwarf_nats.sdk.client import Client as AsyncClient
from dwarf_nats.sdk.codec import SharedArguments
from dwarf_nats.sync.flow_stream import FlowStream
from dwarf_nats.sync.loop_thread import LoopThread

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")


class SyncRequester:
    """Runs the methods of an asynchronous client in a thread of its own. Base of `dwarf_nats.sync.Client`.

    The thread and the connection are made with the first request, and again after a fork: so a client may be made before a
    server such as gunicorn forks its workers.
    """

    def __init__(
        self,
        url: str = "",
        *,
        prefix: str = "dwarf",
        name: str = "dwarf-client",
        timeout: float = 5.0,
        patience: float = 15.0,
        retry_creates: bool = False,
        actor: str = "",
        **how: Unpack[SharedArguments],
    ) -> None:
        def make() -> AsyncClient:
            return AsyncClient(
                url,
                prefix=prefix,
                name=name,
                timeout=timeout,
                patience=patience,
                retry_creates=retry_creates,
                actor=actor,
                **how,
            )

        self._make = make
        self._name = name
        self._lock = threading.Lock()
        self._closed = False
        self._process = os.getpid()
        self._client = make()  # at once, so that arguments that cannot be right are refused here
        self._thread: LoopThread | None = None

    def connect(self) -> Self:
        """Connect now instead of at the first request. Raises `Unavailable` if no NATS server answers."""
        self._run(self._async.connect())
        return self

    def close(self) -> None:
        """Close the connection and end the thread. Requests of other threads that are under way raise `Unavailable`."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None and self._process == os.getpid():
            with contextlib.suppress(Unavailable):
                thread.run(self._client.close())
            thread.stop()

    def request(
        self,
        operation: str,
        body: bytes = b"{}",
        *,
        actor: str = "",
        idempotency_key: str = "",
        wait_seconds: float = 0.0,
    ) -> bytes:
        """Send a request of the wire as it is, `flow.cancel` for example, and return the JSON text of the reply as it is.

        `actor` goes into `Dwarf-Actor`, in place of the client's. `wait_seconds`: time the service may take on purpose. Raises
        the refusal of the service.
        """
        return self._run(
            self._async.request(
                operation, body, actor=actor, idempotency_key=idempotency_key, wait_seconds=wait_seconds
            )
        )

    def stream(self, flow_key: str, *, end_at_pause: bool = False) -> FlowStream:
        """Follow the output of a flow's running tasks: iterate over it, with `with` to be sure of the beginning (B8).

        `end_at_pause`: end when the flow is interrupted, too.
        """
        thread = self._running()
        return FlowStream(self._client.stream(flow_key, end_at_pause=end_at_pause), thread)

    def __enter__(self) -> Self:
        try:
            return self.connect()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _async(self) -> AsyncClient:
        """The asynchronous client of this process."""
        self._running()
        return self._client

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            thread = self._running()
        except BaseException:
            coroutine.close()
            raise
        return thread.run(coroutine)

    def _iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        return self._running().iterate(items)

    def _running(self) -> LoopThread:
        """The thread of this process, begun if there is none yet. Raises `Unavailable` once the client is closed."""
        thread = self._thread
        if thread is not None and self._process == os.getpid() and not self._closed:
            return thread
        if self._process != os.getpid():  # a fork: neither the thread nor its lock is to be trusted here
            self._process, self._thread, self._lock = os.getpid(), None, threading.Lock()
            self._client = self._make()
        with self._lock:
            if self._closed:
                raise Unavailable("this client is closed")
            if self._thread is None:
                self._thread = LoopThread(self._name)
                weakref.finalize(self, self._thread.stop)  # at the end of the program, too
            return self._thread
