"""The `select` stage: splits the unlabelled images into reliable and unreliable ones (paper, Algorithm 2)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from typer import Option

from stpp.params.file import load
from stpp.selftrain.selection import Scores, rank, typical_classes
from stpp.selftrain.selection import select as select_ids
from stpp.stages import options
from stpp.store.files import StppError, atomic_folder, header, write_ids
from stpp.store.manifest import read_table


def select(
    scores: Annotated[Path, Option(help="Folder that `stpp score` wrote.")],
    out: options.Out,
    params: options.Params = None,
) -> None:
    """Select the reliable part of the unlabelled images: by default the most stable.

    `select.ratio` is the part of the images to select; `select.by` names the
    score that ranks them.
    """
    p = load(options.params_files(params)).select
    ratio, ranked = p.ratio, rank(p.by, Known(scores), p.seed)
    reliable, unreliable = select_ids(ranked, ratio)
    if not reliable or not unreliable:
        raise StppError(
            f"select.ratio {ratio} leaves {len(reliable)} reliable and {len(unreliable)} unreliable images: "
            "at least one of each is needed; change the ratio, or add unlabelled images"
        )
    with atomic_folder(out) as partial:
        write_ids(partial / "reliable.txt", reliable)
        write_ids(partial / "unreliable.txt", unreliable)
    least = "" if p.by == "random" else f", reliable from {ranked[reliable[-1]]:.3f} upwards"
    of = f"{len(reliable)} reliable and {len(unreliable)} unreliable images by {p.by}{least}"
    print(f"select: {of}; {out} (reliable.txt, unreliable.txt)")


class Known(Mapping[str, Scores]):
    """The scores of all images that `stpp score` wrote, by name of the score.

    A table is read only when one of its scores is asked for. Raises StppError for a score that was not written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = header(folder / "scores.csv", ("id", "stability", "confidence"))[1:]

    def __getitem__(self, name: str) -> Scores:
        if name == "quality":
            return self._quality()
        if name == "typical_class":
            return self._typical_class()
        if name not in self.names:
            raise StppError(f"select.by `{name}` needs scores of that name; set score.criteria: [{name}]")
        column = 1 + self.names.index(name)
        return read_table(self.folder / "scores.csv", ("id", *self.names), lambda row: float(row[column]))

    def __iter__(self) -> Iterator[str]:
        return iter([*self.names, "quality", "typical_class"])

    def __len__(self) -> int:
        return len(self.names) + 2

    def _quality(self) -> Scores:
        quality = read_table(self.folder / "quality.csv", ("id", "miou"), lambda row: float(row[1]))
        if unknown := sorted(self["stability"].keys() - quality.keys()):
            raise StppError(
                f"select.by `oracle` needs the true masks of all unlabelled images, but {len(unknown)} have none "
                f"({unknown[0]}, ...); choose another ranking"
            )
        return quality

    def _typical_class(self) -> Scores:
        path = self.folder / "classes.csv"
        classes = header(path, ("id",))[1:]
        pixels = read_table(path, ("id", *classes), lambda row: [int(count) for count in row[1:]])
        typical = typical_classes(np.array([pixels[name] for name in pixels], dtype=np.int64))
        return dict(zip(pixels, map(float, typical), strict=True))
