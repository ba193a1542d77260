"""Prometheus metrics, in a registry of their own; workers of one service show their sum."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_DIFFERENCES = (1e-6, 1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class Metrics:
    """What `GET /metrics` shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("dare_requests", "Answers by route and status.", ["route", "status"], registry=self.registry)
        self.stage = Histogram("dare_stage_seconds", "Time of each stage of scoring.", ["stage"], buckets=_BUCKETS, registry=self.registry)
        # Looking a child up by its labels costs more than observing; every answer observes each stage.
        self._stage_of = dict[str, Histogram]()
        self.refused = Counter("dare_refused", "Requests refused by admission.", ["work", "reason"], registry=self.registry)
        self.in_flight = Gauge(
            "dare_in_flight", "Requests being worked on now.", ["work"], registry=self.registry, multiprocess_mode="livesum"
        )
        self.waiting = Gauge(
            "dare_waiting", "Requests waiting for a thread now.", ["work"], registry=self.registry, multiprocess_mode="livesum"
        )
        self.degraded = Counter("dare_degraded", "Answers that used less than usual, by reason.", ["reason"], registry=self.registry)
        self.store_failures = Counter("dare_store_failures", "Calls of the store that failed, by kind.", ["kind"], registry=self.registry)
        self.candidates = Counter("dare_candidates", "Candidates scored.", registry=self.registry)
        self.behaviors = Counter("dare_behaviors", "Behaviors posted, by outcome.", ["outcome"], registry=self.registry)
        self.user_cache = Counter("dare_user_cache", "Look-ups of prepared users, by outcome.", ["outcome"], registry=self.registry)
        self.user_cache_bytes = Gauge(
            "dare_user_cache_bytes", "Bytes of prepared users held.", registry=self.registry, multiprocess_mode="livesum"
        )
        self.model = Gauge("dare_model_info", "The model version served.", ["version"], registry=self.registry, multiprocess_mode="livemax")

        self.model_changes = Counter(
            "dare_model_changes", "Model versions that came to answer, or were refused.", ["outcome"], registry=self.registry
        )
        self.connections_let_go = Counter(
            "dare_connections_let_go",
            "Connections that the service closed, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.shadow = Counter("dare_shadow", "Answers compared with the shadow version, by outcome.", ["outcome"], registry=self.registry)
        self.shadow_difference = Histogram(
            "dare_shadow_difference",
            "Mean absolute difference of an answer's click probabilities from the shadow version's.",
            buckets=_DIFFERENCES,
            registry=self.registry,
        )

    def observe(self, stages_ms: dict[str, float]) -> None:
        """Record the stage times of one answer."""
        for name, value in stages_ms.items():
            child = self._stage_of.get(name)
            if child is None:
                child = self._stage_of[name] = self.stage.labels(name)
            child.observe(value / 1e3)

    def text(self) -> bytes:
        """The exposition format; of all workers together where there are several (`service.workers`)."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        of_all = CollectorRegistry()
        multiprocess.MultiProcessCollector(of_all)  # type: ignore[no-untyped-call]
        return generate_latest(of_all)
