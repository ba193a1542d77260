"""Options that several commands of `dare` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="any field of the configuration, as KEY=JSON, repeatable: --set model.ages=true (docs/model.md)"),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="seed of everything random")]
Store = Annotated[str, typer.Option("--store", help="behavior store: memory:, file:DIR or redis://HOST:PORT/DB")]
Host = Annotated[str, typer.Option("--host", envvar="HOST", help="address to listen on")]
Port = Annotated[int, typer.Option("--port", envvar="PORT", min=0, max=65535, help="port to listen on")]
