"""Candidate features and item statistics by plain loops over one history: what `model/features.py` and its sources must equal."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

DAY_S = 86_400.0
DECAYS = (7.0, 30.0, 120.0)
Behavior = tuple[int, int, int]
"""(item, category, unix seconds)."""


def relation(history: Sequence[Behavior], field: int, key: int, now: int) -> dict[str, float]:
    """What the history says about one item (`field` 0) or category (`field` 1) at `now`."""
    places = [place for place, behavior in enumerate(history) if behavior[field] == key]
    times = [history[place][2] for place in places]
    count, length = len(places), len(history)
    age = max(now - times[-1], 0) / DAY_S if places else 0.0
    interval = (times[-1] - times[0]) / (count - 1) / DAY_S if count > 1 else 0.0
    values = {
        "seen": float(count > 0),
        "log_count": math.log(1 + count),
        "log_age_days": math.log(1 + age),
        "log_behaviors_since": math.log(1 + length - places[-1] - 1) if places else 0.0,
        "repeated": float(count > 1),
        "log_mean_interval_days": math.log(1 + interval),
        "log_age_over_interval": math.log((age + 0.5) / (interval + 0.5)) if count > 1 else 0.0,
        "log_share": math.log((count + 0.5) / (length + 1)),
    }
    for days in DECAYS:
        values[f"log_decayed_count_{int(days)}d"] = math.log(1 + decayed(times, now, days))
    return values


def decayed(times: Sequence[int], now: int, days: float) -> float:
    """Sum of exp(-age / days); a clock that runs backwards counts as no time passed since the newest."""
    newest = times[-1] if times else 0
    return sum(math.exp(-(newest - time) / DAY_S / days) for time in times) * math.exp(-max(now - newest, 0) / DAY_S / days)


def user(history: Sequence[Behavior], now: int) -> dict[str, float]:
    """The user's side alone."""
    times = [time for _, _, time in history]
    idle = max(now - times[-1], 0) / DAY_S if times else 0.0
    return {
        "log_length": math.log(1 + len(history)),
        "log_idle_days": math.log(1 + idle),
        "log_activity_7d": math.log(1 + decayed(times, now, 7.0)),
        "log_activity_30d": math.log(1 + decayed(times, now, 30.0)),
        "distinct_share": len({item for item, _, _ in history}) / max(len(history), 1),
    }


def cosine(profile: Sequence[float], vector: Sequence[float]) -> float:
    norm = math.sqrt(sum(x * x for x in profile)) * math.sqrt(sum(x * x for x in vector))
    return sum(x * y for x, y in zip(profile, vector, strict=True)) / norm if norm > 1e-9 else 0.0


