"""The synchronous view of the output of a flow's running tasks (B8)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from dwarf_nats.sdk.flow_stream import FlowStream as AsyncFlowStream
from dwarf_nats.workflow.output import Chunk

if TYPE_CHECKING:
    from types import TracebackType

    from dwarf_nats.sync.loop_thread import LoopThread
    from dwarf_nats.workflow.records import Outcome


class FlowStream:
    """The output of a flow's tasks, as they emit it: an iterator of `Chunk`s, and a context manager.

    It is made by `Client.stream`, and promises what `dwarf_nats.FlowStream` does.
    """

    def __init__(self, stream: AsyncFlowStream, thread: LoopThread) -> None:
        self._stream = stream
        self._thread = thread

    @property
    def outcome(self) -> Outcome | None:
        """The flow's outcome, once the iteration has ended."""
        return self._stream.outcome

    def __enter__(self) -> Self:
        self._thread.run(self._stream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.run(self._stream.__aexit__(kind, error, trace))

    def __iter__(self) -> Iterator[Chunk]:
        return self._thread.iterate(aiter(self._stream))
