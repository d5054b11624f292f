"""`/metrics`: what Prometheus scrapes is what the catalogue promises (T1)."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client.parser import text_string_to_metric_families

from dwarf_nats import probes
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest
from dwarf_nats.library import open_engine
from dwarf_nats.probes import METRICS_TYPE
from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings
from dwarf_nats.telemetry import scraping
from dwarf_nats.telemetry.catalogue import CATALOGUE, Kind
from dwarf_nats.telemetry.scraping import Scraped
from dwarf_nats.testing import TaskProxy


def samples(page: bytes) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The values of each series, by its name and labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(page.decode()):
        for one in family.samples:
            found.setdefault(one.name, {})[tuple(sorted(one.labels.items()))] = one.value
    return found


@pytest.mark.usefixtures("every_value")
async def test_the_page_has_the_names_of_the_catalogue_and_its_values_t1(proxy: TaskProxy) -> None:
    scraped = Scraped()
    provider = MeterProvider([scraped.reader], shutdown_on_exit=False)
    async with open_engine("sqlite://", tasks=proxy, graphs=proxy, meter_provider=provider) as engine:
        for _ in range(3):
            await engine.run("line", None, None, 20)
        await engine._lifecycle.gauges.read()
        found = samples(await asyncio.to_thread(scraped.page))
    names = {name for one in CATALOGUE for name in _names(one.name, one.kind)}
    assert {name for name in found if name.startswith("dwarf_")} <= names
    assert found["dwarf_flows_terminated_total"] == {(("status", "completed"), ("workflow", "line")): 3}
    buckets = found["dwarf_flow_duration_seconds_bucket"]
    assert buckets[("le", "+Inf"), ("workflow", "line")] == 3
    counts = [value for _, value in sorted((float(dict(key)["le"]), value) for key, value in buckets.items())]
    assert counts == sorted(counts), "each bucket counts those below it, too"
    assert found["dwarf_flow_duration_seconds_count"] == {(("workflow", "line"),): 3}
    assert found["dwarf_shard_up"] == {(("shard", "1"),): 1}
    assert found["target_info"]


def _names(name: str, kind: Kind) -> list[str]:
    return [name, f"{name}_bucket", f"{name}_count", f"{name}_sum"] if kind is Kind.HISTOGRAM else [name]


async def test_a_replica_answers_on_its_health_port_t1(nats_server: NatsServer, sqlite_dsn: str) -> None:
    settings = ServerSettings.of(
        dsns=[sqlite_dsn], nats_url=nats_server.url, prefix="scraped", health_port=0, metrics=True, drain_ms=0
    )

    def read(port: int, path: str) -> tuple[str, bytes]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as reply:
            return reply.headers["Content-Type"], reply.read()

    ports: list[int] = []
    entered = probes.ProbeServer.__aenter__

    async def entering(self: probes.ProbeServer) -> probes.ProbeServer:
        made = await entered(self)
        ports.append(made.port)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes.ProbeServer, "__aenter__", entering)
        async with replica(settings):
            kind, page = await asyncio.to_thread(read, ports[0], "/metrics?x=1")
            with pytest.raises(urllib.error.HTTPError, match="404"):
                await asyncio.to_thread(read, ports[0], "/other")
    assert kind == METRICS_TYPE
    assert samples(page)["dwarf_steps_recovered_total"] == {(): 0}


async def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, sqlite_dsn: str) -> None:
    with pytest.raises(BadRequest, match="--health-port"):
        async with replica(ServerSettings.of(dsns=[sqlite_dsn], metrics=True)):
            pass
    monkeypatch.setattr(scraping, "find_spec", lambda _: None)
    with pytest.raises(BadRequest, match="pip install"):
        Scraped()
