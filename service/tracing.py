"""Spans for OpenTelemetry, when a collector is named: one per request, by FastAPI, below the caller's `traceparent`, and one per stage.

Needs the extra `otel`. Without `DARE_OTLP_ENDPOINT` nothing is recorded and nothing leaves the process.
"""

from __future__ import annotations

import re
import time
from typing import Any

from fastapi.telemetry import TelemetryConfig

from service.call import Call
from service.settings import Settings

_STAGES = ("queue", "store", "prepare", "search", "rank")
_USER_IN_PATH = re.compile(r"^/v1/users/.*?(/behaviors)?$")
_UNTRACED = frozenset(["/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"])


class Tracing:
    """Where spans go.

    Raises: ValueError when a collector is named and the extra `otel` is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        self._provider: Any = None
        if not settings.otlp_endpoint:
            return
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import Span, TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise ValueError(f"DARE_OTLP_ENDPOINT needs the extra `otel` (pip install 'dare-serving[otel]'): {error}") from None

        class WithoutUsers(BatchSpanProcessor):
            """Sends spans; who a request was about stays here."""

            def on_start(self, span: Span, parent_context: Any = None) -> None:
                path = (span.attributes or {}).get("url.path")
                if isinstance(path, str):
                    span.set_attribute("url.path", _USER_IN_PATH.sub(r"/v1/users/{user_id}\1", path))
                super().on_start(span, parent_context)

        self._provider = TracerProvider(resource=Resource.create({"service.name": "dare-serving"}))
        self._provider.add_span_processor(WithoutUsers(OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")))
        self._tracer = self._provider.get_tracer("dare")

    @property
    def on(self) -> bool:
        """Whether spans are recorded."""
        return self._provider is not None

    def telemetry(self) -> TelemetryConfig:
        """What FastAPI is given: request spans or nothing; never its metrics (ours are Prometheus) and never texts of errors."""
        config = TelemetryConfig(metrics=False, logs=False, operation_spans=False, auto_configure=False, tracing=self._provider is not None)
        if self._provider is not None:
            config |= TelemetryConfig(tracer_provider=self._provider, exclude=lambda scope: scope.get("path") in _UNTRACED)
        return config

    def stages(self, call: Call) -> None:
        """Add a span per stage that ran to the request's, in the order in which they ran and ended now."""
        if self._provider is None:
            return
        durations_ns = [int(getattr(call.stages, stage) * 1e6) for stage in _STAGES]
        at = time.time_ns() - sum(durations_ns)
        for stage, duration_ns in zip(_STAGES, durations_ns, strict=True):
            if duration_ns == 0:
                continue
            span = self._tracer.start_span(stage, start_time=at)
            at += duration_ns
            span.end(at)

    def close(self) -> None:
        """Send what is left."""
        if self._provider is not None:
            self._provider.shutdown()
