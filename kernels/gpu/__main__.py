"""The benchmark with torch and Triton alone: `python -m kernels.gpu [--out FOLDER]`. `dare bench kernels --device cuda` is the same."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kernels.gpu import bench


def main() -> None:
    """Print the report; with --out also write it, and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out: Path | None = parser.parse_args().out
    found = bench.run("cuda")
    text = bench.report(found)
    print(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "kernels-cuda.txt").write_text(text + "\n")
        (out / "kernels-cuda.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
