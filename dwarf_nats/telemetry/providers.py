"""The logger, the counters and the OpenTelemetry providers of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.ports import Logger
    from dwarf_nats.telemetry.counters import Counters
    from dwarf_nats.telemetry.instruments import MeterProvider
    from dwarf_nats.telemetry.traces import TracerProvider


@dataclass(slots=True, frozen=True, kw_only=True)
class Telemetry:
    """The telemetry of one engine; what is left out has a default.

    `logger`: `logging.getLogger("dwarf_nats.engine")`. `meter_provider`, `tracer_provider`: those of the process (T1, T2).
    `counters`: counters of its own.
    """

    logger: Logger | None = None
    meter_provider: MeterProvider | None = None
    tracer_provider: TracerProvider | None = None
    counters: Counters | None = None
