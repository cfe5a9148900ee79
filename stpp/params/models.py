"""The parameters of a run: frozen, strict models of params.yaml.

A parameter has one name, here, in params.yaml, at the point of use and in MLflow. A stage function takes
the section it needs (`Train`), never all of `Params`.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from stpp.ingest.layouts import LAYOUTS
from stpp.models.networks import NETWORKS
from stpp.selftrain.criteria import CRITERIA
from stpp.selftrain.rankings import RANKINGS
from stpp.store.masks import IGNORE

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Factor = Annotated[float, Field(ge=0, le=1e6)]
Scale = Annotated[float, Field(gt=0, le=64)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Side = Annotated[int, Field(ge=16, le=65536)]
MaxPixels = Annotated[int, Field(ge=32**2, le=2**40)]
Range = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1e6)], Annotated[float, Field(ge=0, le=1e6)]],
    Field(description="lower and upper bound, drawn from uniformly"),
]
Level = Annotated[int, Field(ge=0, le=255)]
ClassName = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Text = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]
Name = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
"""What becomes part of a path."""

WRITTEN = re.compile(r"^-?\d{1,9}([./]\d{1,9})?$")


def one_of(*tables: Mapping[str, str]) -> tuple[Any, Any]:
    """A name that one of the tables has; what is added to a table is allowed from then on."""

    def known(name: str) -> str:
        names = [name for table in tables for name in table]
        if name not in names:
            *most, last = map(repr, names)
            raise ValueError(f"Input should be {', '.join(most)} or {last}")
        return name

    def listed(schema: dict[str, Any]) -> None:
        schema["enum"] = [name for table in tables for name in table]

    return AfterValidator(known), Field(json_schema_extra=listed)


class Section(BaseModel):
    """A section of params.yaml: immutable, no type coercion, no unknown keys, no infinite numbers."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Toy(Section):
    """What `stpp draw` draws: the embedded data set."""

    images: Annotated[int, Field(ge=1, le=10**6)] = 300
    size: Annotated[int, Field(ge=32, le=1024)] = 96
    """Height and width in pixels."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Data(Section):
    """The data set: where it lies, how its files are named, what its mask values mean."""

    name: Name
    """A name for reports and the MLflow experiment."""
    kind: Annotated[str, *one_of(LAYOUTS)]
    root: Text
    """Folder that holds the images and masks. No stage but `prepare` is re-run when it moves."""
    images: Text | None = None
    """folder: pattern of image paths below root; `{name}` stands for one part of a path: `{set}/{name}.jpg`."""
    masks: Text | None = None
    """folder: pattern of mask paths with the same placeholders: `{set}annot/{name}.png`."""
    list: Text | None = None
    """folder: file below root with one image, or image and mask, a line; with `images`, also ids of what that finds."""
    classes: Annotated[tuple[ClassName, ...], Field(max_length=IGNORE)] | None = None
    """folder: class names in the order of their ids, 0 first."""
    palette: Annotated[tuple[tuple[Level, Level, Level], ...], Field(max_length=IGNORE)] | None = None
    """folder: red, green, blue of every class; without it colours are chosen."""
    values: Annotated[dict[str, Level | Literal["ignore"]], Field(max_length=65536)] | None = None
    """A class id or `ignore` by mask value (`11: ignore`, `255: 1`); values not named mean themselves."""
    ignore: Annotated[int, Field(ge=0, le=65535)] | None = IGNORE
    """Mask value without a class; it never enters a loss or a score. `null`: there is none."""

    @field_validator("values", mode="before")
    @classmethod
    def _keys_as_text(cls, values: Any) -> Any:
        return {str(k): v for k, v in values.items()} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _folder_is_described(self) -> Self:
        described = {
            "images": self.images,
            "masks": self.masks,
            "list": self.list,
            "classes": self.classes,
            "palette": self.palette,
            "values": self.values,
            "ignore": None if self.ignore == IGNORE else self.ignore,
        }
        if self.kind != "folder":
            given = [k for k, v in described.items() if v is not None]
            if given:
                raise ValueError(f"kind {self.kind} knows its own {', '.join(given)}: remove them, or use kind folder")
            return self
        if self.images is None and self.list is None:
            raise ValueError("kind folder needs `images` (a pattern), or `list` (a file of images)")
        if self.masks is not None and self.images is None:
            raise ValueError("`masks` takes its placeholders from `images`: give that too, or masks in the `list`")
        if not self.classes:
            raise ValueError("kind folder needs `classes`, the class names in the order of their ids")
        if not all(name.strip() for name in self.classes):
            raise ValueError("`classes` holds an empty name")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("`classes` names a class twice")
        if self.palette is not None and len(self.palette) != len(self.classes):
            raise ValueError(f"`palette` has {len(self.palette)} colours for {len(self.classes)} classes")
        return self

    @model_validator(mode="after")
    def _values_are_of_masks_and_classes(self) -> Self:
        classes = len(self.classes or ())
        for value, meaning in (self.values or {}).items():
            if not value.isdecimal() or int(value) > 65535:
                raise ValueError(f"`values` key {value!r} is not a mask value (0 to 65535)")
            if isinstance(meaning, int) and not 0 <= meaning < classes:
                raise ValueError(f"`values` maps {value} to class {meaning}, but there are {classes} classes")
        return self


class Subset(Section):
    """A set of images: candidates, and how many of them. Candidates taken by an earlier set are left out."""

    list: Text | None = None
    """A list below splits/: one id or image path a line (a second column is allowed, as published lists have)."""
    ids: Text | None = None
    """A pattern of ids, as in a shell: `train/*`."""
    count: Count | None = None
    """Draw so many of the candidates."""
    fraction: Annotated[str, Field(max_length=32)] | Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw this part of the candidates: "1/8" or 0.125."""

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
        """`fraction` as a number in (0, 1]; None where it is left out."""
        if self.fraction is None:
            return None
        text = str(self.fraction)
        try:
            if isinstance(self.fraction, str) and not WRITTEN.match(text):  # 1e-99999999 would fill the memory
                raise ValueError
            part = Fraction(text)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f'`fraction` {self.fraction!r} is neither a number nor like "1/8"') from None
        if not 0 < part <= 1:
            raise ValueError(f"`fraction` {self.fraction} is not above 0 and at most 1")
        return part


