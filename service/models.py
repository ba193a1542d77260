"""Model versions in service: chosen per user, swapped while requests run, refused before they can answer when anything is wrong."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from model.artifact import ArtifactError, activate, current_version, previous_version, versions
from model.runtime import ScoringRuntime
from service.errors import Problem, shown
from service.metrics import Metrics
from service.pace import Pace
from service.roles import ROLES, Role, RoleName, role
from service.settings import Settings
from service.threads import Threads
from service.user_cache import UserCache

_log = logging.getLogger("dare.service")
_WARM_LENGTH, _WARM_CANDIDATES, _WARM_ROUNDS = 1000, 500, 3
_SHARES = 2**32


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A loaded version with the users prepared for it. A request takes one and keeps it to its end, so no answer mixes versions; the
    version leaves memory with the last request that holds it."""

    runtime: ScoringRuntime
    users: UserCache
    pace: Pace

    @property
    def version(self) -> str:
        """The model version."""
        return self.runtime.version


class Models:
    """The versions that answer: the active one that `CURRENT` names, and when set a canary for a share of the users and a shadow that
    only compares.

    Raises: ArtifactError when a version cannot be served at the start.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._changing = asyncio.Lock()
        self._refused: str | None = ""
        self.active = self._load(None)
        self._role = {name: role(name, settings) for name in ROLES}
        self._refused_role = dict[RoleName, object]()
        self._in_role: dict[RoleName, Served | None] = dict.fromkeys(ROLES)
        for name, wanted in self._role.items():
            self._in_role[name] = None if wanted.version is None else self._in_service(wanted.version)
        self._divide_cache()
        metrics.model.labels(self.active.version).set(1)
        # Loading takes a core for a third of a second; at half of the capacity and beyond, requests would be refused for it.
        self._loading = Threads(1, "load", gives_way=True)

    @property
    def canary(self) -> Served | None:
        """The version that answers for a share of the users."""
        return self._in_role["canary"]

    @property
    def shadow(self) -> Served | None:
        """The version that only compares."""
        return self._in_role["shadow"]

    def choose(self, user_id: str | None, version: str | None, active: Served | None = None) -> Served:
        """What answers a request of this user (None: no stored user).

        Args: `active` the version that was active when a batch began, so that all of it is answered alike.
        Raises: Problem 409 when `version` is not served.
        """
        active, canary = active or self.active, self.canary
        if version is not None:
            for served in (active, canary):
                if served is not None and served.version == version:
                    return served
            raise Problem(409, f"model_version {shown(version)} is not served; {active.version} is", pointer="/model_version")
        if canary is not None and user_id is not None and _share_of(user_id, "canary") < self._role["canary"].share:
            return canary
        return active

    def shadow_of(self, user_id: str) -> Served | None:
        """The version that this user's scores are compared with, None for none."""
        if self.shadow is None or _share_of(user_id, "shadow") >= self._role["shadow"].share:
            return None
        return self.shadow

    def forget(self, user_id: str) -> None:
        """Drop what is held about the user under every version."""
        for served in self._loaded():
            served.users.forget(user_id)

    def listed(self) -> list[tuple[str, list[str]]]:
        """(version, its roles) of every version in the artifacts directory, oldest first."""
        roles = {"active": self.active, "canary": self.canary, "shadow": self.shadow}
        return [
            (version, [role for role, served in roles.items() if served is not None and served.version == version])
            for version in versions(self._settings.artifacts)
        ]

    @property
    def name(self) -> str:
        """The model's name in the Open Inference Protocol: `dare` unless the active artifact says otherwise."""
        return str(self.active.runtime.config.get("name", "dare"))

    def answering(self) -> list[Served]:
        """What answers, the active version first."""
        return [self.active] if self.canary in (None, self.active) else [self.active, self.canary]

    def served_versions(self) -> list[str]:
        """Versions that answer, the active one first."""
        return [served.version for served in self.answering()]

    def previous(self) -> str | None:
        """The version that `rollback` would bring back."""
        version = previous_version(self._settings.artifacts)
        return None if version == self.active.version else version

    async def activate(self, version: str) -> Served:
        """Verify, load and warm the version, point `CURRENT` to it, and answer with it from now on.

        Raises: Problem 404 when it does not exist, 409 when it is refused or `CURRENT` cannot be written; the old one serves on.
        """
        async with self._changing:
            return await self._activate(version)

    async def rollback(self) -> Served:
        """Activate the version that was current before. Raises: Problem as `activate`, 409 when there is none."""
        async with self._changing:
            version = await asyncio.to_thread(self.previous)
            if version is None:
                raise Problem(409, f"no version was current before {self.active.version}", kind="no-previous-model")
            return await self._activate(version)

    async def follow(self) -> None:
        """Serve what `CURRENT`, `CANARY` and `SHADOW` name whenever they are moved: by training, a worker, an operator. Never returns.

        What is refused is logged once and tried again when the file says something else.
        """
        while True:
            await asyncio.sleep(self._settings.follow_current_s)
            async with self._changing:
                try:
                    version = await asyncio.to_thread(current_version, self._settings.artifacts)
                    if version not in (self.active.version, self._refused):
                        self._serve(await self._in_background(version))
                except (ArtifactError, OSError) as error:
                    named = _named_in(self._settings.artifacts)
                    if named != self._refused:
                        self._metrics.model_changes.labels("refused").inc()
                        _log.error("CURRENT is not served, %s stays: %s", self.active.version, error)
                    self._refused = named
                for name in ROLES:
                    await self._follow_role(name)

    async def _follow_role(self, name: RoleName) -> None:
        wanted: Role | None = None
        try:
            wanted = await asyncio.to_thread(role, name, self._settings)
            if wanted in (self._role[name], self._refused_role.get(name)):
                return
            served = None if wanted.version is None else await self._in_background(wanted.version)
        except (ArtifactError, OSError, ValueError) as error:
            refused = wanted or str(error)
            if refused != self._refused_role.get(name):
                self._metrics.model_changes.labels("refused").inc()
                _log.error("%s is not followed, all stays as it was: %s", name.upper(), error)
            self._refused_role[name] = refused
            return
        before, self._in_role[name], self._role[name] = self._in_role[name], served, wanted
        self._refused_role.pop(name, None)
        if before is not None and before not in self._loaded():
            before.users.retire()
        self._divide_cache()
        _log.info("%s: %s, share of the users %.3g", name, wanted.version, wanted.share)

    def close(self) -> None:
        """Let go of the thread that loads."""
        self._loading.close()

    def _loaded(self) -> list[Served]:
        """What answers or compares, the active version first, each once."""
        return list(dict.fromkeys(served for served in (self.active, *self._in_role.values()) if served is not None))

    async def _in_background(self, version: str) -> Served:
        return await self._loading.run(lambda: self._in_service(version))

    def _in_service(self, version: str) -> Served:
        """The version, loaded now unless it is already. Raises: ArtifactError."""
        return next((served for served in self._loaded() if served.version == version), None) or self._load(version)

    def _divide_cache(self) -> None:
        loaded = self._loaded()
        for served in loaded:
            served.users.limit(self._settings.user_cache_bytes // len(loaded))

    async def _activate(self, version: str) -> Served:
        artifacts = self._settings.artifacts
        if version not in await asyncio.to_thread(versions, artifacts):
            raise Problem(404, f"no model version {shown(version)} in the artifacts directory", pointer="/version")
        try:
            served = await self._in_background(version)
            if await asyncio.to_thread(_named_in, artifacts) != version:
                await asyncio.to_thread(activate, artifacts, version)
        except ArtifactError as error:
            self._metrics.model_changes.labels("refused").inc()
            _log.error("version %s is refused, %s stays: %s", version, self.active.version, error)
            raise Problem(409, f"version {version} is refused: {error}", kind="model-refused") from None
        except OSError as error:
            raise Problem(
                409,
                f"CURRENT cannot be written: {error.strerror}; move it where the artifacts are made, it is followed",
                kind="artifacts-read-only",
            ) from None
        self._serve(served)
        return served

    def _serve(self, served: Served) -> None:
        if served is self.active:
            return
        _log.info("serving %s, before %s", served.version, self.active.version)
        before, self.active, self._refused = self.active, served, ""
        if before not in self._loaded():
            before.users.retire()
        self._divide_cache()
        self._metrics.model.labels(before.version).set(0)
        self._metrics.model.labels(served.version).set(1)
        self._metrics.model_changes.labels("served").inc()

    def _load(self, version: str | None) -> Served:
        settings = self._settings
        started = time.perf_counter()
        runtime = ScoringRuntime.load(
            settings.artifacts,
            version,
            search=settings.search_backend,
            ranking=settings.ranking_backend,
        )
        pace = Pace()
        warm_up(runtime, pace)
        _log.info("loaded %s in %.2f s", runtime.version, time.perf_counter() - started)
        return Served(runtime, UserCache(runtime, settings.user_cache_bytes, self._metrics), pace)


def warm_up(runtime: ScoringRuntime, pace: Pace) -> None:
    """Score a made-up user until nothing is left to be done for the first time, and note what it costs.

    Raises: ArtifactError when the scores are not finite.
    """
    known = runtime.catalogue.item_hash
    item_hash = np.resize(known, _WARM_LENGTH) if len(known) else np.zeros(_WARM_LENGTH, np.uint64)
    timestamp = np.arange(runtime.as_of - _WARM_LENGTH, runtime.as_of, dtype=np.int64)
    for _ in range(_WARM_ROUNDS):
        started = time.perf_counter()
        state = runtime.prepare(item_hash, timestamp)
        prepare_ms = (time.perf_counter() - started) * 1e3
        scored = runtime.score(state, item_hash[:_WARM_CANDIDATES], runtime.as_of)
        if not np.isfinite(scored.click_probability_N).all():
            raise ArtifactError(f"{runtime.version}: the scores of a made-up user are not finite")
    # The first rounds paid for what is done once; the last one is what a request costs.
    pace.prepared(_WARM_LENGTH, prepare_ms)
    pace.scored(_WARM_LENGTH, _WARM_CANDIDATES, scored.search_ms, scored.rank_ms)


def _share_of(user_id: str, purpose: str) -> float:
    """Where in [0, 1) the user falls: the same on every worker and after every restart, independent between purposes."""
    return xxhash.xxh3_64_intdigest(f"{purpose}\x1f{user_id}".encode()) % _SHARES / _SHARES


def _named_in(artifacts: Path) -> str | None:
    try:
        return current_version(artifacts)
    except ArtifactError:
        return None
