"""Stage train-online: one stage in place of self-training's three (paper, Appendix C)."""

from typing import TYPE_CHECKING

from stpp.resume import Job
from stpp.stages import options
from stpp.stages.tracked import tracked
from stpp.stages.training import train_network
from stpp.tracking import Run

if TYPE_CHECKING:
    from stpp.data.datasets import Photos, WeakStrong


def train_online(
    name: options.Role,
    data: options.Data,
    split: options.Split,
    backbone: options.Backbone,
    out: options.Out,
    params: options.Params = None,
) -> None:
    """Train on labelled and, by online labelling, unlabelled images at once: no teacher, no pseudo masks."""
    from stpp.files import StppError, read_ids
    from stpp.params import load

    files = options.params_files(params)
    p = load(files)
    if p.train.batch_size < 4 or p.train.batch_size % 2:
        raise StppError(
            f"train.batch_size {p.train.batch_size}: online labelling takes half of a batch from the labelled images: "
            "an even number, 4 at least"
        )

    def work(job: Job, run: Run) -> None:
        from stpp.data.datasets import Labeled, WeakStrong
        from stpp.selftrain.online import online

        def samples(photos: "Photos") -> "WeakStrong":
            labeled = Labeled(photos, read_ids(split / "labeled.txt"))
            return WeakStrong(labeled, read_ids(split / "unlabeled.txt"), p.augment, p.train.seed, name)

        train_network(job, run, p, name, data, split, backbone, samples, online(p.online), checkpoints=False)

    tracked(
        name,
        module=__name__,
        files=files,
        params=p,
        sections={
            "model": p.model.model_dump(),
            "train": p.train.model_dump(),
            "augment": p.augment.model_dump(),
            "online": p.online.model_dump(),
            "evaluate.batch_size": p.evaluate.batch_size,
        },
        data=data,
        split=split,
        inputs=[backbone],
        out=out,
        outs=["model.safetensors", "curve.csv", "metrics.json"],
        work=work,
    )
