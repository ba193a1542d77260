"""The world behind synthetic data: topics hidden inside categories, complements, half-lives; and one user's life in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
FIRST_SECOND = 1_500_000_000
_WORLD, _LIFE = 0, 1
_WITHIN_S = (20, 60)
"""Seconds between behaviors of one burst; at least two, so that a target's time lies between two behaviors."""


@dataclass(frozen=True, slots=True)
class SyntheticConfig:
    """Size and nature of a synthetic world.

    `users` of `length` behaviors each over `items` items. `items_per_topic`, `topics_per_category` (1: a category is a topic).
    A user's life is a row of bursts (geometric, `burst` behaviors at the mean), each on one topic: with `noise_share` any topic, else one
    of the `held` topics the user holds then; each held topic is replaced by another every `drift` behaviors at the mean.
    `half_lives`: behaviors after which relevance has halved, one drawn per topic (inf: never); it never falls below the share `floor`.
    `complement`: affinity to behaviors of the target topic's complement (0: none).
    `moments` of a user at which `candidates` items each are offered; with `held_share` an item of a topic held then, else any.
    `slope` of the log odds of a label over standardised log(1 + relevance); 0: labels are noise.
    """

    users: int = 1500
    length: int = 2000
    items: int = 3600
    seed: int = 0
    items_per_topic: int = 15
    topics_per_category: int = 6
    held: int = 8
    noise_share: float = 0.5
    burst: float = 10.0
    drift: float = 3000.0
    half_lives: tuple[float, ...] = (90.0, 300.0, 900.0)
    floor: float = 0.1
    complement: float = 0.6
    moments: int = 40
    candidates: int = 5
    held_share: float = 0.1
    slope: float = 2.25

    def __post_init__(self) -> None:
        for name in ("users", "items_per_topic", "topics_per_category", "held", "moments", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if self.length < 10:
            raise ValueError(f"length must be at least 10, got {self.length!r}")
        if self.moments > self.length - self.first_moment:
            raise ValueError(
                f"moments must be at most {self.length - self.first_moment} for a length of {self.length}, got {self.moments!r}"
            )
        if self.items <= 2 * self.items_per_topic:
            raise ValueError(f"items must be more than {2 * self.items_per_topic}, three topics, got {self.items!r}")
        for name in ("noise_share", "floor", "complement", "held_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)!r}")
        for name in ("burst", "drift"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if not self.half_lives or not all(half > 0 for half in self.half_lives):
            raise ValueError(f"half_lives must be positive numbers, got {self.half_lives!r}")
        if not (math.isfinite(self.slope) and self.slope >= 0):
            raise ValueError(f"slope must be 0 or more, got {self.slope!r}")

    @property
    def first_moment(self) -> int:
        """Behaviors before a user's first possible target: a fifth of the history."""
        return self.length // 5

    @property
    def topics(self) -> int:
        """Number of topics; the last may hold fewer items."""
        return -(-self.items // self.items_per_topic)


@dataclass(frozen=True, slots=True)
class World:
    """T topics over I items.

    `category` i32 [T]; `complement` i32 [T], the topic whose behaviors count for targets of this one: one-way, each topic is the complement
    of exactly one other; `half_life` f64 [T]; `item_id` i32 [I], the public id of item i, whose topic is i // items_per_topic. Ids tell
    nothing about topics.
    """

    config: SyntheticConfig
    category: I32
    complement: I32
    half_life: F64
    item_id: I32
    popularity: F64

    @classmethod
    def make(cls, config: SyntheticConfig) -> World:
        """The world of a seed: the same for any number of users and any length."""
        rng = np.random.default_rng([config.seed, _WORLD])
        topics = config.topics
        ring = rng.permutation(topics).astype(np.int32)
        complement = np.empty(topics, dtype=np.int32)
        complement[ring] = np.roll(ring, -1)
        weight = 1 / np.arange(1, config.items_per_topic + 1)
        return cls(
            config=config,
            category=(np.arange(topics) // config.topics_per_category).astype(np.int32),
            complement=complement,
            half_life=rng.choice(np.asarray(config.half_lives, dtype=np.float64), topics),
            item_id=rng.permutation(config.items).astype(np.int32),
            popularity=np.cumsum(weight / weight.sum()),
        )

    def items_of(self, topic: I64, rng: np.random.Generator) -> I64:
        """An item of each topic, by popularity 1 / rank within the topic: [len(topic)]."""
        rank = np.searchsorted(self.popularity[:-1], rng.random(len(topic)), side="right")
        first = topic * self.config.items_per_topic
        size = np.minimum(self.config.items_per_topic, self.config.items - first)
        return first + rank % size


@dataclass(frozen=True, slots=True)
class Life:
    """One user: L behaviors, oldest first, and n targets in the order of time.

    `item` i64 [L], `topic` i64 [L], `burst` i64 [L], `timestamp` i64 [L]; targets: `position` i64 [n] the number of behaviors before it,
    `target_item` and `target_topic` i64 [n], `target_time` i64 [n]; relevance, where it is not 0, as triples sorted by target and position:
    `of_target` i64 [m], `of_position` i64 [m], `relevance` f64 [m]; `total` f64 [n] its sum per target.
    """

    item: I64
    topic: I64
    burst: I64
    timestamp: I64
    position: I64
    target_item: I64
    target_topic: I64
    target_time: I64
    of_target: I64
    of_position: I64
    relevance: F64
    total: F64


def live(world: World, user: int) -> tuple[Life, np.random.Generator]:
    """The life of one user, and the generator to go on drawing from; independent of all other users."""
    config = world.config
    rng = np.random.default_rng([config.seed, _LIFE, user])
    size = _burst_sizes(config, rng)
    held = _held_topics(config, len(size), rng)
    topic_of_burst = np.where(
        rng.random(len(size)) < config.noise_share,
        rng.integers(0, config.topics, len(size)),
        held[rng.integers(0, config.held, len(size)), np.arange(len(size))],
    )
    burst = np.repeat(np.arange(len(size)), size)
    topic = topic_of_burst[burst]
    pause = rng.integers(*_WITHIN_S, config.length)
    starts = np.cumsum(size)[:-1]
    pause[starts] += rng.exponential(3 * 3600, len(starts)).astype(np.int64)
    timestamp = FIRST_SECOND + np.cumsum(pause)
    moment = np.sort(rng.choice(np.arange(config.first_moment + 1, config.length + 1), config.moments, replace=False))
    position = np.repeat(moment, config.candidates)
    of_held = held[rng.integers(0, config.held, len(position)), burst[position - 1]]
    any_topic = rng.integers(0, config.topics, len(position))
    target_topic = np.where(rng.random(len(position)) < config.held_share, of_held, any_topic)
    of_target, of_position, relevance = _relevance(world, topic, target_topic, position)
    life = Life(
        item=world.items_of(topic, rng),
        topic=topic,
        burst=burst,
        timestamp=timestamp,
        position=position,
        target_item=world.items_of(target_topic, rng),
        target_topic=target_topic,
        target_time=timestamp[position - 1] + 1,
        of_target=of_target,
        of_position=of_position,
        relevance=relevance,
        total=np.bincount(of_target, relevance, minlength=len(position)).astype(np.float64),
    )
    return life, rng


def _burst_sizes(config: SyntheticConfig, rng: np.random.Generator) -> I64:
    size = rng.geometric(1 / config.burst, int(config.length / config.burst * 1.5) + 20)
    while size.sum() < config.length:
        size = np.concatenate([size, rng.geometric(1 / config.burst, len(size))])
    end = np.minimum(np.cumsum(size), config.length)
    size = np.diff(end, prepend=0)
    return size[size > 0]


def _held_topics(config: SyntheticConfig, bursts: int, rng: np.random.Generator) -> I64:
    """Topic of each place at each burst: [held, bursts]."""
    replaced = rng.random((config.held, bursts)) < config.burst / config.drift
    version = np.cumsum(replaced, axis=1, dtype=np.int64)
    topics = rng.integers(0, config.topics, (config.held, int(version.max(initial=0)) + 1))
    return np.take_along_axis(topics, version, axis=1)


def _relevance(world: World, topic: I64, target_topic: I64, position: I64) -> tuple[I64, I64, F64]:
    """r = A * (floor + (1 - floor) 2^(-age / half-life)), age 1 for the newest; A is 1 for the target's topic, `complement` for its
    complement."""
    order = np.argsort(topic, kind="stable")
    by_topic = topic[order]
    parts = []
    for wanted, affinity in ((target_topic, 1.0), (world.complement[target_topic], world.config.complement)):
        if affinity == 0:
            continue
        start, end = np.searchsorted(by_topic, wanted, "left"), np.searchsorted(by_topic, wanted, "right")
        count = end - start
        target = np.repeat(np.arange(len(wanted)), count)
        within = np.arange(len(target)) - np.repeat(np.cumsum(count) - count, count)
        place = order[np.repeat(start, count) + within]
        before = place < position[target]
        target, place = target[before], place[before]
        age = position[target] - place
        floor = world.config.floor
        value = affinity * (floor + (1 - floor) * np.exp2(-age / world.half_life[target_topic[target]]))
        parts.append((target, place, value))
    target, place, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    sorted_ = np.lexsort((place, target))
    return target[sorted_], place[sorted_], value[sorted_]
