"""The parameters of a run: frozen, strict pydantic models of params.yaml.

A parameter has the same name in this module, in params.yaml, at the point of use and in MLflow. An algorithm takes
only the section that it needs (`Train`), never all of `Params`.
"""

import re
import warnings
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stpp.engine.optimizers import OPTIMIZERS
from stpp.models.networks import NETWORKS
from stpp.params.data import Data
from stpp.params.section import (
    Count,
    Factor,
    MaxPixels,
    Name,
    Positive,
    Probability,
    Range,
    Scale,
    Section,
    Seed,
    Side,
    Text,
    one_of,
)
from stpp.selftrain.online.methods import METHODS
from stpp.selftrain.rankings import RANKINGS
from stpp.selftrain.scoring.criteria import CRITERIA
from stpp.store.masks import IGNORE

Weights = Annotated[tuple[Factor, ...], Field(min_length=1, max_length=IGNORE, strict=False)]
WRITTEN = re.compile(r"^-?\d{1,9}([./]\d{1,9})?$")
"""A number as `Subset.fraction` may write it: `1`, `0.125` or `1/8`."""


class Toy(Section):
    """The embedded toy data set, which `stpp draw` draws."""

    images: Annotated[int, Field(ge=1, le=10**6)] = 300
    """Number of images."""
    size: Annotated[int, Field(ge=32, le=1024)] = 96
    """Height and width of an image in pixels."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the images."""


class Subset(Section):
    """A set of images: which images are candidates, and how many of them it takes.

    Candidates that an earlier set has taken are left out.
    """

    list: Text | None = None
    """File below splits/ with one id or image path per line. A second column is allowed, as in published lists."""
    ids: Text | None = None
    """Shell-style pattern of ids, such as `train/*`."""
    count: Count | None = None
    """Number of candidates to draw."""
    fraction: Annotated[str, Field(max_length=32)] | Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the candidates to draw, such as "1/8" or 0.125."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.list is not None and self.ids is not None:
            raise ValueError("give `list` or `ids`, not both")
        if self.count is not None and self.fraction is not None:
            raise ValueError("give `count` or `fraction`, not both")
        if self.fraction is not None:
            _ = self.part
        return self

    @property
    def part(self) -> Fraction | None:
        """`fraction` as an exact number in (0, 1], or None if it is not given. Raises ValueError if it is invalid."""
        if self.fraction is None:
            return None
        text = str(self.fraction)
        try:
            if isinstance(self.fraction, str) and not WRITTEN.match(text):  # "1e-99999999" would fill the memory
                raise ValueError
            part = Fraction(text)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f'`fraction` {self.fraction!r} is neither a number nor a fraction such as "1/8"') from None
        if not 0 < part <= 1:
            raise ValueError(f"`fraction` {self.fraction} must be above 0 and at most 1")
        return part


class Split(Section):
    """The labelled set D_l, the unlabelled set D_u, and the images for validation and for the final test.

    Sets with a `list` take their images first. Then images are drawn in the order test, val, labeled, unlabeled.
    """

    name: Name
    """Name of the split in reports and in MLflow: letters, digits, `.`, `_` and `-`."""
    seed: Seed = 0
    """Seed of all draws of images, a 64-bit integer."""
    stratify: bool = False
    """Draw labelled images so that the classes that occur are covered evenly."""
    labeled: Subset
    """D_l: the images whose masks train the teacher."""
    unlabeled: Subset = Subset()
    """D_u: the images that get pseudo labels; their own masks, if any, only measure these. Default: all images that no
    other set has taken."""
    val: Subset
    """Images with masks on which trainings are measured while they run, and models are compared."""
    test: Subset | None = None
    """Images with masks for the final measurement, which nothing else uses. `null`: none."""


