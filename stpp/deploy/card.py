"""The model card of a checkpoint, in Markdown: what it is for, its data, its metrics and the licence of its weights."""

import math
from collections.abc import Sequence

from stpp.models.metadata import CheckpointMetadata

USE = """Masks of images like those it was trained on: the same kind of scene, camera and scale. Every pixel gets one of
these classes, also where the image shows something else. Measure the model on masks of your own images before you rely
on it. Let a person check what concerns safety or people."""


def model_card(about: CheckpointMetadata, title: str, data: Sequence[str] = (), metrics: Sequence[str] = ()) -> str:
    """Return a card with `data`, Markdown on data and split, and `metrics`, a table; each is a list of lines.

    Without them, the card says that the checkpoint does not know them.
    """
    model, start = about.model, about.start
    network = f"{model.network}, {model.backbone}, output stride {model.output_stride}"
    licence = start.licence or ("no other weights" if start.weights == "none" else "not recorded")
    images = f"files of {about.reading.channels} channels" if about.reading else "PNG, JPEG and other pictures, as RGB"
    parts = {
        f"# {plain(title)}": [
            f"Semantic segmentation of {len(about.classes)} classes: {', '.join(map(plain, about.classes))}.",
            f"In: {images}. Out: a mask of class ids, as large as the image.",
        ],
        "## Intended use": USE.splitlines(),
        "## Data": list(data) or ["The checkpoint alone does not say. `stpp audit` traces it to its images."],
        "## Metrics": list(metrics) or ["The checkpoint alone has none."],
        "## Weights": [
            f"- Network: {network}",
            f"- Training began from: {plain(start.weights)}{f' ({plain(start.source)})' if start.source else ''}",
            f"- Licence of these: {plain(licence)}",
            "- Licence of the trained weights: it also depends on that of the data, which stpp does not know.",
        ],
    }
    return "\n\n".join("\n".join([head, "", *lines]) for head, lines in parts.items()) + "\n"


def metrics_table(scores: dict[str, dict[str, float]]) -> list[str]:
    """Return the lines of a Markdown table of values in percent, by row and column; NaN and gaps show as `-`."""
    columns = list(dict.fromkeys(column for row in scores.values() for column in row))
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name, row in scores.items():
        values = (f"{row.get(column, math.nan):.1f}".replace("nan", "-") for column in columns)
        lines.append(f"| {plain(name)} | {' | '.join(values)} |")
    return lines


def plain(text: str) -> str:
    """Return text in which no character means anything in Markdown or HTML."""
    return "".join(f"\\{c}" if c in "\\`*_[]|#<>" else c for c in text)
