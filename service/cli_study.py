"""The `dare study` commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli_options import DataDir, Impressions, Json, Seed, Settings, Version

study_app = typer.Typer(no_args_is_help=True, help="Measure what models do, on any data.")

Out = Annotated[Path, typer.Option("--out", help="directory for the report; finished cells in OUT/cells are not repeated")]
Base = Annotated[
    list[str] | None,
    typer.Option(
        "--base", help="plain (no hand-made feature), demo (what make serve trains) or default, repeatable; default: plain and demo"
    ),
]


@study_app.command("search-quality")
def study_search_quality(
    data: DataDir,
    artifacts: Annotated[Path | None, typer.Option("--artifacts", help="directory of model versions; without: simple rules alone")] = None,
    version: Version = None,
    kept: Annotated[int, typer.Option("--kept", min=1, help="behaviors to keep, without --artifacts")] = 20,
    most: Annotated[int, typer.Option("--targets", min=1, help="most test targets to judge by mutual information")] = 5000,
    impressions: Impressions = False,
    seed: Seed = 0,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option("--out", help="directory for a dated report")] = None,
    as_json: Json = False,
) -> None:
    """Judge what a model's search keeps, by known relevance (`dare data synthetic`) and by mutual information of categories (any data)."""
    from service.commands.study import search_quality_command

    search_quality_command(data, artifacts, version, kept, most, impressions, seed, settings or [], out, as_json)


@study_app.command("gradient-conflict")
def study_gradient_conflict(
    data: DataDir,
    out: Annotated[Path, typer.Option("--out", help="directory for a dated report")] = Path("runs"),
    preset: Annotated[str, typer.Option("--preset", help="default, demo or paper; its tables become shared")] = "paper",
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="passes over the targets; default: the preset's")] = None,
    impressions: Impressions = False,
    seed: Seed = 0,
    settings: Settings = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="threads of training")] = 1,
    as_json: Json = False,
) -> None:
    """Train one set of tables for attention and content, and measure how far the two pull apart: cosine and size of their gradients."""
    from service.commands.gradient_study import gradient_conflict_command

    gradient_conflict_command(data, out, preset, epochs, seed, settings or [], threads, impressions, as_json)


@study_app.command("length")
def study_length(
    data: DataDir,
    out: Out = Path("runs"),
    base: Base = None,
    length: Annotated[
        list[int] | None, typer.Option("--length", min=1, help="newest behaviors to read, repeatable; default: 20, 200 and 2000")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="trainings of each model and length")] = 3,
    settings: Settings = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="threads of training")] = 1,
    paper: Annotated[bool, typer.Option("--paper/--no-paper", help="also DARE as published")] = True,
    as_json: Json = False,
) -> None:
    """Train the same models on the newest 20, 200, 2,000 and all behaviors, beside counts and DARE as published. Resumes."""
    from service.commands.length_study import length_command

    length_command(data, out, base or [], length or [20, 200, 2000], seeds, settings or [], threads, paper, as_json)


@study_app.command("options")
def study_options(
    data: DataDir,
    out: Out = Path("runs"),
    base: Base = None,
    option: Annotated[list[str] | None, typer.Option("--option", help="option by its name in the table, repeatable; default: all")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="trainings of each model")] = 5,
    settings: Settings = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="threads of training")] = 1,
    as_json: Json = False,
) -> None:
    """Train a base model with one option changed at a time: what each is worth, with paired intervals. Resumes."""
    from service.commands.options_study import options_command

    options_command(data, out, base or [], option or [], seeds, settings or [], threads, as_json)


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
    settings: Settings = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="threads of training")] = 1,
    as_json: Json = False,
) -> None:
    """Train one model with attention tables of several widths: AUC against the measured time of search. Resumes."""
    from service.commands.width_study import width_command

    width_command(data, out, width or [4, 8, 16, 32, 64, 128], preset, seeds, settings or [], threads, as_json)


@study_app.command("rivals")
def study_rivals(
    data: DataDir,
    out: Out = Path("runs"),
    model: Annotated[list[str] | None, typer.Option("--model", help="published model, repeatable; default: all")] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", help="published, slower, plain, features or live, repeatable; default: all")
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            min=1,
            help="seeds of DARE, TWIN, SIM, ours and the baselines; DIN, SIM hard, SDIM and ETA get up to three, the others one",
        ),
    ] = 5,
    longest: Annotated[
        int | None, typer.Option("--longest", min=1, help="newest behaviors the published models read; default: 200")
    ] = None,
    settings: Settings = None,
    impressions: Impressions = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="threads of training")] = 1,
    as_json: Json = False,
) -> None:
    """Train every published model and the baselines on the same rows: AUC with paired intervals as table, JSON and plot. Resumes."""
    from service.commands.rivals_study import rivals_command

    rivals_command(data, out, model or [], group or [], seeds, longest, settings or [], impressions, threads, as_json)
