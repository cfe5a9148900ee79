"""The table of results, as text."""

from typing import Any

from stpp.report.labels import LABELS


def table(metrics: list[dict[str, Any]], name: str) -> str:
    """mIoU (%) of every model on val and test and the quality of pseudo masks; later files add what earlier lack."""
    rows: dict[str, dict[str, float]] = {}
    pseudo: dict[str, float] = {}
    for one in metrics:
        for subset in ("val", "test"):
            for model, scores in one.get(subset, {}).items():
                rows.setdefault(model, {}).setdefault(subset, scores["miou"])
        for group, scores in one.get("pseudo", {}).items():
            pseudo.setdefault(group, scores["miou"])
    subsets = [s for s in ("val", "test") if any(s in row for row in rows.values())]
    lines = [f"{name}: mIoU (%)".ljust(28) + "".join(s.rjust(8) for s in subsets)]
    for model, row in rows.items():
        cells = "".join((f"{100 * row[s]:.1f}" if s in row else "-").rjust(8) for s in subsets)
        lines.append(f"  {LABELS.get(model, model)}".ljust(28) + cells)
    if pseudo:
        lines.append("pseudo masks: mIoU (%)")
        lines += [f"  {LABELS.get(g, g)}".ljust(28) + f"{100 * v:.1f}".rjust(8) for g, v in pseudo.items()]
    return "\n".join(lines)
