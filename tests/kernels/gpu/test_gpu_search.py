"""Search on a GPU against the float64 reference: through Triton's interpreter, or on the device where there is one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; `make test-gpu` runs these tests")
pytest.importorskip("triton", reason="triton is not installed; `make test-gpu` runs these tests")

from kernels.gpu.keys import RaggedKeys, ragged_keys
from kernels.gpu.search import SameItemBonus, SearchTiling, SearchWorkspace, search_topk
from kernels.search import ItemBonus
from kernels.search import search_topk as on_the_cpu

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8]
DATA = ["gaussian", "clusters", "repeats", "heavy tails", "outlier", "anisotropic", "sorted", "all equal", "denormals", "huge"]


@dataclass(frozen=True)
class Search:
    """A search over several users in NumPy; `expected` asks the reference, `found` the GPU's kernels."""

    target: np.ndarray
    keys: RaggedKeys
    lengths: list[int]
    targets: list[int]
    k: int
    bias: np.ndarray | None = None
    valid: np.ndarray | None = None
    category: np.ndarray | None = None
    category_score: np.ndarray | None = None
    item: np.ndarray | None = None
    target_item: np.ndarray | None = None
    bonus: float = 0.0

    def workspace(self) -> SearchWorkspace:
        """Filled with values that would show: NaN, and indices of no behavior."""
        made = SearchWorkspace(self.keys, len(self.target), self.k, most_targets=max(self.targets))
        for each in (made.group_max, made.key_square, made.score_TK):
            each.fill_(float("nan"))
        made.kept_list.fill_(2**62)
        made.index_TK.fill_(-77)
        return made

    def found(self, workspace: SearchWorkspace | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The answer of the kernels."""

        def put(value: np.ndarray | None) -> Any:
            return None if value is None else torch.from_numpy(value).to(DEVICE)

        bonus = None if self.item is None else SameItemBonus(put(self.item), put(self.target_item), self.bonus)
        start = put(np.array([0, *accumulate(self.targets)], np.int32))
        index, score = search_topk(
            put(self.target), start, self.keys, workspace or self.workspace(), bias_M=put(self.bias), valid_M=put(self.valid),
            category_M=put(self.category), category_score_TC=put(self.category_score), bonus=bonus,
        )  # fmt: skip
        return index.cpu().numpy().copy(), score.cpu().numpy().copy()

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """The answer of the float64 reference, user by user."""
        key = self.keys.dequantised().cpu().numpy()
        answers, first, at = [], 0, 0
        for length, targets in zip(self.lengths, self.targets, strict=True):
            rows, mine = slice(first, first + length), slice(at, at + targets)
            bonus = None
            if self.item is not None and self.target_item is not None:
                own = [np.flatnonzero(self.item[rows] == i).astype(np.int32) for i in self.target_item[mine]]
                start = np.array([0, *accumulate(map(len, own))], np.int64)
                bonus = ItemBonus(start, np.concatenate([*own, np.zeros(0, np.int32)]), self.bonus)
            answers.append(
                on_the_cpu(
                    self.target[mine], np.nan_to_num(key[rows]), self.k, bonus=bonus, backend="reference",
                    bias_L=None if self.bias is None else np.nan_to_num(self.bias[rows]),
                    valid_L=None if self.valid is None else self.valid[rows],
                    category_L=None if self.category is None else self.category[rows],
                    category_score_NC=None if self.category_score is None else self.category_score[mine],
                )
            )  # fmt: skip
            first, at = first + length, at + targets
        return np.concatenate([index for index, _ in answers]), np.concatenate([score for _, score in answers])

    def check(self) -> None:
        """Kept scores equal the reference's within the error of sums in float32, and belong to the behaviors they are said to."""
        (index, score), (true_index, true_score) = self.found(), self.expected()
        real = true_index >= 0
        np.testing.assert_array_equal(index >= 0, real)
        np.testing.assert_array_equal(score[~real], -np.inf)
        key = np.nan_to_num(self.keys.dequantised().cpu().numpy()).astype(np.float64)
        first = np.repeat([0, *accumulate(self.lengths)][:-1], self.targets)[:, None] + np.zeros_like(index)
        target = np.arange(len(index))[:, None] + np.zeros_like(index)
        row, target, score, true_score = (first + index)[real], target[real], score[real].astype(np.float64), true_score[real]
        terms = self.target.astype(np.float64)[target] * key[row]
        others = np.zeros(len(row)) if self.bias is None else self.bias.astype(np.float64)[row]
        # A sum of A products in float32 errs by at most A + 1 roundings of the sum of magnitudes; the bias adds a few.
        bound = (self.target.shape[1] + 8) * 2.0**-24 * (np.abs(terms).sum(1) + np.abs(others)) + 1e-37
        assert (np.abs(score - true_score) <= bound).all(), "the scores of the best"
        assert (np.abs(score - terms.sum(1) - others) <= bound).all(), "the scores of the behaviors named"
        assert (np.diff(score)[np.diff(target) == 0] <= 0).all(), "best first"
        for row in index:
            assert len(set(row[row >= 0])) == (row >= 0).sum(), "a behavior is kept once"


def data_set(name: str, length: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    k = rng.standard_normal((length, width))
    if name == "clusters":
        k = rng.standard_normal((8, width))[rng.integers(0, 8, length)] + 0.01 * k
    elif name == "repeats":
        k = k[rng.integers(0, max(1, length // 20), length)]
    elif name == "heavy tails":
        k = rng.standard_t(1.5, (length, width))
    elif name == "outlier":
        k[length // 2] *= 30
    elif name == "anisotropic":
        k = k * np.logspace(0, -3, width)
    elif name == "sorted":
        k = np.sort(k, axis=0)
    elif name == "all equal":
        k = np.ones_like(k)
    elif name == "denormals":
        k = k * 1e-39
    elif name == "huge":
        k = k * 1e15
    return k.astype(np.float32)


def search(
    lengths: list[int], targets: list[int], width: int, k: int, dtype: Any = torch.float32, data: str = "gaussian", seed: int = 0
) -> Search:
    key = torch.from_numpy(data_set(data, sum(lengths), width, seed)).to(DEVICE)
    target = np.random.default_rng(seed + 1).standard_normal((sum(targets), width)).astype(np.float32)
    return Search(target, ragged_keys(key, lengths, dtype), lengths, targets, k)


def integers(dtype: Any, lengths: list[int], targets: list[int], k: int, seed: int = 0, width: int = 8) -> Search:
    """Every term of the score, all whole numbers: sums are exact in any order, so sets and tie order must be equal."""
    rng = np.random.default_rng(seed)
    rows, n = sum(lengths), sum(targets)

    def whole(*shape: int) -> np.ndarray:
        return rng.integers(-2, 3, shape).astype(np.float32)

    start = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=DEVICE)
    scale = torch.ones(len(lengths), width, device=DEVICE) if dtype == torch.int8 else None
    keys = RaggedKeys(torch.from_numpy(whole(rows, width)).to(DEVICE).to(dtype), start, max(lengths), scale)
    return Search(
        whole(n, width), keys, lengths, targets, k, bias=whole(rows), valid=rng.random(rows) < 0.8,
        category=rng.integers(0, 6, rows).astype(np.int32), category_score=whole(n, 6),
        item=rng.integers(0, 40, rows).astype(np.int32), target_item=rng.integers(0, 40, n).astype(np.int32), bonus=3.0,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("data", DATA)
def test_kept_scores_equal_the_reference_on_ten_data_sets(dtype: Any, data: str) -> None:
    if dtype == torch.float16 and data == "huge":
        with pytest.raises(ValueError, match=r"attn_behavior_MA in torch.float16 must be finite"):
            search([700], [3], 16, 20, dtype, data)
        return
    if dtype == torch.bfloat16 and data == "denormals" and not CUDA:
        pytest.skip("Triton's interpreter reads bf16 denormals wrongly")
    search([700], [3], 16, 20, dtype, data).check()


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 1023, 1024, 1025, 2049])
@pytest.mark.parametrize(("targets", "width", "k", "dtype"), [(1, 16, 1, 2), (3, 7, 20, 1), (2, 64, 50, 3), (2, 1, 128, 0)])
def test_odd_shapes(length: int, targets: int, width: int, k: int, dtype: int) -> None:
    made = search([length], [targets], width, k, DTYPES[dtype], seed=length)
    replace(made, bias=np.linspace(-1, 1, length, dtype=np.float32)).check()


@pytest.mark.parametrize(("width", "dtype"), [(24, 3), (100, 1), (128, 2), (256, 0), (256, 3)])
def test_wide_keys(width: int, dtype: int) -> None:
    search([600], [2], width, 20, DTYPES[dtype]).check()


def test_many_targets_fill_several_tiles() -> None:
    search([90, 33], [70, 19], 8, 5).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_whole_numbers_give_the_same_sets_in_the_same_order_for_ragged_users(dtype: Any) -> None:
    made = integers(dtype, [300, 0, 3, 1500, 64], [2, 2, 2, 3, 0], 20)
    found, expected = made.found(), made.expected()
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_more_groups_than_are_bounded_at_once() -> None:
    made = integers(torch.bfloat16, [18_000], [2], 30)
    assert made.workspace().group_max.shape[1] > made.workspace().tiling.coarse
    np.testing.assert_array_equal(made.found()[0], made.expected()[0])


@pytest.mark.parametrize("term", ["bias", "valid", "category", "item"])
def test_each_term_alone(term: str) -> None:
    made = integers(torch.bfloat16, [400, 90], [2, 2], 12, seed=3)
    own = {"category": ("category", "category_score"), "item": ("item", "target_item")}.get(term, (term,))
    other = {"bias", "valid", "category", "category_score", "item", "target_item"} - set(own)
    made = replace(made, **dict.fromkeys(other))
    np.testing.assert_array_equal(made.found()[0], made.expected()[0])


def test_a_negative_bonus_pushes_the_own_item_away() -> None:
    made = replace(integers(torch.float32, [500], [3], 15), bonus=-9.0)
    np.testing.assert_array_equal(made.found()[0], made.expected()[0])


def test_equal_scores_keep_the_newest_first() -> None:
    made = search([3000], [1], 4, 5)
    made.keys.key_MA.fill_(1.0)
    index, score = replace(made, target=np.zeros((1, 4), np.float32)).found()
    assert index.tolist() == [[2999, 2998, 2997, 2996, 2995]] and score.tolist() == [[0.0] * 5]


def test_zero_has_no_sign() -> None:
    # A target of 0 with a bias of -0 scores -0 on keys of -1 and 0 on keys of 1: two bit patterns, one score. Only a device tells them
    # apart: the interpreter's sums begin with 0.
    made = search([100], [1], 16, 5)
    made.keys.key_MA[:] = 1.0
    made.keys.key_MA[1::2] = -1.0
    index, _ = replace(made, target=np.zeros((1, 16), np.float32), bias=np.full(100, -0.0, np.float32)).found()
    assert index.tolist() == [[99, 98, 97, 96, 95]]


@pytest.mark.parametrize("k", [3, 128])
def test_scores_too_close_to_filter_overflow_the_list_and_are_still_exact(k: int) -> None:
    # Older is better by less than bf16 can tell: all survive the filter and every step of the newest-first rescan improves on the last.
    length = 2500
    made = search([length], [1], 2, k)
    made.keys.key_MA[:, 0] = 1.0
    made.keys.key_MA[:, 1] = 0.0
    made = replace(made, target=np.ones((1, 2), np.float32), bias=(-np.arange(length) * 2.0**-20).astype(np.float32))
    index, _ = made.found()
    np.testing.assert_array_equal(index[0], np.arange(k))


@pytest.mark.parametrize("k", [200, 512])
def test_many_kept(k: int) -> None:
    search([1500, 100], [1, 1], 16, k, torch.bfloat16).check()


def test_one_outlier_does_not_hide_the_k_best() -> None:
    made = search([900], [2], 16, 10)
    made.keys.key_MA[100] *= 1e12
    index, score = made.found()
    expected = made.expected()
    np.testing.assert_array_equal(index, expected[0])
    np.testing.assert_allclose(score, expected[1], rtol=1e-5)


# NumPy, beneath the interpreter, warns of the NaN that arise in masked places; the test is that they stay there.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_what_is_masked_or_past_the_end_never_leaks(dtype: Any, poison: float) -> None:
    made = search([200, 80], [2, 2], 16, 10, dtype)
    rng = np.random.default_rng(5)
    valid = rng.random(280) < 0.6
    clean = replace(made, valid=valid, bias=rng.standard_normal(280).astype(np.float32))
    expected = clean.found()
    key = torch.cat([made.keys.key_MA, torch.full((50, 16), poison, dtype=dtype, device=DEVICE)])
    hidden = np.concatenate([valid, np.ones(50, bool)])
    assert clean.bias is not None
    bias = np.concatenate([clean.bias, np.full(50, poison, np.float32)])
    key[torch.from_numpy(~hidden).to(DEVICE)] = poison
    bias[~hidden] = poison
    dirty = replace(clean, keys=RaggedKeys(key, made.keys.start_U1, made.keys.longest), valid=hidden, bias=bias)
    found = dirty.found()
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")
def test_a_target_of_nan_spoils_no_other_target() -> None:
    made = search([300], [4], 16, 10)
    expected = made.found()
    target = made.target.copy()
    target[1] = np.nan
    found = replace(made, target=target).found()
    for row in (0, 2, 3):
        np.testing.assert_array_equal(found[0][row], expected[0][row])
        np.testing.assert_array_equal(found[1][row], expected[1][row])


def test_nothing_valid_keeps_nothing() -> None:
    index, score = replace(search([130, 40], [2, 1], 8, 6), valid=np.zeros(170, bool)).found()
    assert (index == -1).all() and (score == -np.inf).all()


def test_together_equals_alone_and_permuting_targets_permutes_answers() -> None:
    made = search([500, 260], [5, 3], 16, 9, torch.bfloat16)
    index, score = made.found()
    order = np.array([4, 0, 3, 1, 2, 5, 7, 6])
    permuted = replace(made, target=made.target[order]).found()
    np.testing.assert_array_equal(permuted[0], index[order])
    np.testing.assert_array_equal(permuted[1], score[order])
    start = torch.tensor([0, 260], dtype=torch.int32, device=DEVICE)
    alone = Search(made.target[5:], RaggedKeys(made.keys.key_MA[500:], start, 260), [260], [3], 9)
    np.testing.assert_array_equal(alone.found()[0], index[5:])
    np.testing.assert_array_equal(alone.found()[1], score[5:])


def test_a_workspace_serves_shorter_histories_and_moved_starts() -> None:
    large = search([900, 300], [3, 3], 16, 10)
    workspace = large.workspace()
    large.found(workspace)
    pointers = [each.data_ptr() for each in (workspace.group_max, workspace.kept_list, workspace.index_TK)]
    small = search([200, 500], [1, 3], 16, 10, seed=9)
    small = replace(small, target=np.concatenate([small.target, np.full((2, 16), np.nan, np.float32)]))
    index, _ = small.found(workspace)
    np.testing.assert_array_equal(index[:4], replace(small, target=small.target[:4]).expected()[0])
    assert pointers == [each.data_ptr() for each in (workspace.group_max, workspace.kept_list, workspace.index_TK)]


@pytest.mark.skipif(not CUDA, reason="CUDA graphs need a CUDA device")
def test_a_captured_graph_follows_its_inputs() -> None:
    made = integers(torch.bfloat16, [3000, 500], [40, 20], 20)
    workspace = made.workspace()
    target = torch.from_numpy(made.target).to(DEVICE)
    start = torch.tensor([0, 40, 60], dtype=torch.int32, device=DEVICE)
    search_topk(target, start, made.keys, workspace)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        index, _ = search_topk(target, start, made.keys, workspace)
    other = integers(torch.bfloat16, [3000, 500], [40, 20], 20, seed=8)
    target.copy_(torch.from_numpy(other.target))
    made.keys.key_MA.copy_(other.keys.key_MA)
    graph.replay()
    plain = replace(other, bias=None, valid=None, category=None, category_score=None, item=None, target_item=None)
    np.testing.assert_array_equal(index.cpu().numpy(), plain.expected()[0])


def test_int8_rounds_to_the_nearest_and_keeps_the_largest() -> None:
    key = torch.from_numpy(data_set("heavy tails", 500, 5)).to(DEVICE)
    key[:, 3] = 0.0
    keys = ragged_keys(key, [200, 0, 300], torch.int8)
    assert keys.scale_UA is not None
    assert keys.key_MA.abs().max() == 127
    user = torch.tensor([0] * 200 + [2] * 300, device=DEVICE)
    assert ((keys.dequantised() - key).abs() <= keys.scale_UA[user] * 0.5001).all()
    for rows in (slice(0, 200), slice(200, 500)):
        torch.testing.assert_close(keys.dequantised()[rows].abs().amax(0), key[rows].abs().amax(0), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"group": 2, "columns": 16, "rescan": 32},
        {"group": 8, "rescan": 64, "keep_warps": 1, "coarse": 256},
        {"group": 16, "columns": 64, "rescan": 256, "chunk": 16, "capacity": 512},
    ],
    ids=str,
)
def test_sizes_change_no_answer(change: dict[str, int]) -> None:
    made = integers(torch.bfloat16, [1100, 90], [3, 2], 20)
    chosen = SearchTiling.choose(made.keys.width, torch.bfloat16, made.k, 5, 3, 1100)
    workspace = SearchWorkspace(made.keys, 5, made.k, most_targets=3, tiling=replace(chosen, **change))
    np.testing.assert_array_equal(made.found(workspace)[0], made.expected()[0])
