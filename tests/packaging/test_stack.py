"""The image is built and the stack is run: scored through, killed, restarted, stopped. Needs a Docker engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Tiny

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parents[2]
BASES = ("python:3.11-bookworm", "python:3.11-slim-bookworm", "redis:7-bookworm")
PATIENCE_S = 90.0


def ran(*command: str, timeout_s: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=timeout_s, check=False)


def must(*command: str, **environment: str) -> str:
    done = ran(*command, **environment)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def compose() -> tuple[str, ...]:
    """The command of a working engine's compose; skips, saying why, where there is none."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    answer = ran("docker", "version", "--format", "{{.Server.Version}}", timeout_s=30)
    if answer.returncode:
        pytest.skip(f"no Docker engine answers: {answer.stderr.strip()}")
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]) and ran(*command, "version").returncode == 0:
            break
    else:
        pytest.skip("neither docker compose nor docker-compose is installed")
    for image in BASES:
        if ran("docker", "image", "inspect", image).returncode and (pulled := ran("docker", "pull", image)).returncode:
            pytest.skip(f"base image {image} is neither here nor can it be pulled: {pulled.stderr.strip()[-200:]}")
    return command


class Stack:
    """A running stack of its own name, with the small world's model."""

    def __init__(self, compose: tuple[str, ...], artifacts: Path) -> None:
        name = f"dare-test-{uuid.uuid4().hex[:8]}"
        self.tag = f"dare-serving:{name}"
        self._compose = (*compose, "--project-name", name)
        self._environment = {"TAG": name, "PORT": "0", "ARTIFACTS": str(artifacts)}
        # Values of the environment reach the build only where they are set: an index of the machine's own.
        indexes = [part for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") for part in ("--build-arg", name)]
        must("docker", "build", "--network", "host", "--tag", self.tag, *indexes, ".")
        self.compose("up", "--detach", "--no-build")

    def compose(self, *arguments: str) -> str:
        return must(*self._compose, *arguments, **self._environment)

    def inside(self, code: str) -> str:
        """What Python code prints inside the container."""
        return self.compose("exec", "-T", "dare", "python", "-c", code)

    def state(self, what: str) -> str:
        return must("docker", "inspect", "--format", f"{{{{{what}}}}}", self.compose("ps", "--quiet", "dare").strip()).strip()

    def until(self, restarts: int = 0, degraded: bool = False) -> str:
        """The service's URL once it is ready after so many restarts by the engine, with or without its store."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                # The engine may publish another port after a restart.
                url = f"http://{self.compose('port', 'dare', '8000').strip()}"
                if int(self.state(".RestartCount")) == restarts:
                    ready = httpx.get(f"{url}/readyz", timeout=5)
                    if ready.status_code == 200 and ready.json()["degraded"] is degraded:
                        return url
            except (httpx.HTTPError, AssertionError) as error:
                last: object = error
            else:
                last = "not yet restarted or not ready"
            assert time.monotonic() < deadline, f"not ready within {PATIENCE_S} s: {last}\n{self.compose('logs')[-2000:]}"

    def remove(self) -> None:
        self.compose("down", "--volumes", "--timeout", "1")
        must("docker", "image", "rm", "--force", self.tag)


@pytest.fixture(scope="module")
def stack(compose: tuple[str, ...], tiny: Tiny) -> Iterator[Stack]:
    running = Stack(compose, tiny.artifacts)
    yield running
    running.remove()


def posted(first: int, count: int) -> dict[str, Any]:
    return {
        "behaviors": [
            {"user_id": "anna", "item_id": f"item-{number % 50}", "timestamp": 1_600_000_000 + number, "event_id": f"event-{number}"}
            for number in range(first, first + count)
        ]
    }


def known(url: str) -> int:
    return int(httpx.get(f"{url}/v1/users/anna/behaviors").json()["sequence_length"])


def test_it_serves_without_rights(stack: Stack) -> None:
    url = stack.until()
    answer = httpx.post(f"{url}/v1/score", json={"user_id": "nobody", "candidates": ["item-1", "item-2"]})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["scores"]) == 2
    assert stack.inside("import os; print(os.getuid(), os.getgid())").split() == ["10001", "10001"]
    write = "import pathlib\ntry: pathlib.Path({!r}).write_text('x')\nexcept OSError as error: print(error.strerror)"
    for place in ("/artifacts/x", "/opt/venv/x", "/x"):
        assert "Read-only" in stack.inside(write.format(place)), place
    assert stack.inside(write.format("/tmp/x")) == ""
    status = "print([line.split()[1] for line in open('/proc/self/status') if line.startswith(('CapEff', 'CapBnd', 'NoNewPrivs'))])"
    assert stack.inside(status).strip() == "['0000000000000000', '0000000000000000', '1']"
    found = "import importlib.util; print([n for n in ('torch', 'polars', 'pip', 'locust') if importlib.util.find_spec(n)])"
    assert stack.inside(found).strip() == "[]"


def test_the_engine_finds_it_healthy(stack: Stack) -> None:
    stack.until()
    deadline = time.monotonic() + PATIENCE_S
    while (health := stack.state(".State.Health.Status")) != "healthy":
        assert health == "starting", health
        assert time.monotonic() < deadline


def test_nothing_acknowledged_is_lost_when_it_is_killed(stack: Stack) -> None:
    url = stack.until()
    before, accepted = known(url), 0
    for batch in range(4):
        accepted += int(httpx.post(f"{url}/v1/behaviors", json=posted(batch * 30, 30)).json()["accepted"])
    assert accepted == 120
    # Everything but the init process, which then ends: a crash, after which the engine restarts the container.
    stack.inside("import os; os.kill(-1, 9)")
    url = stack.until(restarts=1)
    assert known(url) == before + 120
    again = httpx.post(f"{url}/v1/behaviors", json=posted(90, 30)).json()
    assert (again["accepted"], again["duplicates"]) == (0, 30), "a retry across the crash is stored once"


def test_nothing_acknowledged_is_lost_when_the_store_is_killed(stack: Stack) -> None:
    restarts = int(stack.state(".RestartCount"))
    url = stack.until(restarts)
    before = known(url)
    accepted = int(httpx.post(f"{url}/v1/behaviors", json=posted(5000, 60)).json()["accepted"])
    assert accepted == 60
    ask = {"user_id": "anna", "candidates": ["item-1"], "timestamp": 1_700_000_000}
    assert httpx.post(f"{url}/v1/score", json=ask).json()["sequence_length"] == before + 60
    store = stack.compose("ps", "--quiet", "store").strip()
    must("docker", "kill", "--signal", "KILL", store)
    stack.until(restarts, degraded=True)
    answer = httpx.post(f"{url}/v1/score", json=ask).json()
    assert answer["degraded_reason"] == "store_unavailable" and answer["sequence_length"] == before + 60
    refused = httpx.post(f"{url}/v1/behaviors", json=posted(5060, 1))
    assert refused.status_code == 503 and "Retry-After" in refused.headers
    stack.compose("start", "store")
    url = stack.until(restarts)
    assert known(url) == before + 60
    again = httpx.post(f"{url}/v1/behaviors", json=posted(5000, 61)).json()
    assert (again["accepted"], again["duplicates"]) == (1, 60)


def test_it_stops_when_asked_and_keeps_its_data(stack: Stack) -> None:
    url = stack.until(restarts=int(stack.state(".RestartCount")))
    stored = known(url) + int(httpx.post(f"{url}/v1/behaviors", json=posted(1000, 20)).json()["accepted"])
    started = time.monotonic()
    stack.compose("stop")
    assert time.monotonic() - started < 12, "SIGTERM was not heard; the engine had to kill it"
    # 143: ended by SIGTERM after the shutdown, 0: returned; 137 would be the engine's SIGKILL.
    assert must(
        "docker", "inspect", "--format", "{{.State.ExitCode}}", stack.compose("ps", "--all", "--quiet", "dare").strip()
    ).strip() in (
        "0",
        "143",
    )
    stack.compose("start")
    assert known(stack.until()) == stored
