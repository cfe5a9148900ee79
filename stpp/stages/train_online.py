"""The `train-online` stage: replaces the three stages of self-training by one (paper, Appendix C, and later work)."""

from pkgutil import resolve_name

from stpp.data.datasets import ImageMaskPairs
from stpp.params.file import load
from stpp.selftrain.online.labelling import Method
from stpp.selftrain.online.methods import METHODS
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
    every batch is labelled, and half is not. `online.method` says what
    labels the other half, and which views of it the network learns.
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
        method: type[Method] = resolve_name(METHODS[p.online.method])
        samples = method.samples(labeled, unlabeled, p.augment, p.train.seed, name, normalization)
        step = method(p.online, loss_for(stage, photos, split))
        train_network(stage, photos, samples, split, backbone, step, checkpoints=False)
