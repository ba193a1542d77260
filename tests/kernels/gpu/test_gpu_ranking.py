"""Stage 2 on a GPU against the float64 reference: through Triton's interpreter, or on the device where there is one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; `make test-gpu` runs these tests")
pytest.importorskip("triton", reason="triton is not installed; `make test-gpu` runs these tests")

from kernels import BehaviorRows, HeadWeights, RankTables, TargetRows
from kernels import pool_and_score as on_the_cpu
from kernels.gpu.keys import ragged_keys
from kernels.gpu.ranking import DeviceBehaviors, DeviceHead, DeviceTables, DeviceTargets, RankWorkspace, pool_and_score
from kernels.gpu.search import SearchWorkspace, search_topk
from kernels.search import search_topk as search_on_the_cpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = 1e-5
"""fp32 throughout: bf16 tables are read exactly, so the probability carries only the rounding of sums of a few hundred terms."""


class Ranking:
    """One problem for several users, for the reference and for the GPU."""

    def __init__(
        self, lengths: list[int], targets: list[int], k: int, extra: int = 5, widths: tuple[int, int, int] = (16, 5, 16),
        scale: float = 1.0, share: float = 0.8, bf16: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        rng = np.random.default_rng(seed)

        def normal(*shape: int, std: float = 1.0) -> np.ndarray:
            return (std * rng.standard_normal(shape)).astype(np.float32)

        def rows(high: int, size: int) -> np.ndarray:
            return rng.integers(0, high, size).astype(np.int32)

        n, m, counts = sum(targets), sum(lengths), (100, 30, 20)
        self.lengths, self.targets = lengths, targets
        self.index = np.concatenate(
            [rng.integers(0, max(1, many), (t, k)).astype(np.int32) for many, t in zip(lengths, targets, strict=True)]
        )
        empty = (rng.random((n, k)) >= share) | (np.repeat(lengths, targets) == 0)[:, None]
        self.index[empty] = -1
        self.score = np.where(empty, np.nan, normal(n, k, std=scale)).astype(np.float32)
        tables = [torch.from_numpy(normal(c, w)) for c, w in zip(counts, widths, strict=True)]
        self.tables = [t.bfloat16() if bf16 else t for t in tables]
        self.behavior, self.target = [rows(c, m) for c in counts], [rows(c, n) for c in counts[:2]]
        self.extra, features = normal(n, extra), 3 * sum(widths) + 1 + extra
        self.head = HeadWeights(
            normal(features, 40, std=0.1), normal(40), 0.25, normal(40, 23, std=0.1), normal(23), -0.1, normal(23, std=0.2), 0.3
        )

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        tables = RankTables(*(t.float().numpy() for t in self.tables))
        answers, first, at = [], 0, 0
        for length, targets in zip(self.lengths, self.targets, strict=True):
            rows, mine = slice(first, first + length), slice(at, at + targets)
            behavior, target = BehaviorRows(*(b[rows] for b in self.behavior)), TargetRows(*(t[mine] for t in self.target))
            answers.append(
                on_the_cpu(self.index[mine], self.score[mine], tables, behavior, target, self.extra[mine], self.head, backend="reference")
            )
            first, at = first + length, at + targets
        return np.concatenate([p for p, _ in answers]), np.concatenate([m for _, m in answers])

    def arguments(self) -> dict[str, Any]:
        def put(value: np.ndarray) -> Any:
            return torch.from_numpy(value).to(DEVICE)

        def start(lengths: list[int]) -> Any:
            return put(np.cumsum([0, *lengths]).astype(np.int32))

        h = self.head
        head = DeviceHead(put(h.w1), put(h.b1), h.a1, put(h.w2), put(h.b2), h.a2, put(h.w3), h.b3)
        workspace = RankWorkspace(len(self.index), head, most_targets=max(self.targets))
        for each in (workspace.features_TF, workspace.hidden, workspace.click_probability_T, workspace.mass_T):
            each.fill_(float("nan"))
        return {
            "index_TK": put(self.index),
            "score_TK": put(self.score),
            "tables": DeviceTables(*(t.to(DEVICE) for t in self.tables)),
            "behavior": DeviceBehaviors(*map(put, self.behavior), start(self.lengths)),
            "target": DeviceTargets(*map(put, self.target), start(self.targets)),
            "extra_TE": put(self.extra),
            "head": head,
            "workspace": workspace,
        }

    def check(self) -> None:
        probability, mass = pool_and_score(**self.arguments())
        expected = self.expected()
        np.testing.assert_allclose(probability.cpu().numpy(), expected[0], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(mass.cpu().numpy(), expected[1], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("bf16", [False, True], ids=["f32", "bf16"])
@pytest.mark.parametrize("k", [1, 20, 33, 50])
def test_probabilities_and_mass_equal_the_reference(k: int, bf16: bool) -> None:
    Ranking([300, 0, 40], [3, 2, 2], k, bf16=bf16).check()


@pytest.mark.parametrize(("widths", "extra"), [((1, 1, 1), 0), ((64, 32, 32), 40), ((3, 130, 7), 1)])
def test_odd_widths(widths: tuple[int, int, int], extra: int) -> None:
    Ranking([90], [3], 10, extra=extra, widths=widths).check()


@pytest.mark.parametrize("scale", [0.0, 1e-20, 30.0, 1e4])
def test_scores_of_any_size_neither_overflow_nor_vanish(scale: float) -> None:
    Ranking([90, 20], [3, 2], 40, scale=scale).check()


def test_very_negative_scores_have_no_mass_but_an_interest() -> None:
    made = Ranking([90], [3], 20)
    made.score = made.score - 200.0
    made.check()


def test_nothing_kept_is_no_interest_and_no_mass() -> None:
    made = Ranking([90], [3], 20, share=0.0)
    made.check()
    arguments = made.arguments()
    assert pool_and_score(**arguments)[1].tolist() == [0.0] * 3
    assert (arguments["workspace"].features_TF[:, 37 : 3 * 37] == 0).all()


def test_scores_where_nothing_is_kept_are_never_read() -> None:
    made = Ranking([90], [4], 20)
    first = pool_and_score(**made.arguments())[0].clone()
    made.score[made.index < 0] = np.inf
    assert torch.equal(pool_and_score(**made.arguments())[0], first)


def test_no_behaviors_and_no_targets() -> None:
    Ranking([0], [3], 4).check()
    probability, mass = pool_and_score(**Ranking([5], [0], 4).arguments())
    assert probability.shape == mass.shape == (0,)


def test_together_equals_alone() -> None:
    made = Ranking([60], [6], 12)
    together = pool_and_score(**made.arguments())[0].clone()
    for n in range(6):
        arguments = made.arguments()
        one = arguments["target"]
        start = torch.tensor([0, 1], dtype=torch.int32, device=DEVICE)
        arguments |= {
            "target": DeviceTargets(one.item_T[n : n + 1].clone(), one.category_T[n : n + 1].clone(), start),
            "workspace": RankWorkspace(1, arguments["head"]),
        }
        arguments |= {name: arguments[name][n : n + 1].clone() for name in ("index_TK", "score_TK", "extra_TE")}
        torch.testing.assert_close(pool_and_score(**arguments)[0], together[n : n + 1], rtol=0, atol=1e-6)


def test_a_whole_request_stays_on_the_device_and_equals_the_cpu() -> None:
    lengths, targets, k = [150, 0, 35], [3, 1, 2], 10
    made = Ranking(lengths, targets, k)
    rng = np.random.default_rng(7)
    key, target = rng.standard_normal((185, 16)).astype(np.float32), rng.standard_normal((6, 16)).astype(np.float32)
    searches = [
        search_on_the_cpu(q, part, k, backend="reference")
        for q, part in zip(np.split(target, [3, 4]), np.split(key, [150, 150]), strict=True)
    ]
    made.index, made.score = (np.concatenate(part) for part in zip(*searches, strict=True))
    arguments = made.arguments()
    keys = ragged_keys(torch.from_numpy(key).to(DEVICE), lengths)
    workspace = SearchWorkspace(keys, 6, k, most_targets=3)
    index, score = search_topk(torch.from_numpy(target).to(DEVICE), arguments["target"].start_U1, keys, workspace)
    probability, mass = pool_and_score(**(arguments | {"index_TK": index, "score_TK": score}))
    np.testing.assert_allclose(probability.cpu().numpy(), made.expected()[0], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(mass.cpu().numpy(), made.expected()[1], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda a: {"index_TK": a["index_TK"].long()}, "index_TK must have dtype torch.int32, got torch.int64"),
        (lambda a: {"score_TK": a["score_TK"][:, :5].contiguous()}, r"score_TK must have shape \[3, 6\], got \[3, 5\]"),
        (lambda a: {"extra_TE": a["extra_TE"][:, :2].contiguous()}, r"head.w1 must have shape \[114, any\], got \[117, 40\]"),
        (lambda a: {"tables": DeviceTables(*[a["tables"].item.double()] * 3)}, "tables must be float32 or bfloat16, got torch.float64"),
        (lambda a: {"tables": DeviceTables(a["tables"].item, a["tables"].item, a["tables"].item[:0])}, "row 0, the target's, got 0 rows"),
        (lambda a: {"workspace": RankWorkspace(4, a["head"])}, r"index_TK must have shape \[4, any\], got \[3, 6\]"),
        (lambda a: {"workspace": RankWorkspace(3, a["head"], most_targets=4)}, r"most_targets must be in 0..3, got 4"),
        (lambda a: {"head": replace(a["head"], w2=a["head"].w1.new_ones(40, 257))}, "head.w2 must be 1..256 wide on a GPU, got 257"),
        (lambda a: {"head": replace(a["head"], b2=a["head"].b1)}, r"head.b2 must have shape \[23\], got \[40\]"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(change: Any, named: str) -> None:
    arguments = Ranking([9], [3], 6).arguments()
    with pytest.raises(ValueError, match=named):
        pool_and_score(**(arguments | change(arguments)))