class Model(Section):
    """The network, the weights that it starts from, and its precision."""

    network: Annotated[str, *one_of(NETWORKS)] = "deeplabv3plus"
    """Architecture of the segmentation network. `deeplabv3plus_separable` is DeepLabv3+ with a head of less
    arithmetic, for small backbones on a CPU. `dpt` and `linear` are for vision transformers."""
    backbone: Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9_]+$")] = "resnet50"
    """resnet18, resnet34, resnet50 or resnet101 of torchvision, or a timm network. The timm network needs a feature map
    at stride 4 and must allow dilation; `dpt` and `linear` need a vision transformer of timm, such as
    vit_small_patch14_dinov2. `stpp backbone list` lists all that fit."""
    weights: Text = "none"
    """Weights that every training starts from. `none`: random weights. A torchvision name (IMAGENET1K_V1) or a timm tag
    (in1k): published weights. `package`: weights that an installed package ships (for backbone tf_efficientnet_lite0).
    Otherwise a file below weights/ that holds a backbone or a whole network."""
    freeze: bool = False
    """Whether the backbone stays as it starts, and only the head is trained. Not with random weights."""
    output_stride: Literal[8, 16] = 8
    """Side of the image divided by the side of the deepest feature map. 8 is finer, slower and needs more memory.
    Without effect for `dpt` and `linear`: the stride of a vision transformer is its patch size."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: autocast in training and prediction."""

    @property
    def title(self) -> str:
        """The network, its backbone and its weights, in a line."""
        return f"{self.network} on {self.backbone} ({self.weights})"


class Loss(Section):
    """The loss on masks, true or pseudo. All means are over the valid pixels of a batch."""

    class_weights: Literal["frequency"] | Weights | None = None
    """Factor on the cross entropy of a pixel by its class. `frequency`: the rarer a class in the masks of D_l, the
    higher (1 / ln(1.02 + share), as in ENet; the mean over the pixels is 1). Or a number for every class, in the order
    of the classes. `null`: all 1, as in the paper."""
    ohem: Annotated[float, Field(gt=0, le=1)] | None = None
    """Online hard example mining: share of the valid pixels of each image that the cross entropy is averaged over,
    those with the highest loss. `null`: all pixels."""
    dice: Factor = 0.0
    """Weight of the Dice loss, which is added. It is averaged over the classes that each image shows, so that small
    objects count as much as large ones. 0: none."""

    @model_validator(mode="after")
    def _some_class_counts(self) -> Self:
        if isinstance(self.class_weights, tuple) and not any(self.class_weights):
            raise ValueError("`class_weights` are all 0: nothing would be learnt")
        return self


