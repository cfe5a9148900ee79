"""Suggestion of a setting that fits a data set and a machine, with the reason for every value."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stpp.engine import device as devices
from stpp.engine.benchmark import memory_of_a_training, seconds_of_an_image, seconds_of_an_iteration
from stpp.engine.fit import POINTS
from stpp.models.build import network_class
from stpp.models.vit import VisionTransformer, of_any_kind
from stpp.models.weights import weight_names
from stpp.paper.systems import iterations, iterations_per_epoch, system
from stpp.params.models import Model, Params
from stpp.store.files import StppError

PAPER = 80
"""Epochs of every training on Pascal (paper, 4.1)."""
LEAST = 36
"""Iterations of a teacher. One with fewer has learnt nothing. One with so many, from ImageNet weights, had an mIoU of
33 on the embedded data set."""
SHORTEST = 200
"""Minimum length of a training whose length is given in iterations."""
SPARE = 1.5
"""Memory of a GPU that a training needs, at least, in units of what weights and saved activations take."""
FASTER = 1.2
"""bfloat16 is chosen if it is at least this many times as fast as float32."""


@dataclass(frozen=True)
class Images:
    """The sizes and counts of images that the suggestion depends on."""

    long: int
    """Median of the images' long sides in pixels."""
    short: int
    """Median of the images' short sides in pixels."""
    labeled: int
    unlabeled: int
    val: int
    test: int

    @property
    def tiny(self) -> bool:
        return self.short < 128


@dataclass(frozen=True)
class Machine:
    """The machine that will run the setting: whether it has a CUDA GPU, and its number of CPU cores."""

    cuda: bool
    cores: int

    @property
    def backbone(self) -> str:
        return "vit_small_patch14_dinov2" if self.cuda else "tf_efficientnet_lite0"


@dataclass(frozen=True)
class Choice:
    """A value for params.yaml: its dotted name, the value, and the reason."""

    key: str
    value: Any
    why: str


