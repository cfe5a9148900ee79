"""Everything that is not the network, at many ids: time per id, and the memory that a process comes to.

`python benchmarks/many.py` takes a minute or two; with `--ids 10000 100000 1000000` about half an hour, and 6 GB of
disk for a while (below $BENCH_DIR, or where temporary files go). Images are of 8 x 8 pixels and differ; every tenth
has a mask; masks are links to a few files. Every part runs in a process of its own. `old worker` is the plain way, for
contrast: rows as dicts, ids as a list of str.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import many_parts
from many_parts import PARTS


def _alone(part: str, ids: int, work: Path) -> dict[str, Any]:
    """Run one part in a process of its own; what it says of itself."""
    words = [sys.executable, str(Path(many_parts.__file__).resolve()), part, str(ids)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    env.pop("DVC_ROOT", None)
    done = subprocess.run(words, cwd=work, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{part}, {ids} ids: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def run(sizes: tuple[int, ...], parts: tuple[str, ...]) -> list[dict[str, Any]]:
    """Measure every part at every size: part, unit, ids, seconds, us_per_id, cpu_us_per_id, peak_mib, note."""
    rows = []
    for ids in sizes:
        with tempfile.TemporaryDirectory(prefix="many-", dir=os.environ.get("BENCH_DIR")) as folder:
            work = Path(folder)
            _alone("generate", ids, work)
            for part in parts:
                if part == "prepare, 1 % changed":
                    _alone("change", ids, work)
                rows.append(_alone(part, ids, work))
                print(_line(rows[-1]), file=sys.stderr, flush=True)
    return rows


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['part']:26} {row['ids']:>8} ids {row['seconds']:8.2f} s {row['us_per_id']:8.1f} us/id, "
        f"{row['cpu_us_per_id']:8.1f} of a CPU {row['peak_mib']:7.0f} MiB  {row['note']}"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, a row a part, three columns a size."""
    sizes = sorted({row["ids"] for row in rows})
    by = {(row["part"], row["ids"]): row for row in rows}
    lines = [
        "| part | " + " | ".join(f"{ids:,} ids: us/id | CPU us/id | MiB" for ids in sizes) + " | |",
        "|---|" + "---:|---:|---:|" * len(sizes) + "---|",
    ]
    for part in dict.fromkeys(row["part"] for row in rows):
        there = [by.get((part, ids)) for ids in sizes]
        cells = [
            f"{r['us_per_id']:.1f} | {r['cpu_us_per_id']:.1f} | {r['peak_mib']:.0f}" if r else " | | " for r in there
        ]
        lines.append(f"| {part} | " + " | ".join(cells) + f" | {next(r for r in reversed(there) if r)['note']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ids", type=int, nargs="+", default=[1_000, 10_000], help="How many images (%(default)s).")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="Only these.")
    parser.add_argument("--json", type=Path, help="File for the same as JSON.")
    asked = parser.parse_args()
    rows = run(tuple(asked.ids), tuple(asked.parts))
    print(table(rows))
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
