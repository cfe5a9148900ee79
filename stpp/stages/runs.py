"""The `runs compare` command: shows two runs side by side."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from stpp.report.differences import Evaluated, differences, table
from stpp.run.lineage import from_json
from stpp.run.resume import root
from stpp.store.files import StppError, read_csv, read_json
from stpp.tracking.read import EVALUATION, artifact_of, member_of, run_of

Named = Annotated[str, Argument(help="Folder that `stpp evaluate` wrote (or its parent folder), or an MLflow run.")]


def compare(one: Named, other: Named) -> None:
    """Compare two runs: parameters, data, split, code, mIoU and IoU by class.

    Name a run by the folder of its evaluation, or by the MLflow run id of its
    evaluation or of its parent run. The first 6 digits of an id are enough,
    and so is the hash in a parent run's name. The final models are compared.
    """
    first, second = _evaluated(one), _evaluated(other)
    print(f"{first.name} -> {second.name}\n", *differences(first, second), "", sep="\n")
    print(table(first, second))
    on_other = first.digests.get("list val", "") != second.digests.get("list val", "")
    if on_other:
        print("\nval has other images or masks in the second run: these numbers cannot be compared")


def _evaluated(name: str) -> Evaluated:
    """Return the evaluated run that a folder or an MLflow run id names. Raises StppError if it is not one."""
    for folder in (Path(name), Path(name) / "evaluation"):
        if (folder / "metrics.json").is_file() and (folder / "per_class.csv").is_file():
            rows = read_csv(folder / "per_class.csv", ("set", "model", "class", "iou"))
            about = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
            return _read(folder.as_posix(), read_json(folder / "metrics.json"), rows, about)
    if Path(name).exists():
        raise StppError(f"{name}: has no metrics.json and per_class.csv; name a folder that `stpp evaluate` wrote")
    run_id = member_of(run_of(name, root()), EVALUATION, root())
    raw, metrics, about = (artifact_of(run_id, f"{file}.json", root()) for file in ("per_class", "metrics", "run"))
    try:
        names = raw["columns"]
        rows = [dict(zip(names, ("nan" if v is None else str(v) for v in row), strict=True)) for row in raw["data"]]
    except (KeyError, TypeError, ValueError) as error:
        raise StppError(f"MLflow run {run_id}: its per_class.json is not a table ({error!r})") from None
    return _read(f"MLflow run {run_id[:8]}", metrics, rows, about)


def _read(name: str, metrics: Any, rows: list[dict[str, str]], about: Any) -> Evaluated:
    """Return an evaluated run from the contents of metrics.json, per_class.csv (`rows`) and run.json (`about`).

    Raises StppError if they are not what `stpp evaluate` writes.
    """
    try:
        model = list(metrics["val"])[-1]
        sets = [key for key, value in metrics.items() if isinstance(value, dict) and model in value]
        digests = about.get("lists") or metrics.get("lists", {})  # older versions of stpp wrote them into metrics.json
        lists = {f"list {key}": digest for key, digest in digests.items()}
        unit = 100 if "lineage" in about and "unit" not in about else 1  # older versions wrote fractions
        return Evaluated(
            name,
            model,
            {key: unit * float(metrics[key][model]["miou"]) for key in sets},
            {
                key: {
                    row["class"]: unit * float(row["iou"]) for row in rows if (row["set"], row["model"]) == (key, model)
                }
                for key in sets
            },
            {key.split(".")[1]: value for key, value in about.items() if key.endswith(".digest")} | lists,
            from_json(about["lineage"]) if "lineage" in about else [],
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise StppError(f"{name}: not what `stpp evaluate` writes ({error!r}); evaluate it again") from None
