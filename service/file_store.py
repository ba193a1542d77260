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
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from service.behavior_store import I64, MAX_LENGTH, U64, NewBehavior, StoreError, StoreFull
from service.memory_store import MemoryStore

_FRAME = struct.Struct("<III")
_COMPACT_FRAMES = 20_000
_SYNC_S = 1.0
_log = logging.getLogger("dare.store")


class FileStore(MemoryStore):
    """Replays `DIR/behaviors.log` at start and appends to it.

    Args: `folder` of this store alone, made when absent; `max_length` newest behaviors kept of one user.
    Raises: StoreError when another process holds the directory, or the log is damaged before its end; StoreFull from an append that the
    disk refuses.
    """

    def __init__(self, folder: Path, max_length: int = MAX_LENGTH) -> None:
        super().__init__(max_length)
        self._path = folder / "behaviors.log"
        self._end = 0
        self._torn = False
        with ExitStack() as opened:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._lock_file = opened.enter_context((folder / "lock").open("w"))
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            except BlockingIOError:
                raise StoreError(f"{folder}: another process uses this store; the file store allows one") from None
            except OSError as error:
                raise StoreError(f"{folder}: cannot be used as a store: {error.strerror}") from error
            opened.callback(lambda: os.close(self._descriptor))
            _sync_folder(folder)
            frames = self._replay()
            if frames > _COMPACT_FRAMES:
                self._try_to_compact()
            opened.pop_all()
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
            if self._torn:
                os.ftruncate(self._descriptor, self._end)
            self._torn, written = True, 0
            while written < len(frame):
                written += os.pwrite(self._descriptor, frame[written:], self._end + written)
        except OSError as error:
            # What was written of the refused frame is cut off before the next one, or by the next start as a torn write.
            raise StoreFull(f"the behavior log cannot be written: {error.strerror}") from error
        self._torn = False
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
        """Payload of the frame at `start`; None for a torn frame at the end of the file. Raises: StoreError for damage before it."""
        if start + _FRAME.size > len(content):
            return None
        size, checksum, header_checksum = _FRAME.unpack_from(content, start)
        if size == 0 and not any(content[start:]):
            return None  # a power cut can leave a file that grew but whose last blocks were never written
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

    def _try_to_compact(self) -> None:
        try:
            self._compact()
        except StoreFull as error:
            _log.warning("%s: started without compacting the log: %s", self._path, error)

    def _compact(self) -> None:
        """Rewrite the log as one frame per user, atomically. The caller holds the lock or is alone."""
        partial = self._path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                for user_id, user in self._user.items():
                    held = user.view(self._max_length)
                    item_hash, timestamp = held.item_hash.astype("<u8").tobytes(), held.timestamp.astype("<i8").tobytes()
                    content = msgspec.msgpack.encode(["l", user_id, item_hash, timestamp, list(user.event)])
                    file.write(_framed(content))
                file.flush()
                os.fsync(file.fileno())
                end = file.tell()
            descriptor = os.open(partial, os.O_RDWR)
            try:
                partial.replace(self._path)
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise StoreFull(f"the behavior log cannot be rewritten: {error.strerror}") from error
        os.close(self._descriptor)
        self._descriptor, self._end, self._torn = descriptor, end, False
        # Without this a power cut could bring the old file back, and with it an erased user.
        _sync_folder(self._path.parent)

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
                self._unsynced = True
                _log.error("%s: sync failed, tried again in %.0f s: %s", self._path, _SYNC_S, error.strerror)
            finally:
                os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _framed(content: bytes) -> bytes:
    header = struct.pack("<II", len(content), zlib.crc32(content))
    return header + struct.pack("<I", zlib.crc32(header)) + content
