"""Look-ups of names in the registry: flows that are created at once share one, and those after them assume what it found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock

ASSUMED_US = 1_000_000
"""Age at which a look-up of a name is made again, although the database would find out if another graph has it by now."""
KEPT_NAMES = 4096
"""Names whose look-ups are remembered."""


class RegistryLookUps:
    """Asks the registry for the digests of names. `ask`: reads those of some names from a database; raises `Unavailable`."""

    def __init__(self, ask: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]], clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._found: dict[str, tuple[int, str]] = {}
        """When the registry was asked for a name, and the digest that it had."""
        self._wanted: dict[str, asyncio.Future[str | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    def recent(self, name: str) -> str:
        """Return the digest that a name had a moment ago; empty if nothing is known."""
        at, digest = self._found.get(name, (0, ""))
        return digest if 0 <= self._clock.now() - at < ASSUMED_US else ""

    async def digest(self, name: str) -> str | None:
        """Return the digest registered for a name. Requests that come during a look-up share the next one."""
        future = self._wanted.get(name)
        if future is None:
            future = self._wanted[name] = asyncio.get_running_loop().create_future()
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._answer())
        return await asyncio.shield(future)

    async def _answer(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            now = self._clock.now()
            try:
                found = await self._ask(list(wanted))
            except Exception as error:
                for future in wanted.values():
                    future.set_exception(error)
                    future.exception()  # those that waited may have gone: the loop must not warn
                continue
            if len(self._found) > KEPT_NAMES:
                self._found.clear()
            for name, future in wanted.items():
                digest = found.get(name)
                if digest is None:
                    self._found.pop(name, None)
                else:
                    self._found[name] = now, digest
                future.set_result(digest)