class Train(Section):
    """Training, with the same settings for the teacher and the students (paper, 4.1)."""

    seed: Seed = 0
    """Seed of initial weights, order of images, augmentation and dropout, a 64-bit integer."""
    epochs: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Length of every training in epochs: passes through its images. Default: 80 if `iterations` is not given."""
    iterations: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Length of every training in batches, in place of `epochs`. All trainings then have the same length, even if they
    differ in the number of images."""
    val_points: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Number of points, evenly spaced over a training, at which val is measured. The `checkpoints` are kept at some of
    these points, so the number is rounded down to a multiple of `checkpoints` (and is at least that). Default: after
    every epoch, or 10 points if `iterations` is given."""
    batch_size: Annotated[int, Field(ge=2, le=65536)] = 16
    """Images per batch, over all processes. At least 2, because the batch norm of the image pooling branch sees one
    value per channel and image."""
    accumulate: Annotated[int, Field(ge=1, le=65536)] = 1
    """Number of parts that a batch is divided into. Their gradients are added up before a step, so a large batch fits
    into little memory. Only batch norm sees the parts."""
    optimizer: Annotated[str, *one_of(OPTIMIZERS)] = "sgd"
    """`sgd`: SGD with momentum, as in the paper. `adamw`: AdamW, which suits transformers and ConvNeXt, with an `lr` of
    about 0.0001."""
    lr: Positive = 0.001
    """Base learning rate of the backbone at batch size 16. It is scaled by batch_size / 16."""
    head_lr_factor: Positive = 10.0
    """Learning rate of a head that starts from random weights, as a multiple of the backbone's learning rate."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate for each stage of the backbone, counted from the head: the last stage learns at
    `lr` times this, the one before at `lr` times its square. 1: all of the backbone learns at `lr`."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a training, from its start, over which the learning rate also rises linearly. 0: none."""
    momentum: Probability = 0.9
    """Momentum of SGD, from 0 to 1."""
    weight_decay: Factor = 1e-4
    """Weight decay, at least 0: an L2 penalty on all parameters (SGD), or decoupled and without biases and norms
    (AdamW)."""
    clip_norm: Positive | None = None
    """Largest norm of the gradient of all parameters together; a longer one is scaled down. `null`: no limit."""
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights and of batch norm's statistics, such as 0.996. The average
    is measured on val, kept as checkpoints and as the model. Until 1 / (1 - decay) iterations are done, it is their
    plain mean. `null`: no average."""
    loss: Loss = Loss()
    checkpoints: Annotated[int, Field(ge=2, le=1000)] = 3
    """K: number of checkpoints that are kept, evenly spaced, while the teacher trains (paper, 3.4)."""
    keep: Literal["last", "best_val"] = "last"
    """The epoch whose weights label images and are evaluated. `best_val` chooses the epoch on val, which is a leak. The
    val mIoU of the last and of the best epoch are always logged."""

    @model_validator(mode="before")
    @classmethod
    def _some_length(cls, values: Any) -> Any:
        given = isinstance(values, dict) and any(values.get(key) is not None for key in ("epochs", "iterations"))
        return values if given or not isinstance(values, dict) else values | {"epochs": 80}

    @model_validator(mode="after")
    def _checkpoints_fit(self) -> Self:
        if self.epochs is not None and self.iterations is not None:
            raise ValueError("give `epochs` or `iterations`, and null for the other")
        for length, unit in ((self.epochs, "epochs"), (self.iterations, "iterations")):
            if length is not None and self.checkpoints > length:
                raise ValueError(
                    f"`checkpoints` {self.checkpoints} is too many for {length} {unit}; give at most {length}"
                )
        if self.batch_size % self.accumulate or self.batch_size < 2 * self.accumulate:
            raise ValueError(
                f"`batch_size` {self.batch_size} does not divide into {self.accumulate} equal parts (`accumulate`) of "
                "at least two images"
            )
        return self


def _ordered(name: str, values: tuple[float, float]) -> None:
    low, high = values
    if not 0 < low <= high:
        raise ValueError(f"`{name}` needs 0 < lower <= upper, not {low}, {high}")


class Weak(Section):
    """A_w, the weak augmentation (paper, 4.1): random resize, pad, crop and flip."""

    base: Annotated[int, Field(ge=8, le=65536)] = 400
    """Long side of the image in pixels. `scale` multiplies it. 400 on Pascal, 2048 on Cityscapes."""
    scale: Range = (0.5, 2.0)
    """Lower and upper bound of the random resize; the factor is drawn uniformly."""
    crop: Annotated[int, Field(ge=16, le=16384)] = 321
    """Height and width of a training crop in pixels."""
    flip: Probability = 0.5
    """Probability of a horizontal flip, from 0 to 1."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        _ordered("scale", self.scale)
        if self.base * self.scale[0] < 1:
            raise ValueError(f"`base` {self.base} times `scale` {self.scale[0]:g} is less than one pixel")
        if self.base * self.scale[1] > 2**18:
            raise ValueError(f"`base` {self.base} times `scale` {self.scale[1]:g} is more than {2**18} pixels")
        return self


class Strong(Section):
    """A_s, the strong augmentation (paper, 3.3). The paper applies it after A_w, to unlabelled images only.

    A part with probability 0 is left out.
    """

    jitter: Probability = 0.8
    """Probability of colour jitter, which changes brightness, contrast, saturation and hue."""
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The brightness is multiplied by a factor from 1 - brightness to 1 + brightness."""
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The contrast is multiplied by a factor from 1 - contrast to 1 + contrast."""
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The saturation is multiplied by a factor from 1 - saturation to 1 + saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.25
    """The hue is shifted by a value from -hue to hue."""
    grayscale: Probability = 0.2
    """Probability of conversion to grey."""
    blur: Probability = 0.5
    """Probability of a Gaussian blur."""
    blur_sigma: Range = (0.1, 2.0)
    """Lower and upper bound of the Gaussian's standard deviation in pixels; drawn uniformly."""
    cutout: Probability = 0.5
    """Probability of CutOut: a rectangle of random values that is ignored in the mask. In UniMatch: of CutMix."""
    cutout_area: Range = (0.02, 0.4)
    """Lower and upper bound of the rectangle's area as a share of the crop; drawn uniformly."""
    cutout_aspect: Range = (0.3, 1 / 0.3)
    """Lower and upper bound of the rectangle's height / width; drawn uniformly."""
    more: tuple[dict[str, dict[str, Any]], ...] = ()
    """Further transforms with their arguments, applied before CutOut, such as `- {Solarize: {p: 0.2}}`. The transforms
    are those of albumentations and of the table in stpp/data/augmentations.py."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        _ordered("blur_sigma", self.blur_sigma)
        _ordered("cutout_area", self.cutout_area)
        _ordered("cutout_aspect", self.cutout_aspect)
        if self.cutout_area[1] > 1:
            raise ValueError("`cutout_area` is a share of the crop, so it must be at most 1")
        if self.cutout_aspect[1] > 1000:
            raise ValueError("`cutout_aspect` must be at most 1000")
        area, (low, high) = self.cutout_area[0], self.cutout_aspect
        if low > 1 / area or high < area:
            raise ValueError("no rectangle of `cutout_area` and `cutout_aspect` fits into the crop")
        return self


class Augment(Section):
    """The augmentations of training images."""

    weak: Weak = Weak()
    strong: Strong = Strong()
    strong_labeled: Strong | None = None
    """A_s for the labelled images, too, after A_w (ablations of Figure 3). `null`: none, as in the paper's method."""


