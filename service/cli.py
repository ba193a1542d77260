"""The `dare` command. Each command's code is imported when it runs, so that `--help` is instant and serving loads no training code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="DARE: train on click logs, score candidates against whole histories over HTTP.",
)
data_app = typer.Typer(no_args_is_help=True, help="Get data, or look at a folder in the tidy format.")
app.add_typer(data_app, name="data")
bench_app = typer.Typer(no_args_is_help=True, help="Measure the kernels side by side with other libraries, and retrieval on data.")
app.add_typer(bench_app, name="bench")
study_app = typer.Typer(no_args_is_help=True, help="Measure what a model does.")
app.add_typer(study_app, name="study")

DataDir = Annotated[Path, typer.Option("--data", help="folder in the tidy format (docs/data.md)", show_default=False)]
Artifacts = Annotated[Path, typer.Option("--artifacts", help="directory of model versions")]
Version = Annotated[str | None, typer.Option("--version", help="model version; default: the current one")]
Json = Annotated[bool, typer.Option("--json", help="print JSON alone to standard output")]
SkipBad = Annotated[bool, typer.Option("--skip-bad-rows", help="leave bad rows out and report them, instead of refusing the file")]
TidyFolder = Annotated[Path, typer.Argument(help="folder in the tidy format (docs/data.md)", show_default=False)]
RawSource = Annotated[Path, typer.Argument(help="the published file, unpacked, or the folder that holds it", show_default=False)]
RawOut = Annotated[Path, typer.Option("--out", help="folder to write", show_default=False)]
RawActions = Annotated[str, typer.Option("--actions", help="actions to keep, separated by commas")]
Impressions = Annotated[bool, typer.Option("--impressions", help="targets from impressions.parquet with its labels, instead of drawn ones")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="seed of everything random")]
Store = Annotated[str, typer.Option("--store", help="behavior store: memory:, file:DIR or redis://HOST:PORT/DB")]
Host = Annotated[str, typer.Option("--host", envvar="HOST", help="address to listen on")]
Port = Annotated[int, typer.Option("--port", envvar="PORT", min=0, max=65535, help="port to listen on")]


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
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="any field of the configuration, as KEY=JSON, repeatable: --set model.ages=true (docs/model.md)"),
    ] = None,
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


@study_app.command("search-quality")
def study_search_quality(
    data: DataDir,
    artifacts: Annotated[Path | None, typer.Option("--artifacts", help="directory of model versions; without: simple rules alone")] = None,
    version: Version = None,
    kept: Annotated[int, typer.Option("--kept", min=1, help="behaviors to keep, without --artifacts")] = 20,
    most: Annotated[int, typer.Option("--targets", min=1, help="most test targets to judge by mutual information")] = 5000,
    impressions: Impressions = False,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", help="directory for a dated report")] = None,
    as_json: Json = False,
) -> None:
    """Judge what a model's search keeps, by known relevance (`dare data synthetic`) and by mutual information between categories (any data)."""
    from service.commands.study import search_quality_command

    search_quality_command(data, artifacts, version, kept, most, impressions, seed, out, as_json)


@study_app.command("gradient-conflict")
def study_gradient_conflict(
    data: DataDir,
    out: Annotated[Path, typer.Option("--out", help="directory for a dated report")] = Path("runs"),
    preset: Annotated[str, typer.Option("--preset", help="default, demo or paper; its tables become shared")] = "paper",
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="passes over the targets; default: the preset's")] = None,
    impressions: Impressions = False,
    seed: Seed = 0,
    threads: Annotated[int, typer.Option("--threads", min=1, help="threads of training")] = 1,
    as_json: Json = False,
) -> None:
    """Train one set of tables for attention and content, and measure how far the two pull apart: cosine and size of their gradients."""
    from service.commands.gradient_study import gradient_conflict_command

    gradient_conflict_command(data, out, preset, epochs, seed, threads, impressions, as_json)


