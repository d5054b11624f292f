"""The replica of a test environment: an engine on a database in memory, which may be killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from dwarf_nats.engine import Engine
from dwarf_nats.engine.ports import Ports
from dwarf_nats.errors import Unavailable
from dwarf_nats.ports import TaskCapabilities
from dwarf_nats.settings import EngineSettings
from dwarf_nats.store.store import SqlStore
from dwarf_nats.testing.memory_database import MemoryDatabase, schema_image
from dwarf_nats.wire.codec import options_of_json

if TYPE_CHECKING:
    from dwarf_nats.local.graph_book import GraphBook
    from dwarf_nats.testing.activity import Activity
    from dwarf_nats.testing.skipping_clock import SkippingClock
    from dwarf_nats.testing.surroundings import EnvServices, EnvTasks


class Replica:
    """Starts, kills and stops the engine of one environment."""

    def __init__(
        self,
        clock: SkippingClock,
        activity: Activity,
        settings: EngineSettings | None,
        *,
        tasks: EnvTasks,
        services: EnvServices,
        graphs: GraphBook,
        waiting: Callable[[], int],
    ) -> None:
        self._waiting = waiting
        self._clock = clock
        self._activity = activity
        # Nobody waits for tasks at the end of a test.
        self._settings = replace(settings if settings is not None else EngineSettings(), drain_ms=0)
        tasks.max_depth = self._settings.max_depth
        self._ports = Ports(
            tasks=tasks,
            capabilities=TaskCapabilities(max_depth=tasks.max_depth),
            graphs=graphs,
            services=services,
            clock=clock,
            read_options=options_of_json,
        )
        self._engine: Engine | None = None
        self._database: MemoryDatabase | None = None
        self._started = 0

    @property
    def engine(self) -> Engine:
        """The engine that runs. Raises `Unavailable` if none does."""
        if self._engine is None:
            raise Unavailable("the environment is not open: use it with `async with flow_env() as env`")
        return self._engine

    async def start(self) -> None:
        """Start an engine on an empty database."""
        await self._start_on(await schema_image())

    async def _start_on(self, image: bytes) -> None:
        self._started += 1
        self._database = database = MemoryDatabase(self._clock, self._activity, image)
        store = SqlStore(1, "sqlite://", pool=1, clock=self._clock, database=database)
        engine = Engine([store], self._ports, self._settings, name=f"env-{self._started}")
        await engine.startup(migrate=False)
        self._engine = engine
        self._activity.in_flight = lambda: len(engine.shards[1].in_flight.executions) - self._waiting()

    async def crash(self) -> None:
        """Kill the engine: what it has not stored is lost. Another one starts when the silence of the first is noticed."""
        assert self._database is not None
        image = await self._database.image()
        await self.stop()  # all that it still stores goes into a database that nobody looks at again
        self._clock.move_to(self._clock.now() + self._settings.replica_timeout_ms * 1000 + 1)
        await self._start_on(image)

    async def stop(self) -> None:
        """Stop the engine."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.shutdown()
