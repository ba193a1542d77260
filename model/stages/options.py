"""Checks of the options of stages: what cannot be is refused by name before anything is built."""

from __future__ import annotations


def integer(name: str, value: object, least: int, most: int) -> None:
    """Raises: ValueError naming an option that is not an integer in `least`..`most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be an integer in {least}..{most}, got {value!r}")


def at_least_one(config: object, *names: str) -> None:
    """Raises: ValueError naming an option that is not an integer from 1 on."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")