@study_app.command("length")
def study_length(
    data: DataDir,
    out: Annotated[Path, typer.Option("--out", help="directory for the report; finished cells in OUT/length are not repeated")] = Path(
        "runs"
    ),
    preset: Annotated[str, typer.Option("--preset", help="default or demo")] = "default",
    length: Annotated[
        list[int] | None, typer.Option("--length", min=1, help="newest behaviors to read, repeatable; default: 20 and 200")
    ] = None,
    seed: Seed = 0,
    threads: Annotated[int, typer.Option("--threads", min=1, help="threads of training")] = 1,
    paper: Annotated[bool, typer.Option("--paper/--no-paper", help="also DARE as published")] = True,
    as_json: Json = False,
) -> None:
    """Train the same model on the newest 20, 200 and all behaviors, beside counts and DARE as published: table, JSON and plot. Resumes."""
    from service.commands.length_study import length_command

    length_command(data, out, preset, length or [20, 200], seed, threads, paper, as_json)


@study_app.command("options")
def study_options(
    data: DataDir,
    out: Annotated[Path, typer.Option("--out", help="directory for the report; finished cells in OUT/cells are not repeated")] = Path(
        "runs"
    ),
    base: Annotated[
        list[str] | None, typer.Option("--base", help="plain (no hand-made feature) or default, repeatable; default: both")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="trainings of each model")] = 5,
    threads: Annotated[int, typer.Option("--threads", min=1, help="threads of training")] = 1,
    as_json: Json = False,
) -> None:
    """Train the default model with one option changed at a time: what each is worth, with paired intervals. Resumes."""
    from service.commands.options_study import options_command

    options_command(data, out, base or [], seeds, threads, as_json)


@study_app.command("width")
def study_width(
    data: DataDir,
    out: Annotated[Path, typer.Option("--out", help="directory for the report; finished cells in OUT/width are not repeated")] = Path(
        "runs"
    ),
    width: Annotated[
        list[int] | None, typer.Option("--width", min=1, max=1024, help="attention width per field, repeatable; default: 4 to 128")
    ] = None,
    preset: Annotated[str, typer.Option("--preset", help="paper, default or demo")] = "paper",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="trainings of each width")] = 3,
    threads: Annotated[int, typer.Option("--threads", min=1, help="threads of training")] = 1,
    as_json: Json = False,
) -> None:
    """Train one model with attention tables of several widths: AUC against the measured time of search. Resumes."""
    from service.commands.width_study import width_command

    width_command(data, out, width or [4, 8, 16, 32, 64, 128], preset, seeds, threads, as_json)


@study_app.command("rivals")
def study_rivals(
    data: DataDir,
    out: Annotated[Path, typer.Option("--out", help="directory for the report; finished cells in OUT/cells are not repeated")] = Path(
        "runs"
    ),
    model: Annotated[list[str] | None, typer.Option("--model", help="published model, repeatable; default: all")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="seeds of DARE, TWIN, SIM, ours and the baselines; the others get one")] = 5,
    longest: Annotated[
        int | None, typer.Option("--longest", min=1, help="newest behaviors the published models read; default: 200")
    ] = None,
    impressions: Impressions = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="threads of training")] = 1,
    as_json: Json = False,
) -> None:
    """Train every published model and the baselines on the same rows: AUC with paired intervals as table, JSON and plot. Resumes."""
    from service.commands.rivals_study import rivals_command

    rivals_command(data, out, model or [], seeds, longest, impressions, threads, as_json)


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
    litserve: Annotated[Path, typer.Option("--litserve", help="virtual environment that holds LitServe; left out where there is none")] = Path("build/litserve"),
    lengths: Annotated[str, typer.Option("--lengths", help="histories whose cost a behavior is measured, 1..100000; empty: none")] = "1000,3000,10000,30000,100000",
    processes: Annotated[str, typer.Option("--processes", help="numbers of processes whose shared memory is measured; empty: none")] = "1,2,4",
    as_json: Json = False,
) -> None:
    """The whole request over HTTP, side by side with FastAPI + torch and LitServe + torch services of the same model; scores are compared first.
    Then what a behavior costs, by length, and what memory processes share."""
    from service.commands.bench_serve import bench_serve

    parts = _integers("--lengths", lengths, 100_000), _integers("--processes", processes, 64)
    bench_serve(artifacts, length, candidates, seconds, rounds, connections, as_json, litserve, *parts)


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