def choices(images: Images, machine: Machine, present: Model, backbone: str = "") -> list[Choice]:
    """Return the choices that need no measurement.

    present: its head stays if it suits the backbone, and its file of weights if it has this backbone. backbone: a name,
    or "" for one that fits the machine. Raises StppError if the backbone suits no head.
    """
    name, given = backbone or machine.backbone, "as given" if backbone else ""
    with torch.device("meta"):
        kind = of_any_kind(name, 16)
    if isinstance(kind, VisionTransformer):
        network, patch = _transformer(present, name, given), kind.patch
    else:
        network, patch = _convolutional(machine.cuda, present, name, given), 1
    largest = (518 if patch > 1 else 321) if machine.cuda else 144
    crop = max(32, min(images.short, largest) // patch * patch)
    batch = 16 if machine.cuda or crop <= 96 else 8
    at_once = max(1, min(64, 2**20 // (images.long * images.short)))
    shards = max(2, min(64, images.unlabeled // 20))
    scales, whole = [0.5, 0.75, 1.0, 1.5, 2.0], machine.cuda or images.tiny
    return [
        *network,
        Choice(
            "train.batch_size", max(2, min(batch, images.labeled)), f"16 in the paper; {images.labeled} labelled images"
        ),
        Choice("train.val_points", POINTS, "how often val is measured"),
        Choice("augment.weak.base", images.long, "long side of the median image, as in labelling"),
        Choice("augment.weak.scale", [0.75, 1.5] if images.tiny else [0.5, 2.0], f"short side: {images.short} pixels"),
        Choice(
            "augment.weak.crop",
            crop,
            f"at most the short side, and at most {largest}{'' if machine.cuda else ' without a GPU'}"
            + (f"; whole patches of {patch}" if patch > 1 else ""),
        ),
        Choice(
            "label.scales",
            scales if whole else scales[:3],
            "as in the paper" if whole else "no GPU: a fourth of the time",
        ),
        *(
            Choice(f"{name}.batch_size", at_once, "about a megapixel per batch")
            for name in ("score", "label", "evaluate")
        ),
        *(Choice(f"{name}.shards", shards, "a killed run loses at most one") for name in ("score", "label")),
        Choice("runtime.workers", 0 if images.tiny else max(1, min(8, machine.cores - 1)), f"{machine.cores} cores"),
    ]


def _transformer(present: Model, backbone: str, given: str) -> list[Choice]:
    """Return the choice of a vision transformer, and of what suits it. given: the reason if a person chose it."""
    return [
        Choice("model.network", _head(present.network, backbone, "dpt"), "a head for vision transformers"),
        Choice("model.backbone", backbone, given or "on its features, labelled images alone beat the paper"),
        _weights(present, backbone),
        Choice("model.freeze", False, "the backbone learns, too; `true` needs less memory"),
        Choice("train.optimizer", "adamw", "suits transformers"),
        Choice("train.lr", 5e-6, "as in UniMatch V2; scaled by batch_size / 16"),
        Choice("train.head_lr_factor", 40.0, "as in UniMatch V2: the head starts at random"),
        Choice("train.weight_decay", 0.01, "as in UniMatch V2"),
    ]


def _convolutional(cuda: bool, present: Model, backbone: str, given: str) -> list[Choice]:
    """Return the choice of a convolutional backbone, and of what suits it. given: the reason if a person chose it."""
    if cuda:
        default, stride = "deeplabv3plus", Choice("model.output_stride", 8, "as in the paper")
    else:
        why = "no GPU: a fourth of the features of stride 8"
        default, stride = "deeplabv3plus_separable", Choice("model.output_stride", 16, why)
    return [
        Choice("model.network", _head(present.network, backbone, default), "a convolutional head"),
        Choice("model.backbone", backbone, given or "no GPU: several times as fast as ResNet-50"),
        _weights(present, backbone),
        stride,
        Choice("model.freeze", False, "as in the paper: the backbone learns, too"),
        Choice("train.optimizer", "sgd", "as in the paper"),
        Choice("train.lr", 0.03, "for ImageNet weights; scaled by batch_size / 16"),
        Choice("train.head_lr_factor", 10.0, "as in the paper: the head starts at random"),
        Choice("train.weight_decay", 0.0001, "as in the paper"),
    ]


def _head(network: str, backbone: str, default: str) -> str:
    """Return `network` if it suits the backbone, else `default`."""
    try:
        with torch.device("meta"):
            network_class(network)(backbone, 2, 16)
    except StppError:
        return default
    return network


def _weights(present: Model, backbone: str) -> Choice:
    names = weight_names(backbone)
    if present.backbone == backbone and present.weights not in names:
        return Choice("model.weights", present.weights, "your file, as before")
    if published := [one for one in names if one != "none"]:
        where = "installed with stpp" if published[0] == "package" else "downloaded once"
        return Choice("model.weights", published[0], f"pre-trained, {where}")
    return Choice("model.weights", "none", "there are no published weights")


def fitted(params: Params, images: Images, hours: float, backbone: str = "") -> tuple[list[Choice], list[str]]:
    """Return the choices, some of them by a measurement on this machine, and a line with the time of every stage.

    params: the present parameters; those without a choice keep their values. hours: time that all of ST++ may take.
    backbone: see `choices`.
    """
    where = devices.setup_device(params.runtime)
    machine = Machine(where.type == "cuda", len(os.sched_getaffinity(0)))
    chosen = choices(images, machine, params.model, backbone)
    params = with_choices(params, chosen)
    chosen.append(parts(params, torch.cuda.get_device_properties(where).total_memory if machine.cuda else None))
    params = with_choices(params, chosen[-1:])
    seconds = {
        kind: seconds_of_an_iteration(with_choices(params, [Choice("model.precision", kind, "")]))
        for kind in ("float32", "bfloat16")
    }
    chosen.append(precision(seconds))
    params = with_choices(params, chosen[-1:])
    iteration, image = seconds[params.model.precision], seconds_of_an_image(params, images.long, images.short)
    score = images.unlabeled * params.train.checkpoints * image
    label = 2 * images.unlabeled * image * sum(scale**2 for scale in params.label.scales)
    evaluate = 3 * (images.val + images.test) * image
    val, counts = images.val * image, (images.labeled, images.unlabeled)
    outs = system("stpp").trains
    per_epoch = [iterations_per_epoch(out, *counts, params.train.batch_size, params.select.ratio) for out in outs]
    chosen += length(per_epoch, iteration, val, score + label + evaluate, hours, params.train.checkpoints)
    train = with_choices(params, chosen[-2:]).train
    lengths = [iterations(out, *counts, train, params.select.ratio) for out in outs]
    took = [count * iteration + POINTS * val for count in lengths]
    names = ("teacher", "student 1", "student 2")
    trainings = [
        f"{name} {count} iterations, {seconds / 60:.0f} min"
        for name, count, seconds in zip(names, lengths, took, strict=True)
    ]
    return chosen, [
        f"about {(sum(took) + score + label + evaluate) / 3600:.1f} h here (reading images not counted): "
        f"{'; '.join(trainings)}; score {score / 60:.0f} min, label {label / 60:.0f} min, "
        f"evaluate {evaluate / 60:.0f} min"
    ]


def parts(params: Params, memory: int | None) -> Choice:
    """Return the choice of `train.accumulate`: as few parts of a batch as fit into the memory of a GPU, in bytes.

    If none fits, these are the smallest parts there can be.
    """
    batch = params.train.batch_size
    if memory is None:
        return Choice("train.accumulate", 1, "no GPU: a whole batch at a time")
    for count in (count for count in range(1, batch) if batch % count == 0 and batch // count >= 2):
        needed = memory_of_a_training(with_choices(params, [Choice("train.accumulate", count, "")]))
        if needed * SPARE <= memory:
            break
    why = f"{needed / 2**30:.1f} GB and more, of {memory / 2**30:.0f} GB on the GPU"
    return Choice("train.accumulate", count, why)


def precision(seconds: Mapping[str, float]) -> Choice:
    """Return the choice of the precision. seconds: time of one iteration by precision."""
    ratio = seconds["float32"] / seconds["bfloat16"]
    why = f"bfloat16 is {ratio:.1f} times as fast here"
    return Choice("model.precision", "bfloat16" if ratio >= FASTER else "float32", why)


def length(
    per_epoch: Sequence[int], iteration: float, val: float, other: float, hours: float, checkpoints: int
) -> tuple[Choice, Choice]:
    """Return the choice of the trainings' length, so that all of ST++ takes `hours`.

    The length is given in epochs, at most PAPER, so that students, who see more images, train for longer than the
    teacher. If the epochs that fit give the teacher fewer than LEAST iterations or too few checkpoints, as with very
    many photos, it is given in iterations, the same number for teacher and students. per_epoch: iterations in an epoch
    of each training, the teacher's first. iteration, val, other: seconds of one iteration, of measuring val once, and
    of all but the trainings.
    """
    left = hours * 3600 - other
    epochs = min(PAPER, int((left - 3 * POINTS * val) / (sum(per_epoch) * iteration)))
    fits = f"as many as {hours:g} hours allow"
    if epochs >= checkpoints and epochs * per_epoch[0] >= LEAST:
        why = "as in the paper" if epochs == PAPER else fits
        return Choice("train.epochs", epochs, why), Choice("train.iterations", None, "epochs are given")
    count = max(SHORTEST, int((left / 3 - POINTS * val) / iteration))
    few = f"{hours:g} hours allow {max(0, epochs)}, too few for the teacher"
    return Choice("train.epochs", None, few), Choice(
        "train.iterations", count, fits if count > SHORTEST else "the minimum"
    )


def with_choices(params: Params, chosen: Iterable[Choice]) -> Params:
    """Return `params` with the chosen values, validated again."""
    values: dict[str, Any] = json.loads(params.model_dump_json())
    for one in chosen:
        *sections, last = one.key.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[last] = one.value
    return Params.model_validate_json(json.dumps(values))
