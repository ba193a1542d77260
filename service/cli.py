"""The `dare` command. Each command's code is imported when it runs, so that `--help` is instant and serving loads no training code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from service.cli_bench import bench_app
from service.cli_options import (
    Artifacts,
    DataDir,
    Host,
    Impressions,
    Json,
    Port,
    RawActions,
    RawOut,
    RawSource,
    Seed,
    Settings,
    SkipBad,
    Store,
    TidyFolder,
    Version,
)
from service.cli_study import study_app


class Named(typer.core.TyperGroup):
    """Commands whose refusals of a value name it: those of pydantic say only what it should have been."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for. Raises: typer.BadParameter."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            from pydantic import ValidationError

            if isinstance(error.__cause__, ValidationError):
                error.message += f", got {error.__cause__.errors()[0]['input']}"
            raise


app = typer.Typer(
    cls=Named,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="DARE: train on click logs, score candidates against whole histories over HTTP.",
)
data_app = typer.Typer(no_args_is_help=True, help="Get data, or look at a folder in the tidy format.")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(study_app, name="study")


@data_app.command("complete-journey")
def data_complete_journey(
    out: Annotated[Path, typer.Option("--out", help="folder to write")] = Path("data/complete-journey"), seed: Seed = 0
) -> None:
    """Write one year of grocery purchases (1.47 million, 2,469 households) in the tidy format."""
    from service.commands.data import complete_journey

    complete_journey(out, seed)


@data_app.command("taobao")
def data_taobao(source: RawSource, out: RawOut, actions: RawActions = "pv", skip_bad_rows: SkipBad = False, as_json: Json = False) -> None:
    """Convert Taobao UserBehavior.csv (100 million rows) to the tidy format. Actions: pv, buy, cart, fav."""
    from model.data.taobao import write_taobao
    from service.commands.data import public_set

    public_set("Taobao", write_taobao, source, out, skip_bad_rows, as_json, actions=actions)


@data_app.command("tmall")
def data_tmall(
    source: RawSource, out: RawOut, actions: RawActions = "click", skip_bad_rows: SkipBad = False, as_json: Json = False
) -> None:
    """Convert Tmall user_log_format1.csv to the tidy format. Actions: click, cart, buy, favourite."""
    from model.data.tmall import write_tmall
    from service.commands.data import public_set

    public_set("Tmall", write_tmall, source, out, skip_bad_rows, as_json, actions=actions)


@data_app.command("kuairand")
def data_kuairand(source: RawSource, out: RawOut, skip_bad_rows: SkipBad = False, as_json: Json = False) -> None:
    """Convert KuaiRand (Pure, 1K or 27K) to the tidy format: clicks as behaviors, all impressions with their labels beside."""
    from model.data.kuairand import write_kuairand
    from service.commands.data import public_set

    public_set("KuaiRand", write_kuairand, source, out, skip_bad_rows, as_json)


@data_app.command("movielens")
def data_movielens(source: RawSource, out: RawOut, skip_bad_rows: SkipBad = False, as_json: Json = False) -> None:
    """Convert MovieLens ratings.csv or ratings.dat to the tidy format: every rating is a behavior."""
    from model.data.movielens import write_movielens
    from service.commands.data import public_set

    public_set("MovieLens", write_movielens, source, out, skip_bad_rows, as_json)


@data_app.command("synthetic")
def data_synthetic(
    out: RawOut,
    users: Annotated[int, typer.Option("--users", min=1, help="users to write")] = 1500,
    length: Annotated[int, typer.Option("--length", min=10, help="behaviors of each user")] = 2000,
    items: Annotated[int, typer.Option("--items", min=31, help="items they choose from")] = 3600,
    seed: Seed = 0,
    moments: Annotated[int, typer.Option("--moments", min=1, help="times at which a user is offered items")] = 40,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="items offered at a time")] = 5,
    half_lives: Annotated[str, typer.Option("--half-lives", help="behaviors until relevance halves; inf: it never does")] = "90,300,900",
    complement: Annotated[float, typer.Option("--complement", min=0, max=1, help="relevance of a topic's complement; 0: none")] = 0.6,
    topics_per_category: Annotated[
        int, typer.Option("--topics-per-category", min=1, help="hidden topics of a category; with 1, hard search finds all")
    ] = 6,
    slope: Annotated[float, typer.Option("--slope", min=0, help="how much relevance decides a label; 0: labels are noise")] = 2.25,
    as_json: Json = False,
) -> None:
    """Write synthetic lifelong data with known relevance: which behaviors a search should find is in truth/."""
    from service.commands.data import synthetic

    sizes = {"users": users, "length": length, "items": items, "seed": seed, "moments": moments, "candidates": candidates}
    nature = {"complement": complement, "topics_per_category": topics_per_category, "slope": slope}
    synthetic(out, as_json, half_lives, **sizes, **nature)


@data_app.command("check")
def data_check(folder: TidyFolder, skip_bad_rows: SkipBad = False, as_json: Json = False) -> None:
    """Read a folder in the tidy format and describe it; bad rows are named by file, row and reason."""
    from service.commands.data import check

    check(folder, skip_bad_rows, as_json)


