"""What processes that serve one artifact hold in memory: what they share, and what each has for itself (Linux)."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path

_KIB_PER_MB = 1e6 / 1024
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$")
_SIZE = re.compile(r"^(Rss|Pss|Private_Clean|Private_Dirty): +(\d+) kB$")


@dataclass
class Held:
    """MB of one process: `resident`; `proportional`, where a page of n processes counts 1/n; `private`, of no other process; and the first
    two of the artifact's files alone."""

    resident: float = 0.0
    proportional: float = 0.0
    private: float = 0.0
    tables_resident: float = 0.0
    tables_proportional: float = 0.0


def can_measure() -> tuple[bool, str]:
    """Whether this system tells."""
    able = Path("/proc/self/smaps").exists()
    return able, "/proc/PID/smaps" if able else "this system has no /proc/PID/smaps"


def held_by(pid: int, artifacts: Path) -> Held:
    """What a process holds now. Raises: OSError when it is gone or not ours."""
    held, in_tables, root = Held(), False, str(artifacts.resolve()) + "/"
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if mapping := _MAPPING.match(line):
            in_tables = mapping[1].startswith(root)
        elif size := _SIZE.match(line):
            megabytes = int(size[2]) / _KIB_PER_MB
            if size[1] == "Rss":
                held.resident += megabytes
                held.tables_resident += megabytes * in_tables
            elif size[1] == "Pss":
                held.proportional += megabytes
                held.tables_proportional += megabytes * in_tables
            else:
                held.private += megabytes
    return held


def together(held: list[Held]) -> dict[str, float]:
    """The sums over processes, MB to the kilobyte."""
    return {name: round(sum(asdict(one)[name] for one in held), 3) for name in asdict(Held())}