class Split(Section):
    """D_l, D_u and the images for validation and the final test; drawn in the order test, val, labeled, unlabeled."""

    name: Name
    seed: Seed = 0
    stratify: bool = False
    """Draw labelled images so that the classes present are covered evenly."""
    labeled: Subset
    unlabeled: Subset = Subset()
    """By default all that no other set has taken."""
    val: Subset
    test: Subset | None = None


class Model(Section):
    network: Annotated[str, *one_of(NETWORKS)] = "deeplabv3plus"
    backbone: Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9_]+$")] = "resnet50"
    """resnet18, 34, 50, 101 of torchvision, or a network of timm with a map at stride 4 that can be dilated:
    `stpp backbone list`."""
    weights: Text = "none"
    """Start of every training: `none`; published weights by torchvision's name (IMAGENET1K_V1) or timm's tag (in1k);
    `package`, those that an installed package ships (tf_efficientnet_lite0); or a file below weights/ (a backbone or a
    whole network)."""
    output_stride: Literal[8, 16] = 8
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast in training and prediction."""


class Train(Section):
    """Training, the same for the teacher and the students (paper, 4.1)."""

    seed: Seed = 0
    epochs: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Length of every training: each goes so many times through its images. 80 where `iterations` is not given."""
    iterations: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Length in place of `epochs`: each training has so many batches, however many images it has."""
    val_points: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """How often val is measured: at so many points of a training, evenly spaced, or (a multiple of `checkpoints`, which
    are kept at some of them) somewhat fewer. Left out: after every epoch, or 10 where `iterations` are given."""
    batch_size: Annotated[int, Field(ge=2, le=65536)] = 16
    """At least 2: the image pooling branch normalises one value a channel and image."""
    lr: Positive = 0.001
    """Base learning rate of the backbone at batch size 16; scaled by batch_size / 16."""
    head_lr_factor: Positive = 10.0
    """Learning rate of a head that starts at random, as a multiple of the backbone's."""
    momentum: Probability = 0.9
    weight_decay: Factor = 1e-4
    checkpoints: Annotated[int, Field(ge=2, le=1000)] = 3
    """K, checkpoints kept evenly while the teacher trains (paper, 3.4)."""
    keep: Literal["last", "best_val"] = "last"
    """Which epoch labels and is evaluated. best_val chooses on val: a leak; both numbers are always logged."""

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
                raise ValueError(f"`checkpoints` {self.checkpoints} cannot be kept in {length} {unit}")
        return self


