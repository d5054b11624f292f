"""Arms that differ in the size of what each flow does: branches, or bytes carried."""

from __future__ import annotations

from .arms import Servers, ServiceArm, Sides
from .result import Figures
from .shapes import Shape

_KIB = 1024
_AT_MOST = 6 * 2**20
"""Bytes of text that the flows of a payload round start with, more than one each in any case."""

PAYLOADS = {"linear": "no text", "kept": "unchanged", "turned": "changed"}
"""Arms by kind of shape."""


class FanOutArm(ServiceArm):
    """Flows with a `for_each` of `branches`. Concurrency and amount are in branches, the same for each size."""

    def __init__(self, branches: int, servers: Servers, sides: Sides) -> None:
        shape = Shape("fan-out", size=branches)
        super().__init__("postgresql", servers, sides, name=f"{branches:,} branches", shape=shape)

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """Run flows with about so many branches in all, about so many of them at once."""
        size = self.shape.size
        found = await super().measure(max(1, concurrency // size), max(1, flows // size))
        found.measures["us_per_branch"] = found.seconds * 1e6 / (found.flows * size)
        return found


class PayloadArm(ServiceArm):
    """Flows that carry a text of `size` bytes through their steps, `kind` `kept` or `turned`; `linear`: none."""

    def __init__(self, kind: str, size: int, servers: Servers, sides: Sides) -> None:
        shape = Shape(kind, sides.steps, size)
        super().__init__("postgresql", servers, sides, name=PAYLOADS[kind], shape=shape)

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """Run so many flows, fewer if they are large."""
        found = await super().measure(concurrency, max(concurrency, min(flows, _AT_MOST // self.shape.size)))
        if self.shape.kind != "linear":
            found.measures["mb_per_s"] = found.steps_per_s * self.shape.size / 1e6
        return found


def size_label(size: int) -> str:
    """`64KB`."""
    return f"{size // _KIB}KB" if size >= _KIB else f"{size}B"
