"""Made-up users and requests for a model: items drawn by its own popularity, times within the year before its newest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.artifact import Artifact
from model.popularity import DAYS
from service.file_store import FileStore

_SPAN_S = 300 * 86_400
_UNSEEN = 0.05
"""Behaviors that an item which was never taken is given."""


@dataclass(frozen=True)
class Drawn:
    """A model's items and how often each was taken, to draw from. `now` the newest time it knows, unix seconds."""

    version: str
    now: int
    item_id: list[str]
    item_hash: npt.NDArray[np.uint64]
    share: npt.NDArray[np.float64]

    @classmethod
    def of(cls, artifacts: Path) -> Drawn:
        """What the current version of `artifacts` knows. Raises: ArtifactError."""
        artifact = Artifact(artifacts)
        ids, start = artifact.array("item_id"), artifact.array("item_id_start")
        item_id = [bytes(ids[start[i] : start[i + 1]]).decode() for i in range(len(start) - 1)]
        key, taken = artifact.array("popularity_key"), artifact.array("popularity_count")
        # The count of an item's last day is that of all its days.
        last = np.append(key[1:] // DAYS != key[:-1] // DAYS, True)[: len(key)]
        share = np.full(len(item_id), _UNSEEN)
        share[key[last] // DAYS] += taken[last]
        return cls(artifact.version, int(artifact.config["as_of"]), item_id, artifact.array("item_hash"), share / share.sum())

    def histories(self, rng: np.random.Generator, users: int, length: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """Item hashes u64 and times i64 [users, length], oldest first."""
        time = np.sort(rng.integers(self.now - _SPAN_S, self.now, (users, length)), axis=1)
        return self.item_hash[rng.choice(len(self.item_id), (users, length), p=self.share)], time

    def bodies(self, rng: np.random.Generator, users: list[str], candidates: int, count: int) -> list[bytes]:
        """`count` requests for the users in turn."""
        chosen = rng.choice(len(self.item_id), (count, candidates), p=self.share)
        return [
            json.dumps({"user_id": users[i % len(users)], "candidates": [self.item_id[j] for j in row], "timestamp": self.now}).encode()
            for i, row in enumerate(chosen.tolist())
        ]


def fill(folder: Path, users: list[str], item_hash: npt.NDArray[np.uint64], timestamp: npt.NDArray[np.int64]) -> str:
    """Fill a file store in `folder`; returns what `--store` calls it."""
    store = FileStore(folder)
    for user, items, times in zip(users, item_hash, timestamp, strict=True):
        store.load(user, items, times)
    store.close()
    return f"file:{folder}"
