"""Training measured: ours beside a plain torch model and FuxiCTR on the same rows, and ours against the length of histories."""

from __future__ import annotations

import ctypes
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from kernels.bench.timing import Entry, Spread, take_turns
from model.config import TrainConfig
from model.data.log import InteractionLog
from model.data.protocol import TRAIN, split_targets
from model.data_parallel import Chunk, Ranks
from model.dataset import Examples, Vocabulary
from model.features import FEATURE_NAMES
from model.schedule import epoch_steps
from model.train import optimizer_of, step
from model.two_stage import TwoStageModel
from service.bench.plain_training import PlainDare, padded

GATED_STEPS, GATE = 5, 1e-6
_SCRIPT = Path(__file__).with_name("fuxictr_training.py")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is trained on: some steps of the first epoch, each a list of chunks, of `rows` (target, candidate) rows on average."""

    config: TrainConfig
    log: InteractionLog
    vocabulary: Vocabulary
    examples: Examples
    steps: list[list[Chunk]]

    @property
    def rows(self) -> float:
        """Examples of a step on average: one is a target with one of its candidates."""
        sizes = [sum(len(chunk) for chunk in chunks) for chunks in self.steps]
        return sum(sizes) / len(sizes) * int(self.examples.targets.candidate.shape[1])

    def behaviors(self) -> float:
        """Sum over a step's rows of the behaviors each may see, on average."""
        total = 0
        for chunks in self.steps:
            picked = self.examples.chosen[np.concatenate(chunks)]
            seen = self.examples.targets.history_end[picked] - self.log.user_start[self.examples.targets.user[picked]]
            total += int(np.minimum(seen, self.examples.longest or seen.max()).sum())
        return total / len(self.steps) * int(self.examples.targets.candidate.shape[1])


@dataclass(frozen=True, slots=True)
class Side:
    """One that trains: its `name`, the step of a number (returns the loss before it), and `rows` of a step on average."""

    name: str
    step: Callable[[int], float]
    rows: float


def problem(log: InteractionLog, config: TrainConfig, steps: int) -> Problem:
    """The first steps of training with `config`. Candidate features are zeros: they are made before training, not in a step."""
    targets = split_targets(log, config.protocol)
    chosen = np.flatnonzero(targets.split == TRAIN)
    candidates = targets.candidate.shape[1]
    features = len(FEATURE_NAMES) if config.model.features else 0
    extra = np.zeros((len(chosen), candidates, features), dtype=np.float32)
    examples = Examples(targets, chosen, extra, np.zeros((len(chosen), candidates), dtype=bool), config.model.longest)
    vocabulary = Vocabulary.from_training_period(log, config.min_item_count, config.protocol)
    return Problem(config, log, vocabulary, examples, epoch_steps(config, examples, 0)[:steps])


def model_of(given: Problem) -> TwoStageModel:
    """Freshly initialised, the same for the same problem."""
    torch.manual_seed(given.config.seed)
    sizes = given.vocabulary.num_items, given.vocabulary.num_categories
    return TwoStageModel(given.config.model, *sizes, given.examples.extra.shape[2]).train()


def ours(given: Problem) -> Callable[[int], float]:
    """Trains on the step of that number, as `dare train` does; returns the loss before."""
    model = model_of(given)
    optimizer, alone = optimizer_of(model, given.config), Ranks()
    data = given.log, given.vocabulary, given.examples
    return lambda number: step(model, optimizer, data, given.steps[number], alone)


def plain(given: Problem) -> Callable[[int], float]:
    """The same with the plain model, from the same weights. Raises: ValueError where the problem's histories are not cut."""
    length = given.config.model.longest
    if length is None:
        raise ValueError("longest must be a number for the plain model, which pads every history to it; got None")
    model = PlainDare(model_of(given)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=given.config.learning_rate)

    def run(number: int) -> float:
        batch = padded(given.log, given.vocabulary, given.examples, given.steps[number], length)
        optimizer.zero_grad()
        loss = model.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return run


def gate(given: Problem) -> float:
    """The largest relative difference between our losses and the plain model's in the first steps, in double precision.

    In single precision Adam makes more and more of what the order of a sum rounds off, also between two runs of one model.
    Raises: SystemExit when it is above the tolerance.
    """
    torch.set_default_dtype(torch.float64)
    try:
        one, other = ours(given), plain(given)
        numbers = range(min(GATED_STEPS, len(given.steps)))
        worst = max(abs(other(i) / one(i) - 1) for i in numbers)
    finally:
        torch.set_default_dtype(torch.float32)
    if not worst <= GATE:
        raise SystemExit(f"the plain model's loss is {worst:.2g} from ours, relatively; nothing was timed")
    return worst


