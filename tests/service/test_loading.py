"""A version comes into service beside requests: verified by another process, in steps with rests, with its users prepared ahead."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from model.artifact import ArtifactError, fingerprint
from model.runtime import ScoringRuntime
from service.behavior_store import NewBehavior
from service.loading import Loader
from service.memory_store import MemoryStore
from service.metrics import Metrics
from service.models import Models
from service.settings import Settings
from service.user_cache import UserCache
from service.verifier import Verifier
from tests.conftest import Tiny
from tests.patience import PATIENCE_S, until
from tests.service.model_versions import rewrite, with_versions


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of Python's, for processes started from now on; to be written."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return program


def test_what_was_found_sound_is_not_verified_twice_until_it_is_changed(tiny: Tiny, tmp_path: Path) -> None:
    old, new = with_versions(tiny, tmp_path / "a", 1.0)
    verifier = Verifier(tmp_path / "a")
    sound = verifier.verified(new)
    assert sound == fingerprint(tmp_path / "a", new)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "executable", str(tmp_path / "nowhere"))
        assert verifier.verified(new) == sound
        with pytest.raises(ArtifactError, match=f"{old}: not verified, no process can be started: No such file"):
            verifier.verified(old)
    (tmp_path / "a" / new / "head_w1.npy").write_bytes(b"other")
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"head_w1\.npy: differs from its checksum"):
            verifier.verified(new)


def test_of_many_versions_the_newest_are_remembered(tiny: Tiny, tmp_path: Path, pretended: Path) -> None:
    names = with_versions(tiny, tmp_path / "a", *range(17))
    verifier = Verifier(tmp_path / "a")
    for name in names[:16]:
        verifier.remember(name, fingerprint(tmp_path / "a", name))
    assert verifier.verified(names[0])
    verifier.remember(names[16], fingerprint(tmp_path / "a", names[16]))
    assert verifier.verified(names[0]) and verifier.verified(names[16])
    with pytest.raises(ArtifactError, match=f"{names[1]}: the process that verifies it ended with status 1"):
        verifier.verified(names[1])


def test_the_process_gives_way_and_ends_with_the_service(tiny: Tiny, pretended: Path) -> None:
    verifier = Verifier(tiny.artifacts)
    pretended.write_text('#!/bin/sh\nwhile [ "$(nice)" -lt 10 ]; do :; done\nnice\n')
    assert int(verifier.verified(tiny.version)) >= 10
    pretended.write_text("#!/bin/sh\nexec sleep 600\n")
    with ThreadPoolExecutor(1) as thread:
        verifying = thread.submit(verifier.verified, tiny.version)
        until(lambda: verifier._process is not None)
        verifier.close()
        with pytest.raises(ArtifactError, match="ended with status -9"):
            verifying.result(PATIENCE_S)
    with pytest.raises(ArtifactError, match="the service stops"):
        verifier.verified(tiny.version)


class Waits(threading.Event):
    """Notes for how long it was waited on, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_s = list[float]()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.asked_s.append(timeout)
        return self.is_set()


def test_a_version_is_loaded_in_steps_with_rests_between_them_but_not_at_the_start(tiny: Tiny) -> None:
    loader = Loader(Settings(artifacts=tiny.artifacts), Metrics())
    loader._closed = waits = Waits()
    loader.at_start(None)
    assert waits.asked_s == []
    asyncio.run(loader.loaded(tiny.version))
    assert len(waits.asked_s) == 7, "after each part of loading, and after each round of warming up"
    assert all(0 < asked_s <= 0.5 for asked_s in waits.asked_s)
    loader.close()


