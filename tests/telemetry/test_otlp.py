"""Metrics and spans by OTLP: a collector of the test's own takes what a real replica sends, and decodes it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest
from dwarf_nats.server import replica
from dwarf_nats.telemetry import otlp
from dwarf_nats.telemetry.catalogue import CATALOGUE, Kind
from tests.support.caller import deployment, line, settings
from tests.support.telemetry import WAIT

pytestmark = pytest.mark.slow


class Collector:
    """Takes what is posted. `posted`: paths and bodies; `refuses`: the code of every answer, if it is to refuse."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, bytes]] = []
        self.refuses = 0
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.posted.append((self.path, body))
                self.send_response(collector.refuses or 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """In silence."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def metrics(self, base: str = "") -> dict[str, list[tuple[dict[str, str], float]]]:
        """The latest points of each metric that came, with their labels."""
        found = {}
        for path, body in self.posted:
            if path == f"{base}/v1/metrics":
                for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    for scope in resource.scope_metrics:
                        assert scope.scope.name == "dwarf_nats"
                        for metric in scope.metrics:
                            points = metric.sum.data_points or metric.gauge.data_points
                            found[metric.name] = [
                                (labels(one.attributes), one.as_int or one.as_double) for one in points
                            ] or [(labels(one.attributes), one.count) for one in metric.histogram.data_points]
        return found

    def spans(self) -> list[tuple[str, dict[str, str]]]:
        """Name and attributes of the spans that came."""
        return [
            (span.name, labels(span.attributes))
            for path, body in self.posted
            if path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def resources(self) -> list[dict[str, str]]:
        return [
            labels(resource.resource.attributes)
            for path, body in self.posted
            if path.endswith("/v1/metrics")
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        ]


def labels(attributes: Iterator[KeyValue]) -> dict[str, str]:
    return {one.key: one.value.string_value or str(one.value.int_value) for one in attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME", "OTEL_METRIC_EXPORT_INTERVAL"):
        monkeypatch.delenv(name, raising=False)
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"otlp{abs(hash(request.node.name))}"


async def one_flow(nats_url: str, dsn: str, prefix: str, **more: object) -> None:
    """A replica that runs one flow and drains."""
    async with deployment(nats_url, dsn, prefix, **more) as caller:
        await caller.serves("work")
        await caller.ok("graph.put", **line("job", "work"))
        assert (await caller.ok("flow.run", workflow="job"))["status"] == "completed"
        await caller.refused("flow.snapshot", flowKey="nonsense")


async def test_what_a_replica_did_has_arrived_when_it_has_ended(
    collector: Collector, nats_server: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    await one_flow(nats_server.url, sqlite_dsn, prefix, otlp=collector.url)
    metrics = collector.metrics()
    assert metrics["dwarf_flows_terminated_total"] == [({"status": "completed", "workflow": "job"}, 1)]
    assert metrics["dwarf_steps_executed_total"] == [({"status": "completed", "task": "work"}, 1)]
    assert ({"operation": "flow.run"}, 1) in metrics["dwarf_requests_total"]
    assert metrics["dwarf_requests_refused_total"] == [({"code": "400", "operation": "flow.snapshot"}, 1)]
    assert metrics["dwarf_step_task_seconds"] == [({"task": "work"}, 1)]
    assert metrics["dwarf_steps_recovered_total"] == [({}, 0)]
    assert metrics.keys() <= {one.name for one in CATALOGUE}
    assert [(name, one.get("dwarf.workflow")) for name, one in collector.spans()] == [
        ("workflow", "job"),
        ("task", "job"),
    ]
    for resource in collector.resources():
        assert resource["service.name"] == "dwarf-nats"
        assert len(resource["service.instance.id"]) == 16


async def test_metrics_can_go_where_no_traces_go(
    collector: Collector, nats_server: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    """The OTLP receiver of Prometheus takes metrics only, at a base path of its own."""
    base = f"{collector.url}/api/v1/otlp"
    await one_flow(nats_server.url, sqlite_dsn, prefix, otlp=base, otlp_traces=False)
    assert {path for path, _ in collector.posted} == {"/api/v1/otlp/v1/metrics"}
    assert "dwarf_flows_terminated_total" in collector.metrics("/api/v1/otlp")


async def test_a_collector_that_refuses_traces_does_no_harm(
    collector: Collector, nats_server: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    collector.refuses = 404
    await one_flow(nats_server.url, sqlite_dsn, prefix, otlp=collector.url)
    assert {path for path, _ in collector.posted} == {"/v1/metrics", "/v1/traces"}


async def test_gauges_arrive_while_it_runs(
    collector: Collector, nats_server: NatsServer, sqlite_dsn: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of those that say how it stands are there without anything having happened."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
    silent = {"dwarf_steps_pending", "dwarf_steps_oldest_pending_age_seconds", "dwarf_steps_fairness_keys"}
    silent |= {"dwarf_task_rate_limit", "dwarf_task_concurrency_running", "dwarf_task_breaker_state"}
    silent |= {"dwarf_limit_running", "dwarf_limit_waiting", "dwarf_flows"}
    silent |= {"dwarf_flows_oldest_running_age_seconds", "dwarf_flows_oldest_paused_age_seconds"}
    silent |= {"dwarf_limit_oldest_wait_seconds"}
    silent |= {"dwarf_large_values", "dwarf_large_values_bytes", "dwarf_large_values_last_sweep_timestamp_seconds"}
    silent |= {"dwarf_source_pending", "dwarf_outbox_rows", "dwarf_outbox_oldest_age_seconds"}
    wanted = {one.name for one in CATALOGUE if one.kind is Kind.GAUGE} - silent
    async with replica(settings(nats_server.url, sqlite_dsn, prefix, otlp=collector.url)), asyncio.timeout(WAIT):
        while not wanted <= collector.metrics().keys():
            await asyncio.sleep(0.01)
    assert collector.metrics()["dwarf_steps_queue_depth"] == [({}, 0)]


async def test_the_variables_of_the_environment_do_it_too(
    collector: Collector, nats_server: NatsServer, sqlite_dsn: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "orders")
    await one_flow(nats_server.url, sqlite_dsn, prefix)
    assert {path for path, _ in collector.posted} == {"/v1/metrics", "/v1/traces"}
    assert {one["service.name"] for one in collector.resources()} == {"orders"}


async def test_a_collector_that_is_away_disturbs_nobody(
    nats_server: NatsServer,
    sqlite_dsn: str,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end does not wait for it for long either, and leaves no thread behind that tries on."""
    monkeypatch.setattr(otlp, "FLUSH_SECONDS", 0.1)
    monkeypatch.setattr(otlp, "GIVE_UP_SECONDS", WAIT)
    before = set(threading.enumerate())
    with caplog.at_level(logging.WARNING):
        await one_flow(nats_server.url, sqlite_dsn, prefix, otlp="http://127.0.0.1:1")
    about = [record for record in caplog.records if record.name.startswith("opentelemetry")]
    assert len(about) <= len(otlp._NOISY_LOGGERS)
    assert {record.levelname for record in about} <= {"WARNING"}
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert not [name for name in left if name.startswith(("Otel", "Thread"))]


def test_what_is_sent_is_said_by_flag_or_environment() -> None:
    base, metrics = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c"}
    assert otlp._wanted("", {}, traces=True) == set()
    assert otlp._wanted("http://c", {}, traces=True) == {"metrics", "traces"}
    assert otlp._wanted("http://c", {}, traces=False) == {"metrics"}
    assert otlp._wanted("", base, traces=True) == {"metrics", "traces"}
    assert otlp._wanted("", metrics, traces=True) == {"metrics"}
    assert otlp.set_up("", "me", environment={}) is None
    assert otlp.set_up("", "me", environment={**base, "OTEL_SDK_DISABLED": "true"}) is None


@pytest.mark.parametrize("url", ["collector:4318", "ftp://collector", "http://", "nonsense"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(BadRequest, match="use http://host:4318"):
        otlp.set_up(url, "me")


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked for by a flag it is refused; by the environment, which may be there for others, it is only said."""
    monkeypatch.setattr(otlp, "_installed", lambda: False)
    with pytest.raises(BadRequest, match=r"pip install 'dwarf-nats\[otel\]'"):
        otlp.set_up("http://collector:4318", "me")
    assert otlp.set_up("", "me", environment={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}) is None
    assert "pip install 'dwarf-nats[otel]'" in caplog.text


async def test_replicas_are_told_apart(
    collector: Collector, nats_server: NatsServer, prefix: str, tmp_path: Path
) -> None:
    for number in (1, 2):
        await one_flow(nats_server.url, f"sqlite:///{tmp_path}/{number}.db", f"{prefix}{number}", otlp=collector.url)
    assert len({one["service.instance.id"] for one in collector.resources()}) == 2
