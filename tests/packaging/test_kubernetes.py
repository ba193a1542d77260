"""The manifest that docs/operations.md shows fits the image, the settings, the routes and the metrics that there are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from service.app import create_app
from service.cli import app as commands
from service.listening import server_options
from service.memory_store import MemoryStore
from service.metrics import Metrics
from service.settings import Settings
from tests.conftest import Tiny

ROOT = Path(__file__).parents[2]
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_BESIDE_CACHES = 350_000_000
"""Bytes of a process without users, of the one that verifies, and of the demo's tables twice (docs/operations.md)."""


@pytest.fixture(scope="module")
def manifest() -> dict[str, dict[str, Any]]:
    """The documents by kind."""
    text = (ROOT / "docs/operations.md").read_text().split("### In Kubernetes")[1]
    found = re.search(r"```yaml\n(.*?)^```", text, re.M | re.S)
    assert found
    return {document["kind"]: document for document in yaml.safe_load_all(found[1])}


@pytest.fixture(scope="module")
def pod(manifest: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["Deployment"]["spec"]["template"]["spec"]
    return spec


def given(pod: dict[str, Any]) -> Settings:
    """The settings of the pod's environment. Raises: ValueError."""
    (container,) = pod["containers"]
    return Settings(**{entry["name"].removeprefix("DARE_").lower(): entry["value"] for entry in container["env"]})


def test_the_documents_name_each_other(manifest: dict[str, dict[str, Any]], pod: dict[str, Any]) -> None:
    assert {kind: document["apiVersion"] for kind, document in manifest.items()} == {
        "Deployment": "apps/v1",
        "Service": "v1",
        "PodDisruptionBudget": "policy/v1",
        "HorizontalPodAutoscaler": "autoscaling/v2",
    }
    deployment = manifest["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert manifest["Service"]["spec"]["selector"] == labels
    assert manifest["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert manifest["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    (container,) = pod["containers"]
    assert manifest["Service"]["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_pod_may_do_no_more_than_the_image_needs(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    user, rights = pod["securityContext"], container["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}" in dockerfile and user["runAsNonRoot"] is True
    assert user["seccompProfile"] == {"type": "RuntimeDefault"} and pod["automountServiceAccountToken"] is False
    assert rights == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["/tmp"], "metrics of several workers, and nothing else, are written"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert container["image"] == f"dare-serving:{version}"


def test_the_command_and_the_settings_exist(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    name, *rest = container["args"]
    command = typer.main.get_command(commands).commands[name]  # type: ignore[attr-defined]
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    known = {option: parameter for parameter in command.params for option in parameter.opts}
    assert set(options) <= set(known)
    assert int(options["--port"]) == container["ports"][0]["containerPort"]
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    settings = given(pod)
    assert options["--artifacts"] in mounted and str(settings.api_keys and settings.api_keys.parent) in mounted
    assert all(entry["name"].startswith("DARE_") for entry in container["env"])
    assert pod["enableServiceLinks"] is False, "a service named dare would set DARE_PORT to a URL in every pod"


def test_probes_ask_what_answers(pod: dict[str, Any], tiny: Tiny) -> None:
    (container,) = pod["containers"]
    asked = {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")}
    assert {name: get["path"] for name, get in asked.items()} == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    routes = {
        getattr(route, "path", "") for route in create_app(Settings(artifacts=tiny.artifacts, development=True), MemoryStore()).routes
    }
    assert {get["path"] for get in asked.values()} <= routes
    assert {get["port"] for get in asked.values()} == {container["ports"][0]["name"]}


def test_there_is_time_to_leave_and_memory_to_stay(pod: dict[str, Any]) -> None:
    (container,), settings = pod["containers"], given(pod)
    metrics = Metrics()
    finishing_s = server_options(settings, metrics, gate=None)["timeout_graceful_shutdown"]  # type: ignore[arg-type]
    assert pod["terminationGracePeriodSeconds"] >= settings.drain_s + finishing_s + 5
    probe = container["readinessProbe"]
    assert settings.drain_s >= probe["periodSeconds"] * probe["failureThreshold"], "not ready is seen before it no longer listens"
    limit = container["resources"]["limits"]["memory"]
    caches = 2 * settings.user_cache_bytes + settings.store_cache_bytes
    assert int(limit[:-2]) * _UNITS[limit[-2:]] >= 1.25 * caches + _BESIDE_CACHES
    assert container["resources"]["requests"]["memory"] == limit
    assert "cpu" not in container["resources"]["limits"]
    assert container["resources"]["requests"]["cpu"] == str(settings.inference_threads)


def test_it_scales_by_metrics_that_there_are(manifest: dict[str, dict[str, Any]]) -> None:
    metrics = Metrics()
    for gauge in (metrics.in_flight, metrics.waiting):
        gauge.labels("score").set(1)
    shown = metrics.text().decode()
    for metric in manifest["HorizontalPodAutoscaler"]["spec"]["metrics"]:
        named = metric["pods"]["metric"]
        ((label, value),) = named["selector"]["matchLabels"].items()
        assert f'{named["name"]}{{{label}="{value}"}}' in shown
