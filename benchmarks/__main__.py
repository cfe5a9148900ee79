"""Run the benchmarks; print tables, and write JSON with machine and versions. `make bench`, or python benchmarks."""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the values that `stpp` sets, here for the reference too
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

PARTS = ("samples", "annotations", "networks", "engines", "whole", "many")
PACKAGES = ("torch", "torchvision", "albumentations", "opencv-python-headless", "pillow", "numpy", "mlflow", "dvc")


def machine() -> dict[str, Any]:
    import torch
    from measure import cpuinfo, instructions

    names = [line.partition(":")[2].strip() for line in cpuinfo() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in instructions()],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)},
    }


def _installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| part | reference | ours | ratio | target | |", "|---|---|---|---|---|---|"]
    for r in rows:
        met = "" if r["ratio"] >= r["target"] else "missed"
        unit = r["unit"]
        lines.append(
            f"| {r['part']} | {r['reference']:.3g} {unit} | {r['ours']:.3g} {unit} | {r['ratio']:.2f} "
            f"| {r['target']:g} | {met} |"
        )
    return "\n".join(lines)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    words.add_argument("--out", type=Path, default=Path("benchmarks.json"), help="where the numbers go")
    asked = words.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        words.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    found: dict[str, Any] = {"machine": machine(), "seconds": {}, "ratios": [], "many": []}
    for part in asked.parts or PARTS:
        began = time.perf_counter()
        module = importlib.import_module(part)
        rows = module.run()
        found["seconds"][part] = round(time.perf_counter() - began, 1)
        found["many" if part == "many" else "ratios"] += rows
        print(f"\n{module.table(rows) if part == 'many' else table(rows)}", flush=True)
        for note in dict.fromkeys(r["note"] for r in rows if part != "many" and r["note"]):
            print(f"- {note}", flush=True)
        asked.out.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\n{asked.out}: {found['machine']}; seconds: {found['seconds']}")


if __name__ == "__main__":
    main()