@contextmanager
def fuxictr(given: Problem, python: Path) -> Iterator[Side]:
    """FuxiCTR's TWIN in another interpreter, which ends with the context.

    Raises: ValueError with its last line when it does not start.
    """
    batches = [padded(given.log, given.vocabulary, given.examples, chunks, given.config.model.longest or 0) for chunks in given.steps]
    least = min(len(batch.label_B) for batch in batches)  # its file holds one array: the same number of rows for every step
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npz"
        joined = {
            "item": np.stack([torch.cat([b.item_BL, b.target_item_B[:, None]], 1)[:least].numpy() for b in batches]).astype(np.int32),
            "category": np.stack([torch.cat([b.category_BL, b.target_category_B[:, None]], 1)[:least].numpy() for b in batches]),
            "label": np.stack([b.label_B[:least].numpy() for b in batches]),
        }
        model = given.config.model
        sizes = {"items": given.vocabulary.num_items, "categories": given.vocabulary.num_categories}
        settings = {"width": model.repr_width, "kept": model.kept, "rate": given.config.learning_rate}
        np.savez(file, **joined, **{name: np.asarray(value) for name, value in (sizes | settings).items()})  # type: ignore[arg-type]
        # Not as a script: the folder beside it would come before the interpreter's own packages.
        start = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
        command = [str(python), "-c", start, str(_SCRIPT), str(file)]
        with subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            try:
                name = str(_answer(process.stdout, process.stderr)["name"])
                wanted, found = process.stdin, process.stdout

                def run(number: int) -> float:
                    print(number, file=wanted, flush=True)
                    return float(json.loads(found.readline())["loss"])

                yield Side(name, run, least)
            finally:
                process.stdin.close()
                process.kill()


def _answer(found: IO[str], errors: IO[str]) -> Any:
    line = found.readline()
    if not line:
        said = errors.read().strip().splitlines() or ["it said nothing"]
        raise ValueError(f"FuxiCTR does not start: {said[-1]}")
    return json.loads(line)


def side_by_side(given: Problem, sides: Sequence[Side], budget_s: float) -> dict[str, Spread]:
    """Milliseconds per step of each side, taking turns."""
    return take_turns({side.name: Entry(side.step, range(len(given.steps))) for side in sides}, budget_s)


def with_histories(given: Problem, length: int, users: int) -> Problem:
    """Another problem of the same mathematics: one step of `users` users whose targets all see histories of `length` behaviors."""
    rng = np.random.default_rng(0)
    targets_each = given.config.targets_per_chunk
    log, targets = given.log, given.examples.targets
    item = rng.choice(log.item, users * length)
    start = np.arange(users + 1, dtype=np.int64) * length
    user = np.repeat(np.arange(users), targets_each)
    candidate = rng.choice(log.item, (len(user), targets.candidate.shape[1])).astype(np.int32)
    label = np.zeros(candidate.shape, dtype=np.float32)
    label[:, 0] = 1
    end = start[user + 1]
    made = replace(
        targets,
        user=user,
        behavior=end - 1,
        history_end=end,
        timestamp=end,
        candidate=candidate,
        label=label,
        split=np.full(len(user), TRAIN, dtype=np.int8),
    )
    times = np.arange(len(item), dtype=np.int64)
    synthetic = replace(log, user_id=[str(u) for u in range(users)], user_start=start, item=item, timestamp=times, session=times)
    extra = np.zeros((*candidate.shape, given.examples.extra.shape[2]), dtype=np.float32)
    examples = Examples(made, np.arange(len(user)), extra, np.zeros(candidate.shape, dtype=bool), None)
    config = replace(given.config, model=replace(given.config.model, longest=None))
    return Problem(config, synthetic, given.vocabulary, examples, [examples.chunks(targets_each, None)])


def by_length(given: Problem, lengths: Sequence[int], users: int, repeats: int) -> list[dict[str, Any]]:
    """Our step against the length of histories: behaviors seen by the rows together, milliseconds (median), and what memory it adds."""
    found = []
    for length in lengths:
        one = with_histories(given, length, users)
        run = ours(one)
        run(0)
        before = _memory_from_here()
        run(0)
        peak = _peak_since(before)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            run(0)
            times.append(1e3 * (time.perf_counter() - start))
        spread = Spread.of(times)
        behaviors = one.behaviors()
        found.append(
            {
                "length": length,
                "rows": one.rows,
                "behaviors": behaviors,
                "ms": spread.median_ms,
                "ns_per_behavior": 1e6 * spread.median_ms / behaviors,
                "peak_bytes": peak,
                "bytes_per_behavior": None if peak is None else peak / behaviors,
            }
        )
    return found


def linearity(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """The line y = a + b x with the least squares of relative errors: `a`, `b` and the largest of them."""
    given, wanted = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    design = np.stack([1 / wanted, given / wanted], axis=1)
    (a, b), *_ = np.linalg.lstsq(design, np.ones(len(wanted)), rcond=None)
    return {"a": float(a), "b": float(b), "largest_relative_error": float(np.abs((a + b * given) / wanted - 1).max())}


def _memory_from_here() -> int | None:
    """Resident bytes now, with the mark of the highest set back to it; None where the system cannot (it is Linux's)."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status_bytes("VmRSS")
    except (OSError, AttributeError):
        return None


def _peak_since(before: int | None) -> int | None:
    return None if before is None else _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024
