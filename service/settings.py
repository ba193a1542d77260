"""Every operational setting, with unit and default (docs/settings.md is checked against this file). The mathematics is in the artifact."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from `DARE_*` environment variables; values out of range and unknown names given in code are refused."""

    model_config = SettingsConfigDict(env_prefix="DARE_", extra="forbid", frozen=True)

    artifacts: Path = Field(default=Path("artifacts"), description="directory of model versions")
    store: str = Field(default="memory:", description="behavior store: memory:, file:DIR or redis://HOST:PORT/DB")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to listen on")
    api_keys: Path | None = Field(default=None, description="JSON file of API keys, hashed; without it nobody but this machine may call")
    development: bool = Field(default=False, description="answer everybody without a key, on a loopback address alone")
    published_address: str = Field(default="", description="address that a container's port is published on, where that is not DARE_HOST")
    workers: int = Field(default=1, ge=1, le=64, description="worker processes; the in-process stores allow one")
    inference_threads: int = Field(default=2, ge=1, le=256, description="requests scored at the same time")
    store_threads: int = Field(default=2, ge=1, le=256, description="requests that post, list or erase behaviors at the same time")
    store_timeout_ms: int = Field(
        default=25,
        ge=1,
        le=10_000,
        description="longest wait for what is new about a user in a shared store, ms; four times it for a whole history",
    )
    store_write_timeout_ms: int = Field(
        default=200, ge=1, le=60_000, description="longest wait for a shared store to store or erase, ms; then 503"
    )
    store_ttl_days: int = Field(
        default=400, ge=0, le=36_500, description="days after a user's last posted behavior until a shared store drops them; 0: never"
    )
    store_cache_bytes: int = Field(default=128 * 2**20, ge=0, description="behaviors of a shared store kept in each process, bytes")
    store_stale_s: float = Field(
        default=300.0, ge=0, le=86_400, description="how long they are used while a shared store cannot be reached, s"
    )
    threads_per_request: int = Field(
        default=2, ge=1, le=64, description="most threads of the kernels within one request; those beyond the first only where others idle"
    )
    queue_length: int = Field(
        default=32,
        ge=0,
        le=100_000,
        description="requests that may wait for a thread, for scoring and for the store each; more are answered 503",
    )
    queue_wait_ms: int = Field(default=250, ge=1, le=60_000, description="longest wait for a thread, ms; then 503")
    retry_after_s: int = Field(default=1, ge=1, le=3600, description="Retry-After of 503 answers, s")
    max_body_bytes: int = Field(default=16 * 2**20, ge=1024, description="largest request body, bytes; more is answered 413")
    body_timeout_s: float = Field(default=15.0, gt=0, le=600, description="longest time to receive a request body, s; then 408")
    idle_timeout_s: float = Field(
        default=15.0, gt=0, le=600, description="longest time until a request's head is complete, or without progress of an answer, s"
    )
    max_connections: int = Field(default=1000, ge=8, le=1_000_000, description="connections open at a time; more are answered 503")
    listen_backlog: int = Field(default=128, ge=1, le=65_535, description="connections that may wait to be accepted")
    max_header_bytes: int = Field(default=32_768, ge=1024, description="all headers of a request, bytes; more is answered 431")
    max_candidates: int = Field(default=4096, ge=1, le=100_000, description="candidates of one request")
    max_batch: int = Field(default=64, ge=1, le=10_000, description="requests of one POST /v1/score:batch")
    max_inline_behaviors: int = Field(default=100_000, ge=1, le=100_000, description="inline behaviors of one request")
    max_posted_behaviors: int = Field(default=10_000, ge=1, le=1_000_000, description="behaviors of one POST /v1/behaviors")
    max_posted_per_user: int = Field(default=100, ge=1, le=100_000, description="behaviors for one user in one POST /v1/behaviors")
    drain_s: float = Field(
        default=0.0, ge=0, le=600, description="time between SIGTERM, when /readyz turns 503, and the end of listening, s"
    )
    user_cache_bytes: int = Field(default=512 * 2**20, ge=0, description="prepared users kept in memory, bytes")
    follow_current_s: float = Field(default=1.0, gt=0, le=3600, description="time between looks at which version CURRENT names, s")
    canary_version: str | None = Field(default=None, description="model version that answers for a share of the users, by hash of their id")
    canary_share: float = Field(default=0.0, ge=0, le=1, description="share of the users that the canary answers for")
    shadow_version: str | None = Field(default=None, description="model version that scores besides, to compare; it never answers")
    shadow_share: float = Field(default=0.0, ge=0, le=1, description="share of the users whose scores the shadow is compared with")
    otlp_endpoint: str = Field(
        default="", description="OpenTelemetry collector that spans are sent to, http://HOST:PORT; needs the extra otel"
    )
    search_backend: str = Field(default="auto", description="kernel of stage 1: auto or a name that `dare doctor` lists")
    ranking_backend: str = Field(default="auto", description="kernel of stage 2: auto or a name that `dare doctor` lists")