def popularity(behaviors: Sequence[tuple[int, int]], item: int, now: int, num_items: int) -> dict[str, float]:
    """Popularity of an item at `now` from (item, unix seconds) of a fixed set; from the day after the newest on nothing changes."""
    days = [(taken, time // 86_400) for taken, time in behaviors]
    first = min((day for _, day in days), default=0)
    today = min(max(now // 86_400, first), max((day for _, day in days), default=-1) + 1)
    before = [(taken, day) for taken, day in days if day < today]
    own = [day for taken, day in before if taken == item]
    values = {
        "log_days_since_taken": math.log(1 + today - (max(own) if own else first - 1)),
        "log_count_so_far": math.log(1 + len(own)),
    }
    for tau in (7, 30, 90):
        lately, of_all = (sum(math.exp(-(today - day) / tau) for day in some) for some in (own, [day for _, day in before]))
        values[f"log_share_{tau}d_now"] = math.log((lately + 0.2) / (of_all + 0.2 * num_items) * num_items)
    return values


def features(
    history: Sequence[Behavior],
    candidate: tuple[int, int],
    now: int,
    statistic: dict[str, float],
    taste_vector: Sequence[Sequence[float]],
    taste_weight: Sequence[float],
    popular: dict[str, float],
) -> dict[str, float]:
    """All features of one candidate (item, category) by name."""
    item, category = candidate
    values = {f"item_{name}": value for name, value in relation(history, 0, item, now).items()}
    values |= {f"category_{name}": value for name, value in relation(history, 1, category, now).items()}
    values |= {f"user_{name}": value for name, value in user(history, now).items()}
    values |= {f"statistic_{name}": value for name, value in statistic.items()}
    values |= {f"popularity_{name}": value for name, value in popular.items()}
    for field, key, typical in ((0, item, "log_interval_days"), (1, category, "category_log_interval_days")):
        times = [behavior[2] for behavior in history if behavior[field] == key]
        name = "log_age_over_item_interval" if field == 0 else "log_age_over_category_interval"
        age = max(now - times[-1], 0) / DAY_S if times else 0.0
        values[name] = math.log((age + 0.5) / (math.exp(statistic[typical]) - 1 + 0.5)) if times else 0.0
    for span in (None, 200, 20):
        profile = [0.0] * len(taste_vector[0])
        for taken, _, _ in history if span is None else history[-span:]:
            profile = [total + taste_weight[taken] * x for total, x in zip(profile, taste_vector[taken], strict=True)]
        values[f"taste_cosine_{span or 'whole'}"] = cosine(profile, taste_vector[item])
    return values


def statistics(behaviors: Sequence[tuple[int, int, int]], item_category: Sequence[int], num_categories: int) -> list[dict[str, float]]:
    """Statistics of every item from (user, item, unix seconds), sorted by user and time. Items without category share one (-1)."""
    newest_of_user: dict[int, int] = {}
    for who, _, time in behaviors:
        newest_of_user[who] = max(time, newest_of_user.get(who, time))
    count: defaultdict[int, float] = defaultdict(float)
    recent: dict[float, defaultdict[int, float]] = {30.0: defaultdict(float), 7.0: defaultdict(float)}
    last: dict[tuple[int, int], int] = {}
    repeats: defaultdict[int, float] = defaultdict(float)
    gaps: defaultdict[int, float] = defaultdict(float)
    for who, item, time in behaviors:
        count[item] += 1
        for days, total in recent.items():
            total[item] += math.exp(-(newest_of_user[who] - time) / DAY_S / days)
        if (who, item) in last:
            repeats[item] += 1
            gaps[item] += math.log(1 + (time - last[who, item]) / DAY_S)
        last[who, item] = time
    items = range(len(item_category))
    of_category = {c: [i for i in items if item_category[i] == c] for c in [*range(num_categories), -1]}

    def log_share(value: float, values: Sequence[float]) -> float:
        return math.log((value + 0.5) / (sum(values) + 0.5 * len(values)) * len(values))

    def shrunk(total: float, number: float, prior: float) -> float:
        return (total + 10 * prior) / (number + 10)

    def summed(values: dict[int, float], category: int) -> float:
        return sum(values.get(i, 0.0) for i in of_category[category])

    all_rate = sum(repeats.values()) / max(sum(count.values()), 1)
    all_gap = sum(gaps.values()) / max(sum(repeats.values()), 1)
    buyers = max(sum(count.values()) - sum(repeats.values()), 1)
    found = []
    for item in items:
        category = item_category[item]
        rate = shrunk(summed(repeats, category), summed(count, category), all_rate)
        gap = shrunk(summed(gaps, category), summed(repeats, category), all_gap)
        found.append(
            {
                "log_share": log_share(count[item], [count[i] for i in items]),
                "log_share_30d": log_share(recent[30.0][item], [recent[30.0][i] for i in items]),
                "log_share_7d": log_share(recent[7.0][item], [recent[7.0][i] for i in items]),
                "repeat_rate": shrunk(repeats[item], count[item], rate),
                "log_buyers": math.log(1 + (count[item] - repeats[item]) / buyers * 1e5),
                "log_interval_days": shrunk(gaps[item], repeats[item], gap),
                "log_category_share": log_share(summed(count, category), [summed(count, c) for c in of_category]),
                "category_repeat_rate": rate,
                "category_log_interval_days": gap,
            }
        )
    return found
