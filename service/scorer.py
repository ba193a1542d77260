"""The story of one request: admit, read the user's behaviors, prepare or extend the user, score, explain."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np

from model.item_hash import hash_item_ids
from model.runtime import Scored
from model.user_state import UserState
from service.admission import Admission, Deadline
from service.batch_reads import BatchReads
from service.behavior_store import U64, BehaviorSequence, BehaviorStore, StoreUnavailable
from service.call import Call
from service.errors import Problem, problem_document
from service.explanations import explanations
from service.loading import Served
from service.metrics import Metrics
from service.models import Models
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
from service.shadow import Shadow
from service.threads import Threads

Result = TypeVar("Result")
_WORTH_SHARING = 500_000
"""Behaviors times candidates from which a second thread saves more than it costs to wake it."""


@dataclass(slots=True)
class Work:
    """One admitted request: the model that answers, the stored user (None: behaviors sent inline), until when, as of which time."""

    call: Call
    model: Served
    user: str | None
    deadline: Deadline
    timestamp: int
    reads: BatchReads | None = None
    """Of the batch that the request is part of."""
    threads: int = 1
    """That the kernels may take: one, and those of other requests that are not there."""


@dataclass(slots=True)
class Known:
    """The whole sequence of the user, the state of what is used of it, and why that is less than usual (None: it is not)."""

    sequence: BehaviorSequence
    state: UserState
    degraded_reason: str | None


class Scorer:
    """Answers requests; inference runs in its threads, never on the event loop."""

    def __init__(self, settings: Settings, models: Models, store: BehaviorStore, metrics: Metrics, admission: Admission) -> None:
        self._settings = settings
        self._models = models
        self._store = store
        self._metrics = metrics
        self._admission = admission
        self._threads = Threads(settings.inference_threads, "score")
        self._shadow = Shadow(models, metrics, admission, self._threads, self._whole_user)

    async def score(self, request: ScoreRequest, call: Call, active: Served | None = None, reads: BatchReads | None = None) -> ScoreAnswer:
        """Score the request's candidates. Args: `active` what answers a whole batch, `reads` its users; None for a request alone. Raises:
        Problem."""
        work, candidates = self._checked(request, call, active)
        work.reads = reads
        answer = await self._inference(work, lambda: self._score(request, candidates, work))
        if work.user is not None and answer.degraded_reason is None:
            self._shadow.compare(work.user, candidates, work.timestamp, answer.scores)
        return answer

    async def score_batch(self, request: BatchRequest, call: Call) -> BatchAnswer:
        """Score the requests one after the other, each admitted and answered on its own. Raises: Problem for the batch as a whole."""
        limit = self._settings.max_batch
        if len(request.requests) > limit:
            raise Problem(422, f"at most {limit} requests, got {len(request.requests)}", pointer="/requests")
        call.caller.charge(len(request.requests) - 1)
        answers, explained, active = [], 0, self._models.active
        parts = [_decoded(raw) for raw in request.requests]
        reads = BatchReads(self._store, self._models, _users_of(parts, call))
        for place, wanted in enumerate(parts):
            if await call.left():
                raise Problem(400, f"the client went away after {place} of {len(parts)} requests", kind="client-gone")
            part = call.part()
            began = time.monotonic()
            try:
                if isinstance(wanted, Problem):
                    raise wanted
                explained += wanted.explain * len(wanted.candidates)
                self._check_explained(explained, active)
                answers.append(BatchedAnswer(200, answer=await self.score(wanted, part, active, reads)))
                self._metrics.observe(part.stages.times(began))
            except Problem as problem:
                if problem.pointer is not None:
                    problem.pointer = f"/requests/{place}{problem.pointer}"
                answers.append(BatchedAnswer(problem.status, problem=problem_document(problem, call.request_id)))
            call.stages.add(part.stages)
        return BatchAnswer(call.request_id, answers)

    async def recommend(self, request: RecommendRequest, call: Call) -> RecommendAnswer:
        """Retrieve, score and order candidates. Raises: Problem."""
        work = self._work(request, call, call.caller.user(id_text(request.user_id, "/user_id")))
        return await self._inference(work, lambda: self._recommend(request, work))

    async def close(self) -> None:
        """Finish what runs, then let go of the threads."""
        await self._shadow.finished()
        self._threads.close()

    async def _inference(self, work: Work, scoring: Callable[[], Result]) -> Result:
        async with self._admission.permit(work.deadline, work.call.gone) as waited_ms:
            work.call.stages.queue = waited_ms
            work.threads = min(self._settings.threads_per_request, 1 + self._admission.free)
            return await self._threads.run(scoring)

    def _checked(self, request: ScoreRequest, call: Call, active: Served | None) -> tuple[Work, U64]:
        """The work and the candidate hashes of a request whose fields agree with each other and with the limits."""
        limit = self._settings.max_candidates
        if len(request.candidates) > limit:
            raise Problem(422, f"at most {limit} candidates, got {len(request.candidates)}", pointer="/candidates")
        inline, known = request.behaviors is not msgspec.UNSET, request.user_id is not msgspec.UNSET
        if inline == known:
            raise Problem(422, f"give either user_id or behaviors, got {'both' if inline else 'neither'}", pointer="/user_id")
        user = None
        if isinstance(request.behaviors, list):
            most = self._settings.max_inline_behaviors
            if len(request.behaviors) > most:
                raise Problem(422, f"at most {most} behaviors, got {len(request.behaviors)}", pointer="/behaviors")
        elif request.user_id is not msgspec.UNSET:
            user = call.caller.user(id_text(request.user_id, "/user_id"))
        work = self._work(request, call, user, active)
        return work, hash_item_ids(id_texts(request.candidates, "/candidates"))

    def _work(self, request: ScoreRequest | RecommendRequest, call: Call, user: str | None, active: Served | None = None) -> Work:
        model = self._models.choose(user, request.model_version, active)
        most = model.runtime.max_kept
        if request.explain > most:
            raise Problem(422, f"explain is at most {most} (what search keeps), got {request.explain}", pointer="/explain")
        timestamp = call.now if request.timestamp is None else request.timestamp
        return Work(call, model, user, Deadline(request.budget_ms, call.started), timestamp)

    def _check_explained(self, explained: int, model: Served) -> None:
        limit = self._settings.max_candidates * model.runtime.max_kept
        if explained > limit:
            raise Problem(422, f"at most {limit} behaviors are explained in one batch, this request asks for number {explained}")

    def _score(self, request: ScoreRequest, candidates: U64, work: Work) -> ScoreAnswer:
        known = self._known(work, request, len(candidates))
        scored = self._scored(work, known, candidates, request.explain)
        rows = range(len(candidates))
        return ScoreAnswer(
            request_id=work.call.request_id,
            model_version=work.model.version,
            scores=scored.click_probability_N.tolist(),
            sequence_length=len(known.sequence),
            sequence_length_used=known.state.length,
            unknown_candidates=np.flatnonzero(scored.unknown_N).tolist(),
            degraded=known.degraded_reason is not None,
            degraded_reason=known.degraded_reason,
            explanations=msgspec.UNSET if scored.kept is None else explanations(work.model, known.state, scored.kept, rows),
        )

    def _recommend(self, request: RecommendRequest, work: Work) -> RecommendAnswer:
        wanted, runtime = max(request.pool, request.limit), work.model.runtime
        known = self._known(work, request, wanted)
        pool = runtime.retrieve(known.state, wanted, request.exclude_seen)
        scored = self._scored(work, known, pool, request.explain)
        best = np.argsort(-scored.click_probability_N, kind="stable")[: request.limit].tolist()
        kept: Sequence[list[Explanation] | msgspec.UnsetType] = (
            [msgspec.UNSET] * len(best) if scored.kept is None else explanations(work.model, known.state, scored.kept, best)
        )
        items = [
            RecommendedItem(
                runtime.item_id(int(pool[place])) or "",
                float(scored.click_probability_N[place]),
                runtime.item_text(int(pool[place])),
                explanation,
            )
            for place, explanation in zip(best, kept, strict=True)
        ]
        return RecommendAnswer(
            request_id=work.call.request_id,
            model_version=work.model.version,
            items=items,
            pool=len(pool),
            unknown_candidates=np.flatnonzero(scored.unknown_N[best]).tolist(),
            sequence_length=len(known.sequence),
            sequence_length_used=known.state.length,
            degraded=known.degraded_reason is not None,
            degraded_reason=known.degraded_reason,
        )

    def _known(self, work: Work, request: ScoreRequest | RecommendRequest, candidates: int) -> Known:
        """Read the user's behaviors and prepare them as of the request's time: all of them, or the newest that the time left allows."""
        model, stages, started = work.model, work.call.stages, time.perf_counter()
        degraded_reason, erasures = None, model.users.erasures()
        if work.user is None:
            assert isinstance(request, ScoreRequest)
            sequence = _inline(request)
        else:
            try:
                if work.reads is None:
                    sequence = self._store.read(work.user)
                else:
                    sequence, erasures = work.reads.read(work.user, model)
            except StoreUnavailable:
                sequence, degraded_reason = self._store.recall(work.user), "store_unavailable"
        stages.store = (time.perf_counter() - started) * 1e3
        work.deadline.check("the user was prepared")
        started = time.perf_counter()
        # Behaviors later than the request are ignored.
        end = int(np.searchsorted(sequence.timestamp, work.timestamp, side="right"))
        ready = work.user is not None and model.users.holds(work.user, sequence, end)
        used = model.pace.longest(work.deadline.left_s(), end, candidates, ready, least=model.runtime.max_kept)
        if used == end and work.user is not None and end > 0:
            state = model.users.state(work.user, sequence, end, erasures)
        else:
            state = model.runtime.prepare(sequence.item_hash[end - used : end], sequence.timestamp[end - used : end])
        stages.prepare = (time.perf_counter() - started) * 1e3
        if not ready:
            model.pace.prepared(used, stages.prepare)
        if used < end:
            degraded_reason = degraded_reason or "budget"
        if degraded_reason is not None:
            self._metrics.degraded.labels(degraded_reason).inc()
        return Known(sequence, state, degraded_reason)

    def _whole_user(self, model: Served, user: str, timestamp: int) -> UserState:
        erasures = model.users.erasures()
        sequence = self._store.read(user)
        return model.users.state(user, sequence, int(np.searchsorted(sequence.timestamp, timestamp, side="right")), erasures)

    def _scored(self, work: Work, known: Known, candidates: U64, explain: int) -> Scored:
        work.deadline.check("search began")
        threads = work.threads if known.state.length * len(candidates) >= _WORTH_SHARING else 1
        scored = work.model.runtime.score(known.state, candidates, work.timestamp, explain, threads)
        if not np.isfinite(scored.click_probability_N).all():
            raise RuntimeError("a click probability is not finite")
        stages = work.call.stages
        stages.search, stages.rank = scored.search_ms, scored.rank_ms
        # What one thread takes at most: the next request may have no helper.
        work.model.pace.scored(known.state.length, len(candidates), scored.search_ms * threads, scored.rank_ms * threads)
        self._metrics.candidates.inc(len(candidates))
        return scored


def _decoded(raw: msgspec.Raw) -> ScoreRequest | Problem:
    try:
        return decode(ScoreRequest, raw)
    except Problem as problem:
        return problem


def _users_of(parts: Sequence[ScoreRequest | Problem], call: Call) -> list[str]:
    """The stored users of a batch, each once; a bad id is left to the request that has it."""
    users = dict[str, None]()
    for part in parts:
        if isinstance(part, ScoreRequest) and part.user_id is not msgspec.UNSET:
            with contextlib.suppress(Problem):
                users[call.caller.user(id_text(part.user_id, "/user_id"))] = None
    return list(users)


def _inline(request: ScoreRequest) -> BehaviorSequence:
    behaviors = request.behaviors
    assert behaviors is not msgspec.UNSET
    texts = id_texts([behavior.item_id for behavior in behaviors], "/behaviors", "/item_id")
    timestamp = np.array([behavior.timestamp for behavior in behaviors], dtype=np.int64)
    order = np.argsort(timestamp, kind="stable")
    return BehaviorSequence(hash_item_ids(texts)[order], timestamp[order], -1)