class Score(Section):
    """Stability scores of the unlabelled images (paper, 3.4), from plain forward passes of the K checkpoints."""

    batch_size: Annotated[int, Field(ge=1, le=65536)] = 8
    """Images of equal size per batch, from 1 to 65536. It changes speed and memory."""
    shards: Annotated[int, Field(ge=1, le=4096)] = 8
    """Number of shards that the images are divided into. A killed run resumes after the last finished shard."""
    criteria: tuple[Annotated[str, *one_of(CRITERIA)], ...] = ()
    """Further scores, which `select.by` can name. Each is the mean over an image's pixels of the certainty of f_K. The
    certainty of a pixel follows from the probabilities of all classes."""
    max_pixels: MaxPixels = 2**22
    """An image with more pixels is predicted in overlapping windows of at most 1024 x 1024 pixels. A batch of several
    images has no more pixels than this."""


class Select(Section):
    """Selection of the reliable images among the unlabelled ones (paper, 3.4)."""

    by: Annotated[str, *one_of(RANKINGS, CRITERIA)] = "stability"
    """Score that ranks the images, highest first. `stability`: s_i, as in the paper. `balanced`: s_i among images with
    the same typical class, so that every class keeps its share. `random`: chance (blind selection in the paper's Table
    4). `confidence`: mean confidence of M_iK. `inverse`: s_i, lowest first. `oracle`: true mIoU of
    M_iK, which needs masks of all unlabelled images; it is not a method but its upper bound. Or one of
    `score.criteria`."""
    seed: Seed = 0
    """Seed of `by: random`. Other rankings do not use it."""
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """T / N: share of the unlabelled images that is selected as reliable (paper, 4.1: the top 50 %)."""


class Label(Section):
    """Pseudo labels, predicted with test-time augmentation (paper, 4.1)."""

    threshold: Probability | None = None
    """Pixels with a lower confidence are ignored (paper, Appendix D: 0.5). `null`: all pixels are labelled, as in ST
    and ST++."""

    soft: bool = False
    """Keep the probabilities of all classes, too, in steps of 1/255. Students then learn from these in place of the
    most likely class (distillation)."""
    scales: Annotated[tuple[Scale, ...], Field(min_length=1, max_length=64)] = (0.5, 0.75, 1.0, 1.5, 2.0)
    """Scales of test-time augmentation."""
    flip: bool = True
    """Predict every scale of the flipped image, too."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 8
    """Images of equal size per batch, from 1 to 65536. It changes speed and memory."""
    shards: Annotated[int, Field(ge=1, le=4096)] = 8
    """Number of zip files in a mask set."""
    max_pixels: MaxPixels = 2**22
    """An image with more pixels is labelled in overlapping windows of at most 1024 x 1024 pixels, each at all scales. A
    batch of several images has no more pixels than this."""


class Online(Section):
    """Training without pseudo masks on disk: online labelling (paper, Appendix C) and later methods.

    A current prediction on the weak view of an image is the pseudo label of its strong view.
    """

    method: Annotated[str, *one_of(METHODS)] = "online"
    """`online`: the network in training labels the weak view, as in the paper. `fixmatch`: its moving average labels
    it. `unimatch`: the network labels two strong views, mixed by CutMix, and features with dropped channels.
    `unimatch_v2`: the moving average labels two strong views, mixed by CutMix, each with half of the channels. CutMix
    takes the place of CutOut, with its probability, area and aspect (`augment.strong`)."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.996
    """Largest decay of the moving average (`fixmatch`, `unimatch_v2`): update i, counted from 0, keeps
    min(1 - 1 / (i + 1), decay) of it."""
    threshold: Probability = 0.95
    """Pixels with a lower confidence contribute nothing to the loss."""
    weight: Factor = 1.0
    """lambda of Eq. 1, the weight of the loss on unlabelled images."""


