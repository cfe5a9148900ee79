"""Stage train: the teacher on D_l, or a student on D_l and pseudo-labelled images (paper, Algorithms 1 and 2)."""

from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.data.datasets import Labeled, Photos, Training
from stpp.data.normalization import Normalization
from stpp.engine.fit import Step, supervised
from stpp.ingest.splits import copies
from stpp.params.file import load
from stpp.params.models import Params
from stpp.stages import options
from stpp.stages.training import trained
from stpp.store.files import read_ids
from stpp.store.masks import MaskSet

Pseudo = Annotated[list[Path] | None, Option(help="Mask set of pseudo labels; may be given several times.")]


def train(
    name: options.Role,
    data: options.Data,
    split: options.Split,
    backbone: options.Backbone,
    out: options.Out,
    pseudo: Pseudo = None,
    params: options.Params = None,
) -> None:
    """Train a teacher on labelled images, or a student with pseudo labels as well.

    A teacher keeps K checkpoints.
    """
    files = options.params_files(params)
    p = load(files)
    sets = pseudo or []

    def samples(photos: Photos, normalization: Normalization) -> Training:

        return _samples(p, name, photos, read_ids(split / "labeled.txt"), sets, normalization)

    def step() -> Step:

        return supervised

    trained(
        name,
        module=__name__,
        files=files,
        params=p,
        sections={},
        data=data,
        split=split,
        backbone=backbone,
        pseudo=sets,
        out=out,
        samples_of=samples,
        step_of=step,
        checkpoints=not sets,  # a teacher is what has no pseudo labels (Algorithm 2, line 1)
    )


def _samples(
    p: Params, name: str, photos: Photos, labeled: list[str], pseudo: list[Path], normalization: Normalization
) -> Training:
    """D_l, over-sampled, and the pseudo-labelled images."""
    parts = [Labeled(photos, masks.ids, masks) for masks in map(MaskSet, pseudo)]
    repeat = copies(len(labeled), sum(len(part.ids) for part in parts))
    return Training(Labeled(photos, labeled), repeat, parts, p.augment, p.train.seed, name, normalization)
