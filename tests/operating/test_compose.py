"""docker-compose.yml, as far as it can be told without an engine for containers."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
import yaml

from tests.operating.command_lines import OPERATING, ROOT, parsed

OURS = ("replica", "worker")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file, with every variable at its default."""
    text = (ROOT / "docker-compose.yml").read_text()
    loaded: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text))
    return loaded


def test_it_is_what_the_specification_of_compose_says(compose: dict[str, Any]) -> None:
    schema = json.loads((files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json").read_text())
    jsonschema.validate(compose, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"replica": {"comand": "serve"}}}, schema)


def test_no_variable_has_to_be_set(compose: dict[str, Any]) -> None:
    assert "${" not in json.dumps(compose)


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_command_lines_there_are(
    name: str, compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = compose["services"][name]
    options = parsed(monkeypatch, service["command"], service["environment"])
    assert options["nats"] == "nats://nats:4222"
    if name == "replica":
        assert service["deploy"]["replicas"] == 2
        assert options["dsn"] == ["postgresql://dwarf@postgres/dwarf"]
        assert options["drain_ms"] < _seconds(service["stop_grace_period"]) * 1000


@pytest.mark.parametrize("name", OURS)
def test_our_services_need_no_more_than_a_read_only_image(name: str, compose: dict[str, Any]) -> None:
    service = compose["services"][name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert all(volume.endswith(":ro") for volume in service["volumes"])


def test_what_is_mounted_is_there_and_volumes_are_declared(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for source, target, *_ in (volume.split(":") for volume in service.get("volumes", ())):
            assert target.startswith("/"), name
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name} mounts {source}"
            else:
                assert source in compose["volumes"], f"{name} mounts {source}"


def test_whoever_is_waited_for_has_a_check_and_is_there_without_a_profile_too(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert services[other]["healthcheck"]["test"], f"{name} waits for {other}"
            assert set(services[other].get("profiles", ())) <= set(service.get("profiles", ()))


def test_only_what_is_on_loopback_is_published(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_a_check_asks_the_port_its_server_listens_on(compose: dict[str, Any]) -> None:
    services = compose["services"]
    listens = {"nats": services["nats"]["command"][-1], "prometheus": "9090", "grafana": "3000"}
    for name, port in listens.items():
        assert f"127.0.0.1:{port}/" in services[name]["healthcheck"]["test"][-1]


def test_metrics_come_in_by_otlp_and_are_looked_at_where_they_are(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {name for name, one in services.items() if one.get("profiles") == ["observe"]} == {"prometheus", "grafana"}
    assert "--web.enable-otlp-receiver" in services["prometheus"]["command"]
    prometheus = yaml.safe_load((OPERATING / "prometheus" / "prometheus.yml").read_text())
    assert prometheus["otlp"]["translation_strategy"] == "UnderscoreEscapingWithSuffixes"
    provisioning = OPERATING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "dwarf-nats.yml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    assert mounts["./docs/operating/grafana"] == provider["options"]["path"]


def _seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration[:-1])
