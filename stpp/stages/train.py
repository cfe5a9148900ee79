"""The `train` stage: trains a teacher on D_l, or a student on D_l and pseudo labels (paper, Algorithms 1 and 2)."""

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.data.datasets import ImageMaskPairs, SelfTrainingDataset
from stpp.data.oversampling import copies, copies_as_long
from stpp.engine.fit import supervised
from stpp.stages import options
from stpp.stages.stage import Inputs, Recipe, open_stage
from stpp.stages.training import OUTS, loss_for, photos_of, start_for, train_network
from stpp.store.files import StppError, read_ids
from stpp.store.masks import MaskSet

RECIPE = Recipe(__name__, ("train", "augment"))
AsLong = Annotated[
    Path | None,
    Option(
        help="List of images: train on labelled images alone for as long as a student of these pseudo-labelled ones."
    ),
]
Pseudo = Annotated[list[Path] | None, Option(help="Mask set of pseudo labels; may be given several times.")]


def train(
    name: options.Role,
    data: options.Data,
    split: options.Split,
    backbone: options.Backbone,
    out: options.Out,
    pseudo: Pseudo = None,
    as_long_as: AsLong = None,
    params: options.Params = None,
) -> None:
    """Train a teacher on labelled images, or a student with pseudo labels as well.

    A teacher is trained without --pseudo. It also keeps K checkpoints, which
    `stpp score` uses to measure stability.
    """
    if pseudo and as_long_as:
        raise StppError("--as-long-as: a training with --pseudo has its own length; give one of the two")
    inputs = Inputs(data, split, [backbone, *(pseudo or []), *([as_long_as] if as_long_as else [])])
    teacher = not pseudo and as_long_as is None  # it alone is scored (Algorithm 2)
    outs = [*OUTS, "checkpoints"] if teacher else OUTS
    with open_stage(name, RECIPE, options.params_files(params), inputs, out=out, outs=outs) as stage:
        if stage.finished:
            return
        p, photos = stage.params, photos_of(stage, data)
        labeled = read_ids(split / "labeled.txt")
        parts = [ImageMaskPairs(photos, masks.ids, masks) for masks in map(MaskSet, pseudo or [])]
        if as_long_as is None:
            repeat = copies(len(labeled), sum(len(part.ids) for part in parts))  # over-sampling of D_l
        else:
            repeat = copies_as_long(len(labeled), len(read_ids(as_long_as)))
        samples = SelfTrainingDataset(
            ImageMaskPairs(photos, labeled),
            repeat,
            parts,
            p.augment,
            p.train.seed,
            name,
            start_for(photos, backbone).normalization,
        )
        step = partial(supervised, loss=loss_for(stage, photos, split))
        train_network(stage, photos, samples, split, backbone, step, checkpoints=teacher)