def test_letting_go_rests_now_and_then_but_not_for_long(tiny: Tiny, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.user_cache._AT_A_TIME", 1)
    loader = Loader(Settings(artifacts=tiny.artifacts), Metrics())
    served = loader.at_start(None)
    held(served.users, store, *"abcd")
    loader._closed = waits = Waits()
    monkeypatch.setattr("service.loading._REST", 1e9)
    asyncio.run(loader.let_go(served))
    assert waits.asked_s == [0.5, 0.5, 0.0, 0.0] and served.users.state_bytes() == 0
    loader.close()


def test_the_layout_is_checked_where_the_rest_is_and_needs_no_kernels(tiny: Tiny, tmp_path: Path) -> None:
    _, new = with_versions(tiny, tmp_path / "a", 1.0)
    rewrite(tmp_path / "a" / new, "head_b3", np.zeros(2, np.float32))
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"head_b3\.npy: must be float32 \[1\], is float32 \[2\]"):
            Verifier(tmp_path / "a").verified(new)
    needs = "import sys, model.verification; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", needs], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in imported and "kernels" not in imported


def test_a_version_that_the_settings_do_not_fit_is_refused_as_a_damaged_one_is(tiny: Tiny) -> None:
    loader = Loader(Settings(artifacts=tiny.artifacts, ranking_backend="nonsense"), Metrics())
    with pytest.raises(ArtifactError, match=f"{tiny.version}: ranking backend must be auto or one of .*'nonsense'"):
        asyncio.run(loader.loaded(tiny.version))
    loader.close()


def held(cache: UserCache, store: MemoryStore, *users: str) -> None:
    for user in users:
        cache.state(user, store.read(user), len(store.read(user)), cache.erasures())


@pytest.fixture
def store(tiny: Tiny) -> MemoryStore:
    """Users a to d with 20 behaviors each."""
    store, item = MemoryStore(), np.load(tiny.artifacts / tiny.version / "item_hash.npy")
    store.append([NewBehavior(user, int(item[place]), 1000 + place, None) for user in "abcd" for place in range(20)])
    return store


def test_users_are_prepared_ahead_to_leave_first(tiny: Tiny, store: MemoryStore) -> None:
    runtime, metrics = ScoringRuntime.load(tiny.artifacts), Metrics()
    before, after = UserCache(runtime, 2**30, metrics), UserCache(runtime, 2**30, metrics)
    held(before, store, *"abcd")
    held(after, store, "d")
    assert before.last_used_first(21) == [] and before.last_used_first(20) == list("dcba")
    size = after.state_bytes()
    after.limit(3 * size)
    assert [after.take_over(user, before) for user in "dcba"] == [True, True, True, False], "no room for a fourth"
    assert after.take_over("nobody", before)
    assert after.last_used_first(0) == ["d", "c", "b"]
    state = after.state("c", store.read("c"), 20, after.erasures())
    samples = metrics.user_cache.collect()[0].samples
    counted = {sample.labels["outcome"]: sample.value for sample in samples if sample.name.endswith("_total")}
    assert counted == {"prepared": 5, "ahead": 2, "hit": 1}
    np.testing.assert_array_equal(state.item_hash_L, store.read("c").item_hash)


class Broken:
    """The state of a user who cannot be prepared."""

    nbytes = 0

    def __init__(self, length: int) -> None:
        self.length = length


class Interrupted(UserCache):
    """A cache in whose preparations, or at the end of whose forgetting, something else happens."""

    def __init__(self, runtime: ScoringRuntime) -> None:
        super().__init__(runtime, 2**30, Metrics())
        self.then = lambda: None

    def forget(self, user_id: str) -> None:
        super().forget(user_id)
        self.then()


class Interrupting(ScoringRuntime):
    """A runtime in whose preparations something else happens."""

    def prepare(self, *history: np.ndarray):  # type: ignore[no-untyped-def]
        self.then()  # type: ignore[attr-defined]
        return super().prepare(*history)


def test_who_is_erased_while_prepared_ahead_does_not_come_back(tiny: Tiny, store: MemoryStore) -> None:
    runtime = Interrupting.load(tiny.artifacts)
    assert isinstance(runtime, Interrupting)
    runtime.then = lambda: None  # type: ignore[attr-defined]
    before, after = UserCache(runtime, 2**30, Metrics()), UserCache(runtime, 2**30, Metrics())
    held(before, store, "a")
    runtime.then = lambda: (before.forget("a"), after.forget("a"))  # type: ignore[attr-defined]
    assert after.take_over("a", before)
    assert after.last_used_first(0) == [] and after.state_bytes() == 0
    assert after.take_over("a", before), "nobody there"
    assert after.last_used_first(0) == []


