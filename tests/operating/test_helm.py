"""The Helm chart: it is clean for helm, and what it renders names commands, options and pages that there are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dwarf_nats.probes import LIVE, METRICS, READY
from dwarf_nats.version import __version__
from tests.operating.command_lines import ROOT, parsed, variables_of

CHART = ROOT / "deploy" / "helm" / "dwarf-nats"
FULL = {
    "graphs": {"order.yaml": "name: order\n"},
    "nats": {"url": "nats://a:4222,nats://b:4222", "credentialsSecret": "nats-creds", "inboxPrefix": "_INBOX.replica"},
    "migrate": {"atStart": False, "ownerSecret": "owner"},
    "metrics": {"podMonitor": True},
    "console": {"enabled": True, "proxies": "10.0.0.7", "credentialsSecret": "nats-creds"},
    "settings": {"WORKERS": 2048, "AUDIT_MS": 31536000000},
    "podAnnotations": {"a": "b"},
    "tolerations": [{"operator": "Exists"}],
}


def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


def helm(*arguments: str) -> str:
    """What helm prints. Without helm, the test is skipped with a loud word."""
    program = shutil.which("helm")
    if program is None:
        pytest.skip("NO HELM: install helm 3 to have the chart linted and rendered")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=["defaults", "full"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The objects of a release by kind and name."""
    chosen = tmp_path / "values.yaml"
    chosen.write_text(yaml.safe_dump(FULL if request.param == "full" else {}))
    helm("lint", "--strict", str(CHART), "--values", str(chosen))
    text = helm("template", "shop", str(CHART), "--values", str(chosen), "--kube-version", "1.30.0")
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text) if one}


def environment(container: dict[str, Any]) -> dict[str, str | None]:
    return {one["name"]: one.get("value", "postgresql://dwarf@postgres/dwarf") for one in container["env"]}


def test_the_versions_are_those_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    assert chart["version"] == __version__


def test_its_settings_are_settings_of_serve_and_its_end_has_time_to_drain() -> None:
    settings = values()["settings"]
    assert {f"DWARF_{name}" for name in settings} <= variables_of("serve")
    assert values()["terminationGracePeriodSeconds"] * 1000 > int(settings["DRAIN_MS"]) + 5_000


def test_every_value_is_used() -> None:
    text = "".join(one.read_text() for one in (CHART / "templates").iterdir())
    for name, value in values().items():
        inner = (
            value if isinstance(value, dict) and name not in ("graphs", "resources", "settings", "nodeSelector") else {}
        )
        for key in [f"{name}.{one}" for one in inner] or [name]:
            if key not in ("affinity", "podAnnotations", "podLabels"):
                assert f".Values.{key}" in text, key


def test_what_it_renders_is_a_command_line_there_is(
    objects: dict[tuple[str, str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for (kind, _), one in objects.items():
        if kind in ("Deployment", "Job"):
            pod = one["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            options = parsed(monkeypatch, container["args"], environment(container))
            assert pod["securityContext"]["runAsNonRoot"]
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert {mount["name"] for mount in container.get("volumeMounts", ())} == {
                volume["name"] for volume in pod.get("volumes", ())
            }
            if container["name"] == "replica":
                assert options["metrics"]
                assert (options["health_port"], options["health_host"]) == (8080, "0.0.0.0")


def test_its_parts_find_each_other(objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    replicas = objects["Deployment", "shop"]
    labels = replicas["spec"]["template"]["metadata"]["labels"]
    (container,) = replicas["spec"]["template"]["spec"]["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == LIVE
    assert container["readinessProbe"]["httpGet"]["path"] == READY
    assert objects["PodDisruptionBudget", "shop"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    monitor = objects.get(("PodMonitor", "shop"))
    if monitor is not None:
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        (place,) = monitor["spec"]["podMetricsEndpoints"]
        assert (place["path"], place["port"]) == (METRICS, container["ports"][0]["name"])
        console = objects["Deployment", "shop-console"]["spec"]["template"]["metadata"]["labels"]
        assert objects["Service", "shop-console"]["spec"]["selector"].items() <= console.items()
        assert not (objects["Service", "shop-console"]["spec"]["selector"].items() <= labels.items())
