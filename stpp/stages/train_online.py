"""Stage train-online: one stage in place of self-training's three (paper, Appendix C)."""

from stpp.data.datasets import Labeled, Photos, WeakStrong
from stpp.data.normalization import Normalization
from stpp.engine.fit import Step
from stpp.params.file import load
from stpp.selftrain.online import online
from stpp.stages import options
from stpp.stages.training import trained
from stpp.store.files import StppError, read_ids


def train_online(
    name: options.Role,
    data: options.Data,
    split: options.Split,
    backbone: options.Backbone,
    out: options.Out,
    params: options.Params = None,
) -> None:
    """Train with online labelling: no teacher, no pseudo masks.

    Labelled and unlabelled images are learnt from at once.
    """
    files = options.params_files(params)
    p = load(files)
    if p.train.batch_size < 4 or p.train.batch_size % 2:
        raise StppError(
            f"train.batch_size {p.train.batch_size}: online labelling takes half of a batch from the labelled images: "
            "an even number, 4 at least"
        )

    def samples(photos: Photos, normalization: Normalization) -> WeakStrong:

        labeled = Labeled(photos, read_ids(split / "labeled.txt"))
        return WeakStrong(labeled, read_ids(split / "unlabeled.txt"), p.augment, p.train.seed, name, normalization)

    def step() -> Step:

        return online(p.online)

    trained(
        name,
        module=__name__,
        files=files,
        params=p,
        sections={"online": p.online.model_dump()},
        data=data,
        split=split,
        backbone=backbone,
        pseudo=[],
        out=out,
        samples_of=samples,
        step_of=step,
        checkpoints=False,
    )