def _ordered(name: str, values: tuple[float, float]) -> None:
    low, high = values
    if not 0 < low <= high:
        raise ValueError(f"`{name}` needs 0 < lower <= upper, not {low}, {high}")


class Weak(Section):
    """A_w (paper, 4.1): random resize, pad, crop, flip."""

    base: Annotated[int, Field(ge=8, le=65536)] = 400
    """Long side of the image in pixels that `scale` multiplies: 400 on Pascal, 2048 on Cityscapes."""
    scale: Range = (0.5, 2.0)
    crop: Annotated[int, Field(ge=16, le=16384)] = 321
    """Height and width of a training crop in pixels."""
    flip: Probability = 0.5

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        _ordered("scale", self.scale)
        if self.base * self.scale[0] < 1:
            raise ValueError(f"`base` {self.base} times `scale` {self.scale[0]:g} is less than one pixel")
        if self.base * self.scale[1] > 2**18:
            raise ValueError(f"`base` {self.base} times `scale` {self.scale[1]:g} is more than {2**18} pixels")
        return self


class Strong(Section):
    """A_s (paper, 3.3), applied after A_w to unlabelled images only. A part is left out at probability 0."""

    jitter: Probability = 0.8
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.5
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.5
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.5
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.25
    grayscale: Probability = 0.2
    blur: Probability = 0.5
    blur_sigma: Range = (0.1, 2.0)
    cutout: Probability = 0.5
    cutout_area: Range = (0.02, 0.4)
    """Part of the crop that the rectangle covers."""
    cutout_aspect: Range = (0.3, 1 / 0.3)
    """Height over width of the rectangle."""
    more: tuple[dict[str, dict[str, Any]], ...] = ()
    """Transforms of albumentations with their arguments, applied before CutOut: `- {Solarize: {p: 0.2}}`."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        _ordered("blur_sigma", self.blur_sigma)
        _ordered("cutout_area", self.cutout_area)
        _ordered("cutout_aspect", self.cutout_aspect)
        if self.cutout_area[1] > 1:
            raise ValueError("`cutout_area` is a part of the crop, at most 1")
        if self.cutout_aspect[1] > 1000:
            raise ValueError("`cutout_aspect` is at most 1000")
        area, (low, high) = self.cutout_area[0], self.cutout_aspect
        if low > 1 / area or high < area:
            raise ValueError("no rectangle of `cutout_area` and `cutout_aspect` fits into the crop")
        return self


class Augment(Section):
    weak: Weak = Weak()
    strong: Strong = Strong()
    strong_labeled: Strong | None = None
    """A_s for the labelled images as well, after A_w (ablations of Figure 3); null: none, as in the paper's method."""


class Score(Section):
    """Stability scores (paper, 3.4): plain forward passes of the K checkpoints."""

    batch_size: Annotated[int, Field(ge=1, le=65536)] = 8
    shards: Annotated[int, Field(ge=1, le=4096)] = 8
    """Scored one shard of images after the other; a killed run goes on from the last finished one."""
    criteria: tuple[Annotated[str, *one_of(CRITERIA)], ...] = ()
    """Scores besides, for `select.by`: the mean over an image's pixels of how certain f_K is by all classes."""
    max_pixels: MaxPixels = 2**22
    """Images of more pixels are predicted in overlapping windows of at most 1024 x 1024."""


