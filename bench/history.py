"""A history under the load: so many finished steps in the tables, laid down once after the warm-up."""

from __future__ import annotations

import asyncpg

from . import filling
from .arms import Servers, ServiceArm, Sides


class HistoryArm(ServiceArm):
    """The service on PostgreSQL with `steps` finished steps there, 0 for none."""

    def __init__(self, steps: int, servers: Servers, sides: Sides) -> None:
        name = f"{steps:,} finished" if steps else "no history"
        super().__init__("postgresql", servers, sides, name=name)
        self._finished = steps

    async def warm_up(self, concurrency: int) -> None:
        """As ever, then the history, then as ever: the pages that the load needs are in memory again."""
        await super().warm_up(concurrency)
        if self._finished:
            connection = await asyncpg.connect(self.dsns[0])
            try:
                await filling.finished(connection, self._finished)
                await filling.settle_down(connection)
            finally:
                await connection.close()
            await super().warm_up(concurrency)
