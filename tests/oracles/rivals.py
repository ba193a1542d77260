"""Published rivals in float64, one target and one behavior at a time. Written from the equations in docs/stages.md; shares no code with
`model/`. Slow on purpose.

A behavior is a pair of rows: `attn` [item ; category] that search reads, and `content` [item ; category ; recency] that pooling reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


def mean(content: Sequence[F64], width: int) -> F64:
    """The average; zeros of `width` without behaviors."""
    total = np.zeros(width)
    for row in content:
        total += row / len(content)
    return total


def newest_of_category(category: Sequence[int], wanted: int, kept: int) -> list[int]:
    """Places of the newest `kept` behaviors of the wanted category, newest first."""
    return [place for place in reversed(range(len(category))) if category[place] == wanted][:kept]


def best_then_newest(score: Sequence[float], kept: int) -> list[int]:
    """Places of the `kept` highest, newer first among equals."""
    return sorted(range(len(score)), key=lambda place: (-score[place], -place))[:kept]


def product(target: F64, behavior: F64, target_map: F64, behavior_map: F64) -> float:
    """(W_a a) . (W_b b)."""
    return math.fsum((target_map @ target) * (behavior_map @ behavior))


def fingerprint(row: F64, planes: F64) -> list[bool]:
    """Whether the row is on the positive side of each plane (a column)."""
    return [math.fsum(row * planes[:, i]) >= 0 for i in range(planes.shape[1])]


def distance(first: Sequence[bool], second: Sequence[bool]) -> int:
    """Hamming distance."""
    return sum(a != b for a, b in zip(first, second, strict=True))


def heads(target: F64, content: Sequence[F64], query: F64, key: F64, num_heads: int) -> list[F64]:
    """Each head's softmax((Q_i u) . (K_i r_j) / sqrt(d_h))-weighted sum of contents; zeros without behaviors."""
    width = len(query) // num_heads
    found = []
    for i in range(num_heads):
        part = slice(i * width, (i + 1) * width)
        score = [float((query[part] @ target) @ (key[part] @ row)) / math.sqrt(width) for row in content]
        power = [math.exp(value - max(score)) for value in score]
        pooled = np.zeros(len(target))
        for share, row in zip(power, content, strict=True):
            pooled += share / sum(power) * row
        found.append(pooled)
    return found


def joined(pooled: Sequence[F64], value: F64, output: F64) -> F64:
    """O [V_1 pooled_1 ; ... ; V_H pooled_H]."""
    width = len(value) // len(pooled)
    return output @ np.concatenate([value[i * width : (i + 1) * width] @ row for i, row in enumerate(pooled)])


def hash_buckets(target: F64, behaviors: Sequence[F64], content: Sequence[F64], planes: F64, bits: int, width: int) -> F64:
    """Per hash of `bits` planes: the sum of contents with the target's bits, over its Euclidean norm; the average over hashes."""
    hashes = planes.shape[1] // bits
    total = np.zeros(width)
    for i in range(hashes):
        part = planes[:, i * bits : (i + 1) * bits]
        wanted = fingerprint(target, part)
        found = np.zeros(width)
        for row, what in zip(behaviors, content, strict=True):
            if fingerprint(row, part) == wanted:
                found += what
        norm = math.sqrt(math.fsum(found**2))
        total += (found / norm if norm > 0 else found) / hashes
    return total


def scored_sum(score: Callable[[F64], float], behaviors: Sequence[F64], content: Sequence[F64], width: int) -> F64:
    """sum_j score_j content_j, not softmaxed."""
    total = np.zeros(width)
    for row, what in zip(behaviors, content, strict=True):
        total += score(row) * what
    return total
