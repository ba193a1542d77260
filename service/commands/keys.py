"""`dare key`: a new API key, and the entry of the key file that knows it by its hash alone."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

import msgspec

from service.auth import KeyFile
from service.commands.terminal import console


def key_command(name: str, scopes: list[str], tenant: str, requests_per_s: float | None, burst: int, file: Path) -> None:
    """See `dare key`. Raises: ValueError for an entry that the service would refuse, or a name that the file has already."""
    key = secrets.token_urlsafe(32)
    entry: dict[str, Any] = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": scopes, "tenant": tenant}
    if requests_per_s is not None:
        entry |= {"requests_per_s": requests_per_s, "burst": burst}
    content = json.loads(file.read_text()) if file.exists() else {"keys": []}
    content["keys"].append(entry)
    try:
        keys = msgspec.convert(content, KeyFile).keys
    except msgspec.ValidationError as error:
        raise ValueError(f"{file}: {error}") from None
    if len({held.name for held in keys}) < len(keys):
        raise ValueError(f"{file}: there is a key named {name!r} already")
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.chmod(0o600)
    partial.replace(file)
    console.print(f"{file} knows it by its hash; it is shown only now:")
    print(key)
