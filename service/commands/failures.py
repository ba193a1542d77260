"""Failures that a user can mend: shown as one line."""

from __future__ import annotations


def expected_failures() -> tuple[type[Exception], ...]:
    """The error types whose message is the whole story."""
    return (ValueError, OSError, ModuleNotFoundError, RuntimeError)
