"""The optional engines that this machine has, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class Restate:
    """The server's program, and `node` with the folder of the TypeScript SDK; both empty where Node.js is not."""

    server: str
    node: str = ""
    modules: str = ""

    @property
    def sdks(self) -> tuple[str, ...]:
        """Those that can be measured."""
        return ("python", "typescript") if self.node else ("python",)


@dataclass(slots=True, frozen=True)
class Others:
    """The engines that a run measures beside the libraries. `temporal`: an address; `temporal_server`: a program."""

    restate: Restate | None = None
    temporal: str = ""
    temporal_server: str = ""
    only: tuple[str, ...] = ()
    """Of all arms of the case only these; all if there are none."""
