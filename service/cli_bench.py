"""The `dare bench` commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli_options import Artifacts, DataDir, Json, Version

bench_app = typer.Typer(
    no_args_is_help=True, help="Measure kernels, requests and training side by side with other libraries, and retrieval on data."
)


@bench_app.command("kernels")
def bench_kernels(
    device: Annotated[str, typer.Option("--device", help="cpu or cuda")] = "cpu",
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="time to spend on each row; five rounds are made at least")] = 3.0,
    only: Annotated[str | None, typer.Option("--only", help="only the rows with this text in their name")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="directory for dated result files: text, JSON and a plot")] = None,
    as_json: Json = False,
) -> None:
    """Check every backend against float64, then time it beside torch, faiss, ONNX Runtime and NumPy, one and two threads."""
    from service.commands.bench import bench_kernels

    bench_kernels(device, seconds, only, out, as_json)


@bench_app.command("retrieval")
def bench_retrieval(
    data: DataDir,
    artifacts: Artifacts = Path("artifacts"),
    version: Version = None,
    targets: Annotated[int, typer.Option("--targets", min=1, help="test targets to draw")] = 3000,
    as_json: Json = False,
) -> None:
    """How often the pool of /v1/recommend holds what the user takes next, on the test rows, by the size of the pool."""
    from service.commands.bench import bench_retrieval

    bench_retrieval(data, artifacts, version, targets, as_json)


@bench_app.command("serve")
def bench_serve(
    artifacts: Artifacts = Path("artifacts"),
    length: Annotated[int, typer.Option("--length", min=1, max=100_000, help="behaviors of each user")] = 10_000,
    candidates: Annotated[int, typer.Option("--candidates", min=1, max=4096, help="candidates of each request")] = 512,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="time to load each service")] = 20.0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="turns that each service's time is divided into")] = 5,
    connections: Annotated[int, typer.Option("--connections", min=1, max=256, help="callers, who never wait between requests")] = 4,
    litserve: Annotated[
        Path, typer.Option("--litserve", help="virtual environment that holds LitServe; left out where there is none")
    ] = Path("build/litserve"),
    lengths: Annotated[
        str, typer.Option("--lengths", help="histories whose cost a behavior is measured, 1..100000; empty: none")
    ] = "1000,3000,10000,30000,100000",
    processes: Annotated[
        str, typer.Option("--processes", help="numbers of processes whose shared memory is measured; empty: none")
    ] = "1,2,4",
    as_json: Json = False,
) -> None:
    """The whole request over HTTP, beside FastAPI + torch and LitServe + torch services of the same model; scores are compared first.

    Then what a behavior costs, by length, and what memory processes share."""
    from service.commands.bench_serve import bench_serve

    parts = _integers("--lengths", lengths, 100_000), _integers("--processes", processes, 64)
    bench_serve(artifacts, length, candidates, seconds, rounds, connections, as_json, litserve, *parts)


@bench_app.command("store")
def bench_store(
    store: Annotated[str, typer.Option("--store", help="redis://HOST:PORT/DB; what is written is erased", show_default=False)],
    artifacts: Artifacts = Path("artifacts"),
    lengths: Annotated[str, typer.Option("--lengths", help="behaviors of a user, 1..100000")] = "2000,100000",
    users: Annotated[str, typer.Option("--users", help="users of a request, 1..64; several are a score:batch")] = "1,16",
    candidates: Annotated[int, typer.Option("--candidates", min=1, max=4096, help="candidates for each user")] = 512,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="requests that are measured, each after a new behavior")] = 200,
    as_json: Json = False,
) -> None:
    """What a shared store costs a request that comes after one new behavior of each of its users."""
    from service.commands.bench_store import bench_store

    bench_store(artifacts, store, _integers("--lengths", lengths, 100_000), _integers("--users", users, 64), candidates, rounds, as_json)


def _integers(option: str, text: str, most: int) -> list[int]:
    values = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and 1 <= int(part) <= most for part in values):
        raise typer.BadParameter(f"must be numbers in 1..{most} separated by commas, got {text!r}", param_hint=option)
    return [int(part) for part in values]


@bench_app.command("train")
def bench_train(
    data: DataDir,
    fuxictr_python: Annotated[
        Path | None, typer.Option("--fuxictr-python", help="interpreter that has FuxiCTR (pip install fuxictr); left out without")
    ] = None,
    length: Annotated[
        list[int] | None, typer.Option("--length", min=1, max=100_000, help="history lengths to measure a step at; default: 1000 to 64000")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="time for the sides' turns; five rounds are made at least")] = 60.0,
    out: Annotated[Path | None, typer.Option("--out", help="directory for dated result files: text and JSON")] = None,
    as_json: Json = False,
) -> None:
    """Training steps a second as published, beside a plain torch model and FuxiCTR on the same rows; losses are compared first."""
    from service.commands.bench_train import bench_train

    bench_train(data, fuxictr_python, length or [1000, 4000, 16_000, 64_000], seconds, out, as_json)