class Select(Section):
    """Which unlabelled images are called reliable (paper, 3.4)."""

    by: Annotated[str, *one_of(RANKINGS, CRITERIA)] = "stability"
    """What ranks them: s_i (the paper); chance (blind, its Table 4); mean confidence of M_iK; s_i, the lowest first;
    the true mIoU of M_iK, which needs masks of all unlabelled images and is no method, but its upper bound; or one of
    `score.criteria`."""
    seed: Seed = 0
    """Of `by: random` alone."""
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """T / N, the part of the unlabelled images called reliable (paper, 4.1: the top 50 %)."""


class Label(Section):
    """Pseudo labels by test-time augmentation (paper, 4.1)."""

    threshold: Probability | None = None
    """Pixels of lower confidence are ignored (paper, Appendix D: 0.5); null: all are labelled, as in ST and ST++."""

    scales: Annotated[tuple[Scale, ...], Field(min_length=1, max_length=64)] = (0.5, 0.75, 1.0, 1.5, 2.0)
    flip: bool = True
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 8
    shards: Annotated[int, Field(ge=1, le=4096)] = 8
    """Zip files of a mask set."""
    max_pixels: MaxPixels = 2**22
    """Images of more pixels are labelled in overlapping windows of at most 1024 x 1024, each at all scales."""


class Online(Section):
    """Online labelling (paper, Appendix C): the strong view learns what the model now says of the weak one."""

    threshold: Probability = 0.95
    """Pixels of lower confidence teach nothing."""
    weight: Factor = 1.0
    """lambda of Eq. 1."""


class Evaluate(Section):
    """Evaluation at original resolution (paper, 4.1: whole images, no test-time augmentation)."""

    window: Side | None = None
    """Side in pixels of a sliding window, whose probabilities are averaged; null: whole images."""
    stride: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Step of the window in pixels; null: two thirds of it."""
    scales: Annotated[tuple[Scale, ...], Field(min_length=1, max_length=64)] = (1.0,)
    """Scales of test-time augmentation; (1.0) alone is none."""
    flip: bool = False
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 8
    max_pixels: MaxPixels = 2**22
    """Images of more pixels are predicted in overlapping windows of at most 1024 x 1024; of no account with `window`
    and one scale, which bounds the memory by itself."""
    panels: Annotated[int, Field(ge=0, le=64)] = 6
    """Validation images shown with the predictions of every model."""

    @model_validator(mode="after")
    def _windows_leave_no_gap(self) -> Self:
        if self.stride is not None and self.window is None:
            raise ValueError("`stride` is the step of a `window`: give that, too")
        if self.window is not None and (self.stride or 1) > self.window:
            raise ValueError(f"`stride` {self.stride} leaves gaps between windows of {self.window}")
        return self


class Runtime(Section):
    """How to run, not what: in no stage's parameters."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[int, Field(ge=0, le=1024)] = 2
    """Processes that load images."""
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """CPU threads of torch; without it, torch's choice. Training is bit for bit the same for the same count only."""
    cache_gb: Positive | None = None
    """Gigabytes of decoded images and masks kept in .stpp/decoded/; null: each is decoded whenever it is read. Results
    are the same. Pays where decoding is slow, as for large PNGs; 2048 x 1024 pixels with a mask take 0.0084."""


class Params(Section):
    toy: Toy = Toy()
    data: Data
    split: Split
    model: Model = Model()
    train: Train = Train()
    augment: Augment = Augment()
    score: Score = Score()
    select: Select = Select()
    label: Label = Label()
    online: Online = Online()
    evaluate: Evaluate = Evaluate()
    runtime: Runtime = Runtime()
