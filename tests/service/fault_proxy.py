"""A TCP proxy between a store and its server that misbehaves on purpose: late, dripping, cut or swallowed replies, resets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a piece of a reply: held back `delay_s`; only the first `keep` of its bytes are passed on (None: all), one every
    `drip_s`; then `end`: "" goes on, "close", "reset" (RST) or "silence" (nothing more ever comes)."""

    delay_s: float = 0.0
    keep: float | None = None
    drip_s: float = 0.0
    end: str = ""


NONE = Fault()


class FaultProxy:
    """Listens on `port` and forwards to `upstream`; `fault` is asked for each piece of a reply, after the request has been delivered.

    Runs in a thread of its own. Args: `upstream` port on this machine.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.fault: Callable[[], Fault] = lambda: NONE
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._tasks = set[asyncio.Task[None]]()
        self._server = self._now(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """What a store is opened with."""
        return f"redis://127.0.0.1:{self.port}/0"

    def close(self) -> None:
        """Cut every connection and end."""
        self._now(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _now(self, work):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _end(self) -> None:
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        to_server = None
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.upstream)
            requests = asyncio.create_task(_forward(from_client, to_server))
            replies = asyncio.create_task(self._reply(from_server, to_client))
            try:
                await asyncio.wait({requests, replies}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for side in (requests, replies):
                    side.cancel()
                await asyncio.gather(requests, replies, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for writer in (to_client, to_server):
                if writer is not None:
                    writer.close()

    async def _reply(self, from_server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while content := await from_server.read(_CHUNK):
            fault = self.fault()
            await asyncio.sleep(fault.delay_s)
            kept = content if fault.keep is None else content[: int(len(content) * fault.keep)]
            if fault.drip_s:
                for byte in kept:
                    to_client.write(bytes([byte]))
                    await asyncio.sleep(fault.drip_s)
            else:
                to_client.write(kept)
            await to_client.drain()
            if fault.end == "reset":
                connection = to_client.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                to_client.transport.abort()
            if fault.end == "silence":
                await asyncio.Event().wait()
            if fault.end:
                return


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while content := await reader.read(_CHUNK):
            writer.write(content)
            await writer.drain()
