"""What several tests of search share."""

from __future__ import annotations

import pytest

from kernels import native_library


@pytest.fixture(params=["avx2", "avx512", "avx512-vnni"])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Each CPU level that has the filter and that this CPU runs."""
    monkeypatch.setenv(native_library.LEVEL_VARIABLE, request.param)
    name, reason = native_library.level()
    if name is None:
        pytest.skip(reason)
    return native_library.LEVELS[name]