def test_a_version_that_arrives_while_a_user_is_erased_forgets_too(tiny: Tiny, tmp_path: Path, store: MemoryStore) -> None:
    _, new = with_versions(tiny, tmp_path / "a", 1.0)
    models = Models(Settings(artifacts=tmp_path / "a"), Metrics())
    arriving = models._loader.at_start(new)
    before = Interrupted(models.active.runtime)
    object.__setattr__(models.active, "users", before)
    held(before, store, "a")

    def arrives() -> None:
        held(arriving.users, store, "a")
        models._arriving = arriving

    before.then = arrives
    models.forget("a")
    assert arriving.users.state_bytes() == 0
    models.close()


def test_the_users_of_the_version_before_are_prepared_before_the_new_one_answers(
    tiny: Tiny, tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.loading._LONG", 20)
    old, new = with_versions(tiny, tmp_path / "a", 1.0)
    metrics = Metrics()
    models = Models(Settings(artifacts=tmp_path / "a"), metrics)
    held(models.active.users, store, "a", "b")
    asyncio.run(models.activate(new))
    assert models.active.version == new and models.active.users.last_used_first(0) == ["b", "a"]
    asyncio.run(models.rollback())
    assert models.active.version == old and models.active.users.last_used_first(0) == ["b", "a"]
    assert re.search(r'dare_user_cache_total\{outcome="ahead"\} 4.0', metrics.text().decode())
    models.close()
    assert models.active.users.state_bytes() == int(metrics.user_cache_bytes.collect()[0].samples[0].value), "of the version before nothing"


def test_a_canary_and_a_shadow_get_the_users_of_their_share(
    tiny: Tiny, tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.loading._LONG", 20)
    _, new, other = with_versions(tiny, tmp_path / "a", 1.0, 2.0)
    models = Models(Settings(artifacts=tmp_path / "a"), Metrics())
    users = [f"user-{number}" for number in range(40)]
    store.append([NewBehavior(user, 1, 1000 + place, None) for user in users for place in range(20)])
    held(models.active.users, store, *users)
    (tmp_path / "a" / "CANARY").write_text(f"{new} 0.5\n")
    (tmp_path / "a" / "SHADOW").write_text(f"{other} 0.25\n")
    asyncio.run(models._follow_role("canary"))
    asyncio.run(models._follow_role("shadow"))
    canary, shadow = models.canary, models.shadow
    assert canary is not None and shadow is not None
    asked = [user for user in users if models.choose(user, None) is canary]
    compared = [user for user in users if models.shadow_of(user) is shadow]
    assert 10 < len(asked) < 30 and 3 < len(compared) < 20
    assert sorted(canary.users.last_used_first(0)) == sorted(asked)
    assert sorted(shadow.users.last_used_first(0)) == sorted(compared)
    models.close()


def test_a_failure_that_nobody_foresaw_does_not_end_the_following(
    tiny: Tiny, tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.loading._LONG", 20)
    old, new, other = with_versions(tiny, tmp_path / "a", 1.0, 2.0)
    models = Models(Settings(artifacts=tmp_path / "a"), Metrics())
    held(models.active.users, store, "a")
    epoch, end, state = models.active.users._held["a"]
    models.active.users._held["a"] = (epoch, end, Broken(state.length))  # type: ignore[assignment]
    for file in ("CURRENT", "CANARY"):
        (tmp_path / "a" / file).write_text(f"{new} 1\n" if file == "CANARY" else f"{new}\n")
    asyncio.run(models._follow_current())
    asyncio.run(models._follow_role("canary"))
    assert models.active.version == old and models.canary is None
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True, True]
    models.active.users.forget("a")
    (tmp_path / "a" / "CURRENT").write_text(f"{other}\n")
    asyncio.run(models._follow_current())
    assert models.active.version == other
    models.close()
