"""What a rank of the data-parallel tests does, in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch

import model.train
from model.config import TrainConfig
from model.data_parallel import joined
from model.dataset import Dataset
from model.train import Progress, train

# A server that has torch loaded forks the ranks, so that none spends seconds on importing it.
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.model.parallel_training"])


@dataclass(frozen=True)
class Job:
    """A training to do in double precision: every rank writes what became of it to OUT/RANK.pt.

    At step `hold_at` ranks stop and wait to be killed; at step `interrupt_at` the last one hears Ctrl-C.
    """

    config: TrainConfig
    data: Dataset
    out: Path
    checkpoint: Path | None = None
    hold_at: int | None = None
    interrupt_at: int | None = None


def start(size: int, do: Callable[..., None], *args: Any) -> list[BaseProcess]:
    """`size` processes that call `do(*args)` with torchrun's environment."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    where = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [_CONTEXT.Process(target=_as_rank, args=(where | {"RANK": str(rank)}, do, args), daemon=True) for rank in range(size)]
    for rank in ranks:
        rank.start()
    return list(ranks)


def finish(ranks: list[BaseProcess]) -> list[int | None]:
    """Exit codes, once all have ended."""
    for rank in ranks:
        rank.join(300)
    return [rank.exitcode for rank in ranks]


def event() -> Event:
    """An event that ranks can set."""
    return _CONTEXT.Event()


def _as_rank(environment: dict[str, str], do: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    do(*args)


@contextmanager
def double_precision() -> Iterator[None]:
    """Parameters made meanwhile are float64."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def train_job(job: Job, reached: Event) -> None:
    """Do a job as one of the ranks."""
    model.train._CHECKPOINT_S = -1.0  # after every step
    signal.signal(signal.SIGINT, signal.default_int_handler)
    losses: list[tuple[int, float]] = []
    with joined() as ranks, double_precision():

        def report(progress: Progress) -> None:
            losses.append((progress.step, progress.loss))
            if progress.step == job.hold_at:
                reached.set()
                signal.pause()
            if progress.step == job.interrupt_at and ranks.rank == ranks.size - 1:
                reached.set()
                signal.raise_signal(signal.SIGINT)

        trained = train(job.config, job.data, job.checkpoint, report, ranks)
        done = {"losses": losses, "curve": trained.curve, "weights": trained.model.state_dict()}
        torch.save(done, job.out / f"{ranks.rank}.pt")


def refused_job(first: Job, second: Job) -> None:
    """Each of two ranks brings a job of its own, which must be refused."""
    with joined() as ranks:
        job = second if ranks.rank else first
        try:
            train(job.config, job.data, ranks=ranks)
        except ValueError as error:
            sys.exit(0 if "the 2 ranks do not agree on the data" in str(error) else str(error))
        sys.exit("it was not refused")


def dare_job(out: Path, arguments: list[str]) -> None:
    """The `dare` command as one of the ranks; what it prints goes to OUT/RANK.out and OUT/RANK.err."""
    from service.cli import main

    rank = os.environ["RANK"]
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(out / f"{rank}.{name}", os.O_CREAT | os.O_WRONLY), stream)
    sys.argv = ["dare", *arguments]
    main()
