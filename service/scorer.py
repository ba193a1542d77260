"""The story of one request: admit, read the user's behaviors, prepare or extend the user, score, explain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np

from model.item_hash import hash_item_ids
from model.runtime import Kept, Scored
from model.user_state import UserState
from service.admission import Admission, Deadline
from service.behavior_store import U64, BehaviorSequence, BehaviorStore
from service.errors import Problem, problem_document
from service.metrics import Metrics
from service.models import Models, Served
from service.schemas import (
    BatchAnswer,
    BatchedAnswer,
    BatchRequest,
    Explanation,
    RecommendAnswer,
    RecommendedItem,
    RecommendRequest,
    ScoreAnswer,
    ScoreRequest,
    decode,
    id_text,
    id_texts,
)
from service.settings import Settings

Result = TypeVar("Result")


@dataclass(slots=True)
class Stages:
    """Times of one request's stages, ms."""

    queue: float = 0.0
    store: float = 0.0
    search: float = 0.0
    rank: float = 0.0

    def add(self, other: Stages) -> None:
        """Add the times of another request."""
        self.queue += other.queue
        self.store += other.store
        self.search += other.search
        self.rank += other.rank

    def times(self, started: float) -> dict[str, float]:
        """The stages and their total since `started` (monotonic s), ms: what `Server-Timing` and the metrics show."""
        total = (time.monotonic() - started) * 1e3
        return {"queue": self.queue, "store": self.store, "search": self.search, "rank": self.rank, "total": total}


class Scorer:
    """Answers requests; inference runs in its threads, never on the event loop."""

    def __init__(self, settings: Settings, models: Models, store: BehaviorStore, metrics: Metrics, admission: Admission) -> None:
        self._settings = settings
        self._models = models
        self._store = store
        self._metrics = metrics
        self._admission = admission
        self._threads = ThreadPoolExecutor(settings.inference_threads, thread_name_prefix="score")

    async def score(self, request: ScoreRequest, request_id: str, now: int, stages: Stages, started: float) -> ScoreAnswer:
        """Score the request's candidates. Raises: Problem."""
        model, candidates = self._checked(request)
        deadline = Deadline(request.budget_ms, started)
        return await self._inference(lambda: self._score(model, request, candidates, request_id, now, stages), deadline, stages)

    async def score_batch(self, request: BatchRequest, request_id: str, now: int, stages: Stages, started: float) -> BatchAnswer:
        """Score the requests one after the other, each admitted and answered on its own. Raises: Problem for the batch as a whole."""
        limit = self._settings.max_batch
        if len(request.requests) > limit:
            raise Problem(422, f"at most {limit} requests, got {len(request.requests)}", pointer="/requests")
        answers, explained = [], 0
        for place, raw in enumerate(request.requests):
            own = Stages()
            began = time.monotonic()
            try:
                wanted = decode(ScoreRequest, raw)
                explained += wanted.explain * len(wanted.candidates)
                self._check_explained(explained, self._models.active)
                answers.append(BatchedAnswer(200, answer=await self.score(wanted, request_id, now, own, started)))
                self._metrics.observe(own.times(began))
            except Problem as problem:
                if problem.pointer is not None:
                    problem.pointer = f"/requests/{place}{problem.pointer}"
                answers.append(BatchedAnswer(problem.status, problem=problem_document(problem, request_id)))
            stages.add(own)
        return BatchAnswer(request_id, answers)

    async def recommend(self, request: RecommendRequest, request_id: str, now: int, stages: Stages, started: float) -> RecommendAnswer:
        """Retrieve, score and order candidates. Raises: Problem."""
        model = self._models.choose(id_text(request.user_id, "/user_id"), request.model_version)
        _check_explain(request.explain, model)
        deadline = Deadline(request.budget_ms, started)
        return await self._inference(lambda: self._recommend(model, request, request_id, now, stages), deadline, stages)

    def close(self) -> None:
        """Finish what runs, then let go of the threads."""
        self._threads.shutdown(wait=True)

    async def _inference(self, work: Callable[[], Result], deadline: Deadline, stages: Stages) -> Result:
        async with self._admission.permit(deadline) as waited_ms:
            stages.queue = waited_ms
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _checked(self, request: ScoreRequest) -> tuple[Served, U64]:
        """The model that answers, and the candidate hashes, of a request whose fields agree with each other and with the limits."""
        limit = self._settings.max_candidates
        if len(request.candidates) > limit:
            raise Problem(422, f"at most {limit} candidates, got {len(request.candidates)}", pointer="/candidates")
        inline, known = request.behaviors is not msgspec.UNSET, request.user_id is not msgspec.UNSET
        if inline == known:
            raise Problem(422, f"give either user_id or behaviors, got {'both' if inline else 'neither'}", pointer="/user_id")
        user_id = None
        if isinstance(request.behaviors, list):
            most = self._settings.max_inline_behaviors
            if len(request.behaviors) > most:
                raise Problem(422, f"at most {most} behaviors, got {len(request.behaviors)}", pointer="/behaviors")
        elif request.user_id is not msgspec.UNSET:
            user_id = id_text(request.user_id, "/user_id")
        model = self._models.choose(user_id, request.model_version)
        _check_explain(request.explain, model)
        return model, hash_item_ids(id_texts(request.candidates, "/candidates"))

    def _check_explained(self, explained: int, model: Served) -> None:
        limit = self._settings.max_candidates * model.runtime.max_kept
        if explained > limit:
            raise Problem(422, f"at most {limit} behaviors are explained in one batch, this request asks for number {explained}")

    def _score(self, model: Served, request: ScoreRequest, candidates: U64, request_id: str, now: int, stages: Stages) -> ScoreAnswer:
        started = time.perf_counter()
        timestamp = now if request.timestamp is None else request.timestamp
        if request.user_id is msgspec.UNSET:
            sequence = self._inline(request)
            state = _prepared(model, sequence, timestamp)
        else:
            sequence, state = self._stored_user(model, str(request.user_id), timestamp)
        stages.store = (time.perf_counter() - started) * 1e3
        scored = self._scored(model, state, candidates, timestamp, request.explain, stages)
        return ScoreAnswer(
            request_id=request_id,
            model_version=model.version,
            scores=scored.click_probability_N.tolist(),
            sequence_length=len(sequence),
            sequence_length_used=state.length,
            unknown_candidates=np.flatnonzero(scored.unknown_N).tolist(),
            degraded=False,
            degraded_reason=None,
            explanations=msgspec.UNSET if scored.kept is None else _explanations(model, state, scored.kept, range(len(candidates))),
        )

    def _recommend(self, model: Served, request: RecommendRequest, request_id: str, now: int, stages: Stages) -> RecommendAnswer:
        started = time.perf_counter()
        timestamp = now if request.timestamp is None else request.timestamp
        sequence, state = self._stored_user(model, str(request.user_id), timestamp)
        stages.store = (time.perf_counter() - started) * 1e3
        pool = model.runtime.retrieve(state, max(request.pool, request.limit), request.exclude_seen)
        scored = self._scored(model, state, pool, timestamp, request.explain, stages)
        best = np.argsort(-scored.click_probability_N, kind="stable")[: request.limit].tolist()
        kept: Sequence[list[Explanation] | msgspec.UnsetType] = (
            [msgspec.UNSET] * len(best) if scored.kept is None else _explanations(model, state, scored.kept, best)
        )
        items = [
            RecommendedItem(
                model.runtime.item_id(int(pool[place])) or "",
                float(scored.click_probability_N[place]),
                model.runtime.item_text(int(pool[place])),
                explanation,
            )
            for place, explanation in zip(best, kept, strict=True)
        ]
        return RecommendAnswer(
            request_id=request_id,
            model_version=model.version,
            items=items,
            pool=len(pool),
            unknown_candidates=np.flatnonzero(scored.unknown_N[best]).tolist(),
            sequence_length=len(sequence),
            sequence_length_used=state.length,
            degraded=False,
            degraded_reason=None,
        )

    def _inline(self, request: ScoreRequest) -> BehaviorSequence:
        behaviors = request.behaviors
        assert behaviors is not msgspec.UNSET
        texts = id_texts([behavior.item_id for behavior in behaviors], "/behaviors", "/item_id")
        timestamp = np.array([behavior.timestamp for behavior in behaviors], dtype=np.int64)
        order = np.argsort(timestamp, kind="stable")
        return BehaviorSequence(hash_item_ids(texts)[order], timestamp[order], -1)

    def _stored_user(self, model: Served, user_id: str, timestamp: int) -> tuple[BehaviorSequence, UserState]:
        """What the store holds about the user, prepared as of the request's time: behaviors later than it are ignored."""
        erasures = model.users.erasures()
        sequence = self._store.read(user_id)
        known = _known(sequence, timestamp)
        if known == 0:
            return sequence, _prepared(model, sequence, timestamp)
        return sequence, model.users.state(user_id, sequence, known, erasures)

    def _scored(self, model: Served, state: UserState, candidates: U64, timestamp: int, explain: int, stages: Stages) -> Scored:
        scored = model.runtime.score(state, candidates, timestamp, explain)
        if not np.isfinite(scored.click_probability_N).all():
            raise RuntimeError("a click probability is not finite")
        stages.search, stages.rank = scored.search_ms, scored.rank_ms
        self._metrics.candidates.inc(len(candidates))
        return scored


