"""The manifest for Kubernetes: what it names exists here, and inside itself."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dwarf_nats.probes import LIVE, READY
from tests.operating.command_lines import OPERATING, parsed


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    """Its objects by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all((OPERATING / "kubernetes.yaml").read_text())}


@pytest.fixture
def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["Deployment"]["spec"]["template"]["spec"]
    return spec


def test_the_replica_is_a_command_line_there_is(pod: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = pod["containers"]
    environment = {one["name"]: one.get("value", "postgresql://dwarf@postgres/dwarf") for one in container["env"]}
    options = parsed(monkeypatch, container["args"], environment)
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(options["graphs"]), str(options["creds"].parent)} == mounts
    assert pod["terminationGracePeriodSeconds"] * 1000 > options["drain_ms"] + 5_000


def test_the_probes_ask_for_pages_there_are_where_the_replica_answers(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    (port,) = container["ports"]
    assert environment["DWARF_HEALTH_PORT"] == str(port["containerPort"])
    assert environment["DWARF_HEALTH_HOST"] == "0.0.0.0"
    for name in ("livenessProbe", "readinessProbe"):
        asked = container[name]["httpGet"]
        assert asked["path"] == (LIVE if name == "livenessProbe" else READY)
        assert asked["port"] == port["name"]


def test_secrets_are_referred_to_and_volumes_are_there(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    (dsn,) = [one for one in container["env"] if one["name"] == "DWARF_DSN"]
    assert "value" not in dsn
    assert dsn["valueFrom"]["secretKeyRef"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_it_runs_as_the_images_user_without_rights(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_its_parts_find_each_other_by_their_labels(manifest: dict[str, Any]) -> None:
    labels = manifest["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifest["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifest["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