@app.command()
def train(
    data: DataDir,
    out: Annotated[Path, typer.Option("--out", help="directory of model versions to add to")] = Path("artifacts"),
    preset: Annotated[str, typer.Option("--preset", help="default, demo (faster) or paper (as published)")] = "default",
    model: Annotated[str, typer.Option("--model", help="dare, or a rival by name (docs/stages.md)")] = "dare",
    seed: Seed = 0,
    longest: Annotated[
        int | None, typer.Option("--longest", min=1, help="use only the newest behaviors of a history; default: the preset's")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="passes over the training targets; default: the preset's")] = None,
    kept: Annotated[int | None, typer.Option("--kept", min=1, help="behaviors that search keeps; default: the preset's")] = None,
    settings: Settings = None,
    impressions: Impressions = False,
    split: Annotated[
        str, typer.Option("--split", help="user: each user's own last behaviors are the test; time: everybody's latest")
    ] = "user",
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="threads of training; more than one helps only on an otherwise idle machine")
    ] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="start again instead of resuming an interrupted training")] = False,
    skip_bad_rows: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Train DARE and add it to the artifacts as the current version. Ctrl-C keeps a checkpoint; the same command resumes.

    Several processes share each step: torchrun --nproc-per-node 2 -m service train ...
    """
    from service.commands.training import train_command

    train_command(
        data, out, preset, model, seed, longest, epochs, kept, settings or [], impressions, split, threads, fresh, skip_bad_rows, as_json
    )


@app.command("stages")
def stages(
    kind: Annotated[str | None, typer.Option("--kind", help="search, encoder, pooling or objective; default: all")] = None,
    as_json: Json = False,
) -> None:
    """List the stages that a model can be made of: options with their defaults, source, and how they are served (docs/stages.md)."""
    from service.commands.stages import stages_command

    stages_command(kind, as_json)


@app.command()
def evaluate(
    data: DataDir,
    artifacts: Artifacts = Path("artifacts"),
    version: Version = None,
    counts: Annotated[bool, typer.Option("--counts", help="also the counts baseline on the very same rows")] = False,
    impressions: Impressions = False,
    skip_bad_rows: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Score the test rows with the artifact as it is served, without torch."""
    from service.commands.evaluation import evaluate_command

    evaluate_command(data, artifacts, version, counts, impressions, skip_bad_rows, as_json)


@app.command()
def load(
    data: DataDir,
    store: Annotated[str, typer.Option("--store", help="behavior store to fill: file:DIR or redis://HOST:PORT/DB")],
    skip_bad_rows: SkipBad = False,
) -> None:
    """Fill a behavior store in bulk: every user of the data, replacing what the store held about them."""
    from service.commands.serving import load_command

    load_command(data, store, skip_bad_rows)


@app.command()
def capacity(
    users: Annotated[int, typer.Option("--users", min=1, help="users held", show_default=False)],
    behaviors: Annotated[
        int, typer.Option("--behaviors", min=1, help="behaviors of each; the newest 100,000 are kept", show_default=False)
    ],
    events: Annotated[bool, typer.Option("--events/--no-events", help="whether behaviors are posted with an event id")] = True,
    posted_per_day: Annotated[int, typer.Option("--posted-per-day", min=0, help="behaviors posted a day by all users, one a request")] = 0,
    as_json: Json = False,
) -> None:
    """Say how much memory a redis:// store will need, from measured constants."""
    from service.commands.capacity import capacity_command

    capacity_command(users, behaviors, events, posted_per_day, as_json)


@app.command()
def serve(
    artifacts: Artifacts = Path("artifacts"),
    store: Store = "memory:",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, typer.Option("--workers", min=1, help="worker processes; the in-process stores allow one")] = 1,
) -> None:
    """Serve the current model over HTTP. All other settings: docs/settings.md."""
    from service.commands.serving import serve_command

    serve_command(artifacts, store, host, port, workers)


@app.command()
def demo(
    data: Annotated[Path, typer.Option("--data", help="folder for the demo's data")] = Path("data/complete-journey"),
    artifacts: Artifacts = Path("artifacts"),
    store: Annotated[str, typer.Option("--store", help="behavior store")] = "file:data/behaviors",
    host: Host = "127.0.0.1",
    port: Port = 8000,
) -> None:
    """Everything in one go: get the data, train if there is no model yet, fill the store, serve. What `make serve` runs."""
    from service.commands.demo import demo_command

    demo_command(data, artifacts, store, host, port)


@app.command("key")
def key(
    name: Annotated[str, typer.Argument(help="what the key is called in refusals", show_default=False)],
    scope: Annotated[list[str], typer.Option("--scope", help="score, behaviors or admin; may be given several times")],
    tenant: Annotated[str, typer.Option("--tenant", help="whose users it reaches; default: the unnamed tenant's")] = "",
    requests_per_s: Annotated[float | None, typer.Option("--requests-per-s", help="its quota; default: none")] = None,
    burst: Annotated[int, typer.Option("--burst", min=1, help="requests at once within the quota")] = 10,
    file: Annotated[Path, typer.Option("--file", help="key file to add it to, which DARE_API_KEYS then names")] = Path("keys.json"),
) -> None:
    """Make an API key: printed once, kept as a hash."""
    from service.commands.keys import key_command

    key_command(name, scope, tenant, requests_per_s, burst, file)


@app.command()
def doctor(artifacts: Artifacts = Path("artifacts"), as_json: Json = False) -> None:
    """Say what is installed, which backends run and why the others do not, and whether the artifacts are sound."""
    from service.commands.doctor import doctor_command

    doctor_command(artifacts, as_json)


def main() -> None:
    """Run the command; what the user can mend is one line, not a trace."""
    from service.commands.failures import expected_failures

    try:
        app(prog_name="dare")
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except expected_failures() as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