def _known(sequence: BehaviorSequence, timestamp: int) -> int:
    """How many of the behaviors are not later than the request's time."""
    return int(np.searchsorted(sequence.timestamp, timestamp, side="right"))


def _prepared(model: Served, sequence: BehaviorSequence, timestamp: int) -> UserState:
    known = _known(sequence, timestamp)
    return model.runtime.prepare(sequence.item_hash[:known], sequence.timestamp[:known])


def _check_explain(explain: int, model: Served) -> None:
    if explain > model.runtime.max_kept:
        raise Problem(422, f"explain is at most {model.runtime.max_kept} (what search keeps), got {explain}", pointer="/explain")


def _explanations(model: Served, state: UserState, kept: Kept, rows: range | list[int]) -> list[list[Explanation]]:
    described = dict[int, tuple[str | None, str, int, dict[str, str]]]()
    for place in np.unique(kept.index_NE[rows]).tolist():
        if place >= 0:
            item_hash = int(state.item_hash_L[place])
            text = model.runtime.item_text(item_hash)
            described[place] = (model.runtime.item_id(item_hash), str(item_hash), int(state.timestamp_L[place]), text)
    index, score, weight = (array[rows].tolist() for array in (kept.index_NE, kept.score_NE, kept.weight_NE))
    explanations = []
    for of_candidate in zip(index, score, weight, strict=True):
        explanation = []
        for place, kept_score, kept_weight in zip(*of_candidate, strict=True):
            if place >= 0:
                item_id, item_hash_text, timestamp, text = described[place]
                recency = state.length - place
                explanation.append(Explanation(item_id, item_hash_text, timestamp, recency, kept_score, kept_weight, text))
        explanations.append(explanation)
    return explanations
