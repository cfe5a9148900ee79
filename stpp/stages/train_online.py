"""The `train-online` stage: replaces the three stages of self-training by one (paper, Appendix C; FixMatch)."""

from stpp.data.datasets import ImageMaskPairs, OnlineDataset
from stpp.engine.fit import Step
from stpp.params.file import load
from stpp.selftrain.fixmatch import FixMatch
from stpp.selftrain.online import online
from stpp.stages import options
from stpp.stages.stage import Inputs, Recipe, open_stage
from stpp.stages.training import OUTS, loss_for, photos_of, start_for, train_network
from stpp.store.files import StppError, read_ids

RECIPE = Recipe(__name__, ("train", "augment", "online"))


def train_online(
    name: options.Role,
    data: options.Data,
    split: options.Split,
    backbone: options.Backbone,
    out: options.Out,
    params: options.Params = None,
) -> None:
    """Train with online labelling: no pseudo masks.

    The network learns from labelled and unlabelled images at once: half of
    every batch is labelled, and half is not. `online.teacher` labels the
    other half: the network itself, or its moving average (FixMatch).
    """
    files = options.params_files(params)
    batch = load(files).train.batch_size
    if batch < 4 or batch % 2:
        raise StppError(
            f"train.batch_size {batch}: must be an even number, at least 4, because online labelling takes half of "
            "every batch from the labelled images"
        )
    inputs = Inputs(data, split, [backbone])
    with open_stage(name, RECIPE, files, inputs, out=out, outs=OUTS) as stage:
        if stage.finished:
            return
        p, photos = stage.params, photos_of(stage, data)
        labeled = ImageMaskPairs(photos, read_ids(split / "labeled.txt"))
        unlabeled = read_ids(split / "unlabeled.txt")
        normalization = start_for(photos, backbone).normalization
        samples = OnlineDataset(labeled, unlabeled, p.augment, p.train.seed, name, normalization)
        loss = loss_for(stage, photos, split)
        step: Step = FixMatch(p.online, loss) if p.online.teacher == "ema" else online(p.online, loss)
        train_network(stage, photos, samples, split, backbone, step, checkpoints=False)
