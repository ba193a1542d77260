"""What a running service can be asked about: users, their newest times, real item ids. Obtained over HTTP before the load starts."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DAY_S = 86_400
_ITEMS_PER_CANDIDATE = 20
_BEHAVIORS_PER_USER = 1000
_RECOMMENDED_PER_USER = 500
_RECOMMENDING_USERS = 20


class SurveyError(RuntimeError):
    """The service cannot be reached, or knows nothing that a load could be made of; the message says which."""


@dataclass(frozen=True)
class Population:
    """Users and items of a running service.

    `newest` is the unix time of each user's newest behavior; a user without behaviors has the newest time of all users.
    """

    user_ids: tuple[str, ...]
    newest: dict[str, int]
    item_ids: tuple[str, ...]


def survey(url: str, users: int, candidates: int, user_file: Path | None = None, timeout_s: float = 30.0) -> Population:
    """Ask the service at `url` for at most `users` users, and for items until requests of `candidates` have enough to draw from.

    Args: `user_file` one user id per line, instead of the users that the service's console lists.
    Raises: SurveyError; ValueError for `users` below 1.
    """
    if users < 1:
        raise ValueError(f"users must be at least 1, got {users}")
    service = _Service(url.rstrip("/"), timeout_s)
    user_ids = (service.listed_users() if user_file is None else _users_of(user_file))[:users]
    if not user_ids:
        raise SurveyError(f"{url}: no user to ask for; fill the behavior store, or give a file of user ids")
    enough_items = _ITEMS_PER_CANDIDATE * candidates
    newest: dict[str, int] = {}
    items: dict[str, None] = {}
    for user_id in user_ids:
        wanted = 1 if len(items) >= enough_items else _BEHAVIORS_PER_USER
        behaviors = service.behaviors(user_id, wanted)
        if behaviors:
            newest[user_id] = int(behaviors[0]["timestamp"])
        items.update(dict.fromkeys(b["item_id"] for b in behaviors if b["item_id"] is not None))
    if not newest:
        raise SurveyError(f"{url}: none of the {len(user_ids)} users asked for has a behavior, so there is no time to score at")
    latest = max(newest.values())
    for user_id in user_ids[:_RECOMMENDING_USERS]:
        if len(items) >= enough_items:
            break
        items.update(dict.fromkeys(service.recommended(user_id, newest.get(user_id, latest) + DAY_S)))
    if not items:
        raise SurveyError(f"{url}: the service names no item that its model knows; do its behaviors belong to its model?")
    return Population(tuple(user_ids), {user_id: newest.get(user_id, latest) for user_id in user_ids}, tuple(items))


class _Service:
    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s

    def listed_users(self) -> list[str]:
        return [user["user_id"] for user in self._ask("/console/users")]

    def behaviors(self, user_id: str, limit: int) -> Sequence[dict[str, Any]]:
        """The user's newest behaviors, newest first."""
        path = f"/v1/users/{urllib.parse.quote(user_id, safe='')}/behaviors?limit={limit}"
        behaviors: list[dict[str, Any]] = self._ask(path)["behaviors"]
        return behaviors

    def recommended(self, user_id: str, timestamp: int) -> list[str]:
        wanted = {"user_id": user_id, "limit": _RECOMMENDED_PER_USER, "timestamp": timestamp}
        return [item["item_id"] for item in self._ask("/v1/recommend", wanted)["items"]]

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, content, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                shown = error.read(300).decode("utf-8", "replace")
            raise SurveyError(f"{self._url}{path}: answered {error.code}: {shown}") from error
        except (OSError, ValueError) as error:
            raise SurveyError(f"{self._url}{path}: {error}") from error


def _users_of(file: Path) -> list[str]:
    try:
        lines = file.read_text("utf-8").splitlines()
    except OSError as error:
        raise SurveyError(f"{file}: {error.strerror}") from error
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))