class Evaluate(Section):
    """Evaluation at original resolution (paper, 4.1: whole images, no test-time augmentation)."""

    window: Side | None = None
    """Side of a square sliding window in pixels. Probabilities are averaged where windows overlap. `null`: whole
    images."""
    stride: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Step of the window in pixels. `null`: two thirds of `window`."""
    scales: Annotated[tuple[Scale, ...], Field(min_length=1, max_length=64)] = (1.0,)
    """Scales of test-time augmentation. [1.0] without `flip` means no test-time augmentation."""
    flip: bool = False
    """Predict every scale of the flipped image, too."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 8
    """Images of equal size per batch, from 1 to 65536. It changes speed and memory."""
    max_pixels: MaxPixels = 2**22
    """An image with more pixels is predicted in overlapping windows of at most 1024 x 1024 pixels. A `window` without
    test-time augmentation bounds the memory by itself and replaces these windows. A batch of several images has no more
    pixels than this."""
    panels: Annotated[int, Field(ge=0, le=64)] = 6
    """Number of validation images that are shown with the predictions of every model, and of the worst images of the
    final model that are shown."""

    @model_validator(mode="after")
    def _windows_leave_no_gap(self) -> Self:
        if self.stride is not None and self.window is None:
            raise ValueError("`stride` is the step of `window`: give `window` too")
        if self.window is not None and (self.stride or 1) > self.window:
            raise ValueError(f"`stride` {self.stride} leaves gaps between windows of {self.window}")
        return self


# Python's abstract classes have a method `register`, which pydantic takes for an attribute of the parent.
warnings.filterwarnings("ignore", 'Field name "register" in "Runtime" shadows', UserWarning)


class Runtime(Section):
    """How to compute, not what.

    A change re-runs only the stage `check`, because no other stage has these values among its params.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run. `auto`: the GPU if there is one, else the CPU."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 2
    """Processes that load images; 0: the main process loads them. `prepare` reads files in this many threads."""
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """CPU threads of torch. `null`: torch chooses. Training gives the same result bit for bit only with the same number
    of threads."""
    cache_gb: Positive | None = None
    """Maximum size in gigabytes of the cache of decoded images and masks in .stpp/decoded/. `null`: no cache; a file is
    decoded whenever it is read. The results are the same. The cache pays off where decoding is slow, as for large PNGs.
    An image of 2048 x 1024 pixels with its mask takes 0.0084 GB."""
    compile: Literal["auto"] | bool = "auto"
    """Whether `torch.compile` compiles the network for training. Compiling takes a minute or more; results differ by
    rounding. `auto`: on a GPU, for trainings of at least 1000 iterations in one process. UniMatch is not compiled."""
    register: Literal["link", "pyfunc"] = "link"
    """What the report registers in MLflow. `link`: where DVC has the checkpoint. `pyfunc`: also a copy of it, which
    MLflow loads and serves."""


class Params(Section):
    """All parameters of a run: the sections of params.yaml."""

    toy: Toy = Toy()
    data: Data
    split: Split
    model: Model = Model()
    student: Model | None = None
    """The network of all students, if it differs from the teacher's, which is `model`: a large network labels for a
    small one. A key that is left out has its default, not the value of `model`. `null`: students are as `model` says,
    as in the paper."""
    train: Train = Train()
    augment: Augment = Augment()
    score: Score = Score()
    select: Select = Select()
    label: Label = Label()
    online: Online = Online()
    evaluate: Evaluate = Evaluate()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _what_is_frozen_has_learnt(self) -> Self:
        for section, model in (("model", self.model), ("student", self.student)):
            if model is not None and model.freeze and model.weights == "none":
                raise ValueError(
                    f"`{section}.freeze` keeps the backbone's random weights, as `{section}.weights` is none; "
                    "name weights, or set `freeze: false`"
                )
        return self
