"""Model versions verified by processes of their own, and which of them were found sound."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path

import model
from model.artifact import ArtifactError, fingerprint
from model.verification import REFUSED

_log = logging.getLogger("dare.service")
_ROOT = Path(model.__file__).resolve().parents[1]
_NICENESS = 10
"""Of the process: about a tenth of what a process of the usual priority gets where both want the same core."""
_REMEMBERED = 16
"""Versions: going back and forth between some of them reads none of their files twice."""


class Verifier:
    """Verifies versions below `artifacts`, used by one thread at a time; `close` from any.

    Reading and searching all of a version in a thread takes the interpreter from requests again and again, and for long where the thread
    has a low priority and holds it while it waits for a processor (docs/adr/0018).
    """

    def __init__(self, artifacts: Path) -> None:
        self._artifacts = artifacts.resolve()
        self._sound: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def verified(self, version: str) -> str:
        """The fingerprint of the version, all of which is sound, for `ScoringRuntime.load`. A version whose files are those that were found
        sound before costs a look at their times. Raises: ArtifactError.
        """
        if self._sound.get(version) != fingerprint(self._artifacts, version):
            self._sound.pop(version, None)
            self.remember(version, self._by_process(version))
        self._sound.move_to_end(version)
        return self._sound[version]

    def remember(self, version: str, sound: str) -> None:
        """The version was verified by other means; `sound` its fingerprint before that."""
        self._sound[version] = sound
        while len(self._sound) > _REMEMBERED:
            self._sound.popitem(last=False)

    def close(self) -> None:
        """End what runs; verify nothing any more."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def _by_process(self, version: str) -> str:
        process = self._started(version)
        try:
            said, complaint = process.communicate()
        finally:
            with self._lock:
                self._process = None
        if process.returncode == 0:
            return said.removesuffix("\n")
        if process.returncode == REFUSED and said:
            raise ArtifactError(said.removesuffix("\n"))
        _log.error("the process that verifies %s ended with status %s: %s", version, process.returncode, complaint)
        raise ArtifactError(f"{self._artifacts / version}: the process that verifies it ended with status {process.returncode}")

    def _started(self, version: str) -> subprocess.Popen[str]:
        with self._lock:
            if self._closed:
                raise ArtifactError(f"{self._artifacts / version}: not verified, the service stops")
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "model.verification", str(self._artifacts), version],
                    cwd=_ROOT,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    process_group=0,  # what a terminal sends to the service is not meant for it
                )
            except OSError as error:
                raise ArtifactError(f"{self._artifacts / version}: not verified, no process can be started: {error.strerror}") from None
        os.setpriority(os.PRIO_PROCESS, self._process.pid, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
        return self._process
