"""Who calls: API keys with scopes, tenants and quotas. Only hashes of keys are configured; without keys only this machine may call."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request

from service.errors import Problem
from service.settings import Settings

Scope = Literal["score", "behaviors", "admin"]
_ALL: tuple[Scope, ...] = ("score", "behaviors", "admin")
_SEPARATOR = "\x1f"
"""Between tenant and user id in the store; no id holds a control character, so no tenant reaches another's users."""


class Key(Struct, forbid_unknown_fields=True, frozen=True):
    """One entry of the key file. `sha256` of the key, hex; `requests_per_s` and `burst` are its quota, null for none."""

    name: Annotated[str, Meta(pattern=r"^[\w.-]{1,64}$")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]
    tenant: Annotated[str, Meta(pattern=r"^[a-z0-9_-]{0,64}$")] = ""
    requests_per_s: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 10


class KeyFile(Struct, forbid_unknown_fields=True):
    """What `DARE_API_KEYS` names."""

    keys: Annotated[list[Key], Meta(min_length=1)]


class Quota:
    """A token bucket: `burst` requests at once, `per_s` in the long run.

    Args: `clock` monotonic seconds.
    """

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._left, self._at = float(burst), clock()

    def take(self, count: int) -> float:
        """Take `count` requests; returns 0.0, or the seconds after which they would be granted (nothing is taken then)."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        # More than the burst holds is granted from a full bucket, at the price of a debt.
        if self._left < min(count, self._burst):
            return (min(count, self._burst) - self._left) / self._per_s
        self._left -= count
        return 0.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever holds a key. `quota` is None for no limit."""

    name: str
    tenant: str
    scopes: frozenset[str]
    quota: Quota | None

    def user(self, user_id: str) -> str:
        """The caller's user as the store knows it."""
        return f"{self.tenant}{_SEPARATOR}{user_id}" if self.tenant else user_id

    def own(self, stored: str) -> str | None:
        """The reverse of `user`; None for another tenant's user."""
        tenant, separator, user_id = stored.rpartition(_SEPARATOR)
        return user_id if tenant == self.tenant and bool(separator) == bool(tenant) else None

    def charge(self, count: int) -> None:
        """Count requests against the quota. Raises: Problem 429."""
        wait_s = 0.0 if self.quota is None else self.quota.take(count)
        if wait_s > 0:
            detail = f"key {self.name!r} is over its quota"
            raise Problem(429, detail, retry_after_s=math.ceil(wait_s), kind="over-quota")


class Callers:
    """Everybody who may call.

    Raises: ValueError for a key file that cannot be used, and for no keys unless `development` is set and only this machine can call.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._caller: list[tuple[bytes, Key, Caller]] = []
        self._anybody: Caller | None = None
        if settings.api_keys is not None:
            self.reload()
            return
        address = settings.published_address or settings.host
        if not settings.development:
            raise ValueError(
                "no API keys: name a key file in DARE_API_KEYS, or set DARE_DEVELOPMENT=true to answer everybody on this machine"
            )
        if not _loopback(address):
            raise ValueError(f"no API keys: DARE_DEVELOPMENT is for loopback addresses alone, and this is {address}; name a key file")
        self._anybody = Caller("anybody", "", frozenset(_ALL), None)

    def reload(self) -> None:
        """Read the key file again: a key that left it is unknown from now on, one that is as before keeps what is left of its quota.

        Raises: ValueError for a file that cannot be used; what was read before stays.
        """
        if self._settings.api_keys is None:
            return
        known = {key: caller for _, key, caller in self._caller}
        self._caller = [(bytes.fromhex(key.sha256), key, known.get(key) or self._made(key)) for key in _read(self._settings.api_keys)]

    def _made(self, key: Key) -> Caller:
        # Each worker process counts on its own.
        quota = None if key.requests_per_s is None else Quota(key.requests_per_s / self._settings.workers, key.burst)
        return Caller(key.name, key.tenant, frozenset(key.scopes), quota)

    def caller(self, request: Request, scope: Scope) -> Caller:
        """Who calls, checked to have the scope and counted against the quota. Raises: Problem 401, 403, 429."""
        if self._anybody is not None:
            _refuse_other_sites(request)
            return self._anybody
        caller = self._known(request.headers.get("authorization", ""))
        if scope not in caller.scopes:
            raise Problem(403, f"key {caller.name!r} lacks the scope {scope!r}")
        caller.charge(1)
        return caller

    def _known(self, authorization: str) -> Caller:
        kind, _, key = authorization.partition(" ")
        if kind.lower() != "bearer" or not key:
            raise Problem(401, "send a key: Authorization: Bearer KEY")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        # Every entry is compared, each in constant time: the time taken tells nothing about the keys.
        for known, _, caller in self._caller:
            if hmac.compare_digest(digest, known):
                found = caller
        if found is None:
            raise Problem(401, "the key is not known")
        return found


def _read(path: Path) -> list[Key]:
    try:
        keys = msgspec.json.decode(path.read_bytes(), type=KeyFile).keys
    except OSError as error:
        raise ValueError(f"DARE_API_KEYS: {path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"DARE_API_KEYS: {path}: {error}") from None
    for field in ("name", "sha256"):
        values = [getattr(key, field) for key in keys]
        if len(set(values)) < len(values):
            raise ValueError(f"DARE_API_KEYS: {path}: two keys have the same {field}")
    return keys


def _refuse_other_sites(request: Request) -> None:
    """Without keys, a page of another site open in a browser here must not reach the service, nor by a name of its own for this address."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    if origin is not None and urlsplit(origin).netloc != host:
        raise Problem(403, "requests of other sites need a key")
    if not _is_near(host):
        raise Problem(403, f"requests for {host} need a key: without one the service answers to addresses and to names without a dot")


@lru_cache(64)
def _is_near(host: str) -> bool:
    """Whether no site elsewhere can be meant by this `Host`: an address, or a name without a dot, as localhost and containers have."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return "." not in name or name.endswith(".localhost") or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
