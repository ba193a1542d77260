"""What the container files promise: fixed versions, hashes, no root, nothing writable but the data volume."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continuation lines joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def final_stage() -> list[tuple[str, str]]:
    found = instructions()
    start = max(place for place, (name, _) in enumerate(found) if name == "FROM")
    return found[start:]


def compose_service(name: str = "dare") -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][name]
    return service


def pins(name: str) -> dict[str, str]:
    """Package -> version and marker of a requirements file."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    found = (re.match(r"([a-z0-9][a-z0-9.-]*)(?:\[[a-z]+\])?==(\S+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def test_the_dockerfile_has_only_known_instructions() -> None:
    known = {
        "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"
    }  # fmt: skip
    assert {name for name, _ in instructions()} <= known, "ADD fetches from anywhere; MAINTAINER and others are obsolete"


def test_base_images_are_build_arguments_with_fixed_versions() -> None:
    arguments = dict(value.split("=", 1) for name, value in instructions() if name == "ARG" and "=" in value)
    assert arguments["BASE_BUILD"] == "python:3.11-bookworm"
    assert arguments["BASE"] == "python:3.11-slim-bookworm"
    assert [value.split()[0] for name, value in instructions() if name == "FROM"] == ["${BASE_BUILD}", "${BASE}"]
    images = [arguments["BASE_BUILD"], arguments["BASE"], compose_service()["image"].replace("${TAG:-", "").rstrip("}")]
    for image in images:
        _, _, tag = image.partition(":")
        assert tag and "latest" not in tag, f"{image} names no fixed version"


def test_the_image_does_not_run_as_root() -> None:
    users = [value for name, value in final_stage() if name == "USER"]
    assert users == ["10001:10001"], "a number, so that an orchestrator can verify it"
    names = [name for name, _ in final_stage()]
    assert names.index("USER") > names.index("RUN"), "nothing is set up by the service's own user"
    assert names.index("USER") < names.index("CMD")


def test_only_the_virtual_environment_leaves_the_build_stage() -> None:
    assert [value for name, value in final_stage() if name == "COPY"] == ["--from=build /opt/venv /opt/venv"]
    assert "--without-pip /opt/venv" in str(instructions())


def test_packages_are_installed_by_hash() -> None:
    installs = [
        part for name, value in instructions() if name == "RUN" for part in value.split("&&") if " install " in part and "pip" in part
    ]
    assert len(installs) == 3
    for install in installs:
        assert "--require-hashes" in install or ("--no-deps" in install and "--no-index" in install), install


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_serving_requirements_are_hashed_and_agree_with_the_lock(extra: str) -> None:
    file = f"serve-{extra}.txt"
    text = (ROOT / "requirements" / file).read_text()
    for block in re.split(r"\n(?=[a-z0-9])", text)[1:]:
        assert "--hash=sha256:" in block, f"{block.splitlines()[0]} has no hash"
    locked = pins("lock.txt")
    for package, version in pins(file).items():
        assert locked.get(package, version) == version, f"{package}: {file} and lock.txt disagree; compile both again"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    assert {re.split(r"[>=<\[]", wanted)[0] for wanted in extras} <= set(pins(file))


def test_the_cpu_image_has_neither_torch_nor_training() -> None:
    assert not {"torch", "polars", "lightgbm", "scikit-learn", "locust", "pytest"} & set(pins("serve-cpu.txt"))


def test_the_build_context_is_a_list_of_what_is_needed() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "what is not listed stays out"
    allowed = [line[1:].rstrip("/") for line in lines if line.startswith("!")]
    for needed in ("pyproject.toml", "requirements/build.txt", "requirements/serve-cpu.txt", "kernels", "model", "service"):
        assert any(fnmatch(needed, pattern) for pattern in allowed), f"{needed} does not reach the build"
    for unwanted in (".git", ".venv", "data", "artifacts", "tests", ".env"):
        assert not any(fnmatch(unwanted, pattern) for pattern in allowed), f"{unwanted} reaches the build"


def test_the_command_serves_and_is_checked_by_readyz() -> None:
    stage = dict(final_stage())
    assert stage["ENTRYPOINT"] == '["dare"]'
    command = ["serve", "--artifacts", "/artifacts", "--store", "file:/data", "--host", "0.0.0.0", "--port", "8000"]
    assert yaml.safe_load(stage["CMD"]) == command
    assert stage["EXPOSE"] == "8000"
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert "http://127.0.0.1:8000/readyz" in stage["HEALTHCHECK"]
    assert "http://127.0.0.1:8000/readyz" in compose_service()["healthcheck"]["test"][-1]


def test_nothing_phones_home() -> None:
    """onnxruntime's Linux builds upload usage events unless this is set before it is imported."""
    assert "ORT_DISABLE_TELEMETRY=1" in dict(final_stage())["ENV"].split()


def test_compose_takes_every_right_away_that_the_service_does_not_need() -> None:
    service = compose_service()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert not any("docker.sock" in volume for volume in service["volumes"])
    (artifacts,) = service["volumes"]
    assert artifacts.endswith(":/artifacts:ro")
    assert all(port.startswith("${ADDRESS:-127.0.0.1}:") for port in service["ports"]), "callers need no key here"
    assert service["environment"]["DARE_PUBLISHED_ADDRESS"] == "${ADDRESS:-127.0.0.1}"


def test_compose_keeps_behaviors_in_a_store_that_survives_and_nobody_else_reaches() -> None:
    command = compose_service()["command"]
    assert command[command.index("--store") + 1] == "redis://store:6379/0"
    assert compose_service()["depends_on"] == ["store"]
    store = compose_service("store")
    options = dict(zip(store["command"][1::2], store["command"][2::2], strict=True))
    assert options["--appendonly"] == "yes" and options["--maxmemory-policy"] == "noeviction" and options["--dir"] == "/data"
    assert options["--appendfsync"].startswith("${REDIS_APPENDFSYNC:-") and options["--maxmemory"].startswith("${REDIS_MAXMEMORY:-")
    assert store["volumes"] == ["behaviors:/data"]
    assert "ports" not in store and store["read_only"] is True and store["cap_drop"] == ["ALL"]
    assert set(store["cap_add"]) == {"CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"}
    assert store["security_opt"] == ["no-new-privileges:true"]
    assert store["image"] == "${REDIS_IMAGE:-redis:7-bookworm}"


def test_compose_is_of_format_3_8_with_a_named_volume_and_every_setting_reaches_the_service() -> None:
    content = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert content["version"] == "3.8"
    assert set(content) == {"version", "services", "volumes"}
    assert list(content["volumes"]) == ["behaviors"]
    from service.settings import Settings

    # Only here callers may go without keys; the service checks the address that the port is published on.
    given = {"DARE_DEVELOPMENT": "${DARE_DEVELOPMENT:-true}", "DARE_PUBLISHED_ADDRESS": "${ADDRESS:-127.0.0.1}"}
    command = compose_service()["command"]
    argued = {f"DARE_{option.removeprefix('--').upper()}" for option in command if option.startswith("--")}
    passed = {f"DARE_{name.upper()}": None for name in Settings.model_fields} | given
    assert compose_service()["environment"] == {name: value for name, value in passed.items() if name not in argued}


def test_compose_waits_longer_than_the_service_drains() -> None:
    drained = re.search(r'"timeout_graceful_shutdown": (\d+)', (ROOT / "service/listening.py").read_text())
    assert drained is not None
    assert int(compose_service()["stop_grace_period"].rstrip("s")) > int(drained[1])
