"""Who besides the active version scores: `CANARY` and `SHADOW` in the artifacts directory, moved while the service runs as `CURRENT` is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from service.settings import Settings

RoleName = Literal["canary", "shadow"]
ROLES: tuple[RoleName, ...] = ("canary", "shadow")


@dataclass(frozen=True, slots=True)
class Role:
    """A model version and the share of the users that it has the role for; no version: nobody has the role."""

    version: str | None
    share: float


def role(name: RoleName, settings: Settings) -> Role:
    """What the file `CANARY` or `SHADOW` says, `VERSION SHARE` or `none`; where there is no file, what the settings say.

    Raises: ValueError naming the file and what it says.
    """
    file = settings.artifacts / name.upper()
    try:
        said = file.read_text().split()
    except FileNotFoundError:
        return _set(name, settings)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if said == ["none"]:
        return Role(None, 0.0)
    if len(said) != 2 or not re.fullmatch(r"[01]|0?\.\d+|1\.0+", said[1]):
        raise ValueError(f"{file} must hold a version and the share of the users, 0 to 1, or none, got {' '.join(said)[:200]!r}")
    return Role(said[0], float(said[1]))


def _set(name: RoleName, settings: Settings) -> Role:
    if name == "canary":
        return Role(settings.canary_version, settings.canary_share)
    return Role(settings.shadow_version, settings.shadow_share)
