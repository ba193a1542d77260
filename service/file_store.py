"""The in-process store with an append-only log on disk: a killed process loses no acknowledged behavior.

The log is a sequence of frames: u32 length of the payload, u32 CRC-32 of the payload, u32 CRC-32 of those eight bytes (all little-endian),
then the payload (msgpack). The header's own checksum tells a torn last write from a damaged length. An append is acknowledged after its
frame is written; the file is synced every second, so a power cut may cost the last second.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from service.behavior_store import I64, U64, NewBehavior, StoreError, StoreFull
from service.memory_store import MemoryStore

_FRAME = struct.Struct("<III")
_COMPACT_FRAMES = 20_000
_SYNC_S = 1.0
_log = logging.getLogger("dare.store")


class FileStore(MemoryStore):
    """Replays `DIR/behaviors.log` at start and appends to it.

    Raises: StoreError when another process holds the directory, or the log is damaged before its end; StoreFull from an append that the
    disk refuses.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / "behaviors.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = (folder / "lock").open("w")
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(f"{folder}: cannot be used as a store: {error.strerror}") from error
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            self._lock_file.close()
            raise StoreError(f"{folder}: another process uses this store; the file store allows one") from None
        self._end = 0
        frames = self._replay()
        if frames > _COMPACT_FRAMES:
            self._compact()
        self._unsynced = False
        self._stop = threading.Event()
        self._syncer = threading.Thread(target=self._sync_each_second, name="store-sync", daemon=True)
        self._syncer.start()

    def close(self) -> None:
        """Sync, release the directory."""
        self._stop.set()
        self._syncer.join()
        with self._lock:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._lock_file.close()

    def _write(self, behaviors: Sequence[NewBehavior]) -> None:
        if behaviors:
            self._append_frame(["a", [[b.user_id, b.item_hash, b.timestamp, b.event_hash] for b in behaviors]])

    def _write_load(self, user_id: str, item_hash: U64, timestamp: I64) -> None:
        self._append_frame(["l", user_id, item_hash.astype("<u8").tobytes(), timestamp.astype("<i8").tobytes(), []])

    def _write_delete(self, user_id: str) -> None:
        # Erasing means erasing: the whole log is rewritten without the user before the deletion is acknowledged.
        self._compact()

    def _append_frame(self, payload: list[Any]) -> None:
        content = msgspec.msgpack.encode(payload)
        frame = _framed(content)
        try:
            written = 0
            while written < len(frame):
                written += os.pwrite(self._descriptor, frame[written:], self._end + written)
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            raise StoreFull(f"the behavior log cannot be written: {error.strerror}") from error
        self._end += len(frame)
        self._unsynced = True

    def _replay(self) -> int:
        content = self._path.read_bytes()
        frames = 0
        while self._end < len(content):
            payload = self._frame_at(content, self._end)
            if payload is None:
                break
            self._apply_frame(msgspec.msgpack.decode(payload))
            self._end += _FRAME.size + len(payload)
            frames += 1
        if self._end < len(content):
            _log.warning(
                "%s: the last %d bytes are a torn write that was never acknowledged; removed", self._path, len(content) - self._end
            )
            os.ftruncate(self._descriptor, self._end)
        return frames

    def _frame_at(self, content: bytes, start: int) -> bytes | None:
        """Payload of the frame at `start`; None for a torn frame at the end of the file."""
        if start + _FRAME.size > len(content):
            return None
        size, checksum, header_checksum = _FRAME.unpack_from(content, start)
        sound = zlib.crc32(content[start : start + 8]) == header_checksum
        payload = content[start + _FRAME.size : start + _FRAME.size + size]
        if sound and len(payload) == size and zlib.crc32(payload) == checksum:
            return payload
        if sound and start + _FRAME.size + size >= len(content):
            return None
        raise StoreError(f"{self._path}: damaged at byte {start} of {len(content)}: checksum mismatch; restore a backup")

    def _apply_frame(self, payload: list[Any]) -> None:
        if payload[0] == "a":
            for user_id, item_hash, timestamp, event_hash in payload[1]:
                self._apply(NewBehavior(user_id, item_hash, timestamp, event_hash))
        elif payload[0] == "l":
            _, user_id, item_hash, timestamp, events = payload
            self._apply_load(user_id, np.frombuffer(item_hash, "<u8"), np.frombuffer(timestamp, "<i8"))
            self._user[user_id].event.update(dict.fromkeys(events))
        else:
            raise StoreError(f"{self._path}: unknown frame {payload[0]!r}; written by a newer version?")

    def _compact(self) -> None:
        """Rewrite the log as one frame per user, atomically. The caller holds the lock or is alone."""
        partial = self._path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                for user_id, user in self._user.items():
                    rows = slice(0, user.length)
                    item_hash, timestamp = user.item_hash[rows].astype("<u8").tobytes(), user.timestamp[rows].astype("<i8").tobytes()
                    content = msgspec.msgpack.encode(["l", user_id, item_hash, timestamp, list(user.event)])
                    file.write(_framed(content))
                file.flush()
                os.fsync(file.fileno())
                end = file.tell()
            descriptor = os.open(partial, os.O_RDWR)
            partial.replace(self._path)
        except OSError as error:
            raise StoreFull(f"the behavior log cannot be rewritten: {error.strerror}") from error
        os.close(self._descriptor)
        self._descriptor, self._end = descriptor, end

    def _sync_each_second(self) -> None:
        while not self._stop.wait(_SYNC_S):
            with self._lock:
                if not self._unsynced:
                    continue
                self._unsynced = False
                descriptor = os.dup(self._descriptor)
            try:
                os.fsync(descriptor)
            except OSError as error:
                _log.error("%s: sync failed: %s", self._path, error.strerror)
            finally:
                os.close(descriptor)


def _framed(content: bytes) -> bytes:
    header = struct.pack("<II", len(content), zlib.crc32(content))
    return header + struct.pack("<I", zlib.crc32(header)) + content
