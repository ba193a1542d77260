"""The scripts' twins against the scripts: the same replies and the same bytes, step by step, on a real server."""

from __future__ import annotations

import struct
from importlib.resources import files
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.service.redis_server import GivenServer, RedisServer
from tests.service.simulated_scripts import SCRIPTS, Keys

NAMES = ("dare:{:u}:b", "dare:{:u}:t", "dare:{:u}:m", "dare:{:u}:d", "dare:{:u}:x")
times = st.integers(0, 12)
ttls = st.sampled_from([0, 900_000])


def packed(rows: list[int], first: int) -> bytes:
    return b"".join(struct.pack("<QII", first + place, time, 0) for place, time in enumerate(rows))


@st.composite
def bounds(draw: st.DrawFn) -> tuple[int, ...]:
    """longest, slack, tail_least, tail_most, remembered as the store passes them, much smaller."""
    longest = draw(st.sampled_from([4, 6, 12, 200]))
    least = draw(st.integers(1, 4))
    return longest, draw(st.integers(0, 4)), least, draw(st.integers(least, 4)), draw(st.integers(1, 4))


appends = st.tuples(st.just("append"), st.lists(st.tuples(times, st.none() | st.integers(0, 6)), max_size=9), ttls)
loads = st.tuples(st.just("load"), st.lists(times, max_size=40).map(sorted), st.integers(0, 3), ttls)
reads = st.tuples(st.just("read"), st.booleans(), st.integers(0, 14), st.integers(0, 5), st.integers(0, 9))
others = st.sampled_from([("delete",), ("full", 1), ("full", 0), ("schema",), ("damage", 16), ("damage", 3)])
steps = st.lists(st.one_of(appends, appends, appends, loads, reads, reads, others), max_size=14)


class Both:
    """One user on a server, and on the twin."""

    def __init__(self, server: RedisServer | GivenServer, bounds: tuple[int, ...]) -> None:
        self.client, self.bounds, self.sent = server.client, bounds, 0
        self.client.flushdb()
        self.said = list[tuple[str, str]]()
        self.twin = Keys(time_us=self.epoch, publish=lambda channel, message: self.said.append((channel, message)))
        self.script = {name: self.client.register_script(files("service").joinpath("lua", f"{name}.lua").read_text()) for name in SCRIPTS}

    def epoch(self) -> int:
        """The twin's clock: the epoch that the server made of its own just now. The twin has the same afterwards if it takes a new one when
        the server does."""
        return int(self.client.hget(NAMES[2], "epoch") or 0)

    def run(self, name: str, count: int, *arguments: Any) -> None:
        """Run the script on both and compare all that can be seen."""
        replies, before = [], self.epoch()
        for call in (
            lambda: self.script[name](keys=NAMES[:count], args=arguments),
            lambda: SCRIPTS[name](self.twin, NAMES[:count], arguments),
        ):
            try:
                replies.append(call())
            except redis.ResponseError as error:
                replies.append((type(error), str(error)[:11]))
        assert replies[0] == replies[1], name
        self.compare(before)

    def compare(self, epoch_before: int) -> None:
        """Every key, its content and whether it expires."""
        held = {key.decode() for key in self.client.scan_iter()}
        assert held == set(self.twin.names())
        for name in NAMES[:2]:
            assert self.client.get(name) == self.twin.string.get(name)
        meta = {field.decode(): value for field, value in self.client.hgetall(NAMES[2]).items()}
        twice = self.twin.hash.get(NAMES[2], {}).get("epoch") == str(self.epoch() + 1).encode()
        if twice and self.epoch() != epoch_before:  # late behaviors that led to a trim: two epochs at one instant of the server's clock
            self.twin.hash[NAMES[2]]["epoch"] = meta["epoch"]
        assert meta == self.twin.hash.get(NAMES[2], {})
        assert dict(self.client.zrange(NAMES[3], 0, -1, withscores=True)) == self.twin.ranked.get(NAMES[3], {})
        assert {name for name in held if self.client.pttl(name) > 0} == set(self.twin.expires)

    def step(self, kind: str, *given: Any) -> None:
        """One step of an example."""
        if kind == "append":
            rows, ttl_ms = given
            events = [b"" if event is None else struct.pack("<Q", event) for _, event in rows]
            self.run("append", 5, *self.bounds, ttl_ms, packed([time for time, _ in rows], self.sent), *events)
            self.sent += len(rows)
        elif kind == "load":
            rows, tail, ttl_ms = given
            content = packed(rows, self.sent)
            cut = len(content) - 16 * min(len(rows), 1 + tail)
            self.sent += len(rows)
            self.run("load", 4, ttl_ms, rows[-1] if rows else 0, content[:cut], content[cut:])
        elif kind == "read":
            same, length, again, most = given
            self.run("read", 3, self.epoch() + (not same), length, min(again, length), most)
        elif kind == "delete":
            self.run("delete", 4, "dare:erased", "u")
            assert self.said.pop() == ("dare:erased", "u")
        elif kind == "full":
            self.client.config_set("maxmemory", given[0])
            self.twin.full = bool(given[0])
        elif kind == "schema" and NAMES[2] in self.twin.hash and not self.twin.full:
            self.client.hset(NAMES[2], "schema", "2")
            self.twin.hash[NAMES[2]]["schema"] = b"2"
        elif kind == "damage" and NAMES[1] in self.twin.string and not self.twin.full:
            self.client.append(NAMES[1], b"x" * given[0])
            self.twin.string[NAMES[1]] += b"x" * given[0]


def agree_on(server: RedisServer | GivenServer, bounds: tuple[int, ...], steps: list[tuple[Any, ...]]) -> None:
    both = Both(server, bounds)
    try:
        for step in steps:
            both.step(*step)
    finally:
        server.client.config_set("maxmemory", 0)


def test_the_twins_do_what_the_scripts_do(redis_server: RedisServer | GivenServer) -> None:
    @settings(max_examples=60)
    @given(bounds(), steps)
    def agree(bounds: tuple[int, ...], steps: list[tuple[Any, ...]]) -> None:
        agree_on(redis_server, bounds, steps)

    agree()


@pytest.mark.faults
def test_the_twins_do_what_the_scripts_do_for_long(redis_server: RedisServer | GivenServer) -> None:
    @settings(settings.get_profile("anew"), max_examples=5_000)
    @given(bounds(), st.lists(st.one_of(appends, appends, appends, loads, reads, others), max_size=40))
    def agree(bounds: tuple[int, ...], steps: list[tuple[Any, ...]]) -> None:
        agree_on(redis_server, bounds, steps)

    agree()
