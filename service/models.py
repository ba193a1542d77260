"""Model versions in service: chosen per user, swapped while requests run, refused before they can answer when anything is wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import xxhash

from model.artifact import ArtifactError, activate, current_version, previous_version, versions
from service.errors import Problem, shown
from service.loading import Loader, Served
from service.metrics import Metrics
from service.roles import ROLES, Role, RoleName, role
from service.settings import Settings

_log = logging.getLogger("dare.service")
_SHARES = 2**32


class Models:
    """The versions that answer: the active one that `CURRENT` names, and when set a canary for a share of the users and a shadow that
    only compares.

    Raises: ArtifactError when a version cannot be served at the start.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._changing = asyncio.Lock()
        self._refused: str | None = ""
        self._loader = Loader(settings, metrics)
        self.active = self._loader.at_start(None)
        self._arriving: Served | None = None
        self._role = {name: role(name, settings) for name in ROLES}
        self._refused_role = dict[RoleName, object]()
        self._in_role: dict[RoleName, Served | None] = dict.fromkeys(ROLES)
        for name, wanted in self._role.items():
            self._in_role[name] = None if wanted.version is None else self._held(wanted.version) or self._loader.at_start(wanted.version)
        self._divide_cache()
        metrics.model.labels(self.active.version).set(1)

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
        forgotten = list[Served]()
        # A version that arrives prepares users whom another holds: it is looked for again once that one has let go of the user.
        while left := [served for served in self._loaded() if served not in forgotten]:
            for served in left:
                served.users.forget(user_id)
            forgotten += left

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
                await self._follow_current()
                for name in ROLES:
                    await self._follow_role(name)

    async def _follow_current(self) -> None:
        try:
            version = await asyncio.to_thread(current_version, self._settings.artifacts)
            if version not in (self.active.version, self._refused):
                async with self._arrived(version) as served:
                    await self._serve(served)
        except Exception as error:  # whatever it is, what comes after it is followed
            named = _named_in(self._settings.artifacts)
            if named != self._refused:
                self._metrics.model_changes.labels("refused").inc()
                _log.error("CURRENT is not served, %s stays: %s", self.active.version, error, exc_info=_unforeseen(error))
            self._refused = named

    async def _follow_role(self, name: RoleName) -> None:
        wanted: Role | None = None
        try:
            wanted = await asyncio.to_thread(role, name, self._settings)
            if wanted in (self._role[name], self._refused_role.get(name)):
                return
            if wanted.version is None:
                await self._play(name, wanted, None)
            else:
                async with self._arrived(wanted.version, lambda user_id: _share_of(user_id, name) < wanted.share) as served:
                    await self._play(name, wanted, served)
        except Exception as error:
            refused = wanted or str(error)
            if refused != self._refused_role.get(name):
                self._metrics.model_changes.labels("refused").inc()
                _log.error("%s is not followed, all stays as it was: %s", name.upper(), error, exc_info=_unforeseen(error))
            self._refused_role[name] = refused

    async def _play(self, name: RoleName, wanted: Role, served: Served | None) -> None:
        before, self._in_role[name], self._role[name] = self._in_role[name], served, wanted
        self._refused_role.pop(name, None)
        if before is not None and before not in self._loaded():
            await self._loader.let_go(before)
        self._divide_cache()
        _log.info("%s: %s, share of the users %.3g", name, wanted.version, wanted.share)

    def close(self) -> None:
        """Let go of what loads."""
        self._loader.close()

    def _loaded(self) -> list[Served]:
        """What answers, compares or is about to, the active version first, each once."""
        return list(dict.fromkeys(served for served in (self.active, *self._in_role.values(), self._arriving) if served is not None))

    def _held(self, version: str) -> Served | None:
        """The version, if it is loaded."""
        return next((served for served in self._loaded() if served.version == version), None)

    @asynccontextmanager
    async def _arrived(self, version: str, answers: Callable[[str], bool] | None = None) -> AsyncIterator[Served]:
        """The version, ready for the users for whom it is to answer or compare; None: for all, in the place of the active one.

        Raises: ArtifactError.
        """
        served = self._arriving = self._held(version) or await self._loader.loaded(version)
        try:
            if answers is not None:
                self._divide_cache()
            if served is not self.active:
                await self._loader.take_over(served, self.active, answers or (lambda user_id: True))
            yield served
        finally:
            self._arriving = None
            if served not in self._loaded():
                served.users.retire()
            self._divide_cache()

    def _divide_cache(self) -> None:
        loaded = self._loaded()
        for served in loaded:
            served.users.limit(self._settings.user_cache_bytes // len(loaded))

    async def _activate(self, version: str) -> Served:
        artifacts = self._settings.artifacts
        if version not in await asyncio.to_thread(versions, artifacts):
            raise Problem(404, f"no model version {shown(version)} in the artifacts directory", pointer="/version")
        try:
            async with self._arrived(version) as served:
                if await asyncio.to_thread(_named_in, artifacts) != version:
                    await asyncio.to_thread(activate, artifacts, version)
                await self._serve(served)
                return served
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

    async def _serve(self, served: Served) -> None:
        if served is self.active:
            return
        _log.info("serving %s, before %s", served.version, self.active.version)
        before, self.active, self._refused = self.active, served, ""
        self._metrics.model.labels(before.version).set(0)
        self._metrics.model.labels(served.version).set(1)
        self._metrics.model_changes.labels("served").inc()
        if before not in self._loaded():
            await self._loader.let_go(before)


def _share_of(user_id: str, purpose: str) -> float:
    """Where in [0, 1) the user falls: the same on every worker and after every restart, independent between purposes."""
    return xxhash.xxh3_64_intdigest(f"{purpose}\x1f{user_id}".encode()) % _SHARES / _SHARES


def _unforeseen(error: Exception) -> Exception | None:
    """The error, where its trace belongs into the log: it is none of those that say all in a line."""
    return None if isinstance(error, ArtifactError | OSError | ValueError) else error


def _named_in(artifacts: Path) -> str | None:
    try:
        return current_version(artifacts)
    except ArtifactError:
        return None
