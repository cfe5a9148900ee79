"""The parameters of a run: frozen, strict pydantic models of params.yaml.

A parameter has the same name in this module, in params.yaml, at the point of use and in MLflow. An algorithm takes
only the section that it needs (`Train`), never all of `Params`.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from stpp.ingest.formats import FORMATS
from stpp.ingest.layouts import LAYOUTS
from stpp.models.networks import NETWORKS
from stpp.selftrain.criteria import CRITERIA
from stpp.selftrain.rankings import RANKINGS
from stpp.store.manifest import value_name, value_of
from stpp.store.masks import IGNORE

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Factor = Annotated[float, Field(ge=0, le=1e6)]
Scale = Annotated[float, Field(gt=0, le=64)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Side = Annotated[int, Field(ge=16, le=65536)]
MaxPixels = Annotated[int, Field(ge=32**2, le=2**40)]
Range = tuple[Annotated[float, Field(ge=0, le=1e6)], Annotated[float, Field(ge=0, le=1e6)]]
Level = Annotated[int, Field(ge=0, le=255)]
ClassName = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Text = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]
Name = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
"""A name that becomes part of a path."""

MASK_VALUE = re.compile(r"(?i:#[0-9a-f]{6})|[0-9]{1,5}(-[0-9]{1,5})?")
"""A key of `Data.values`: a colour, a number or a range."""
WRITTEN = re.compile(r"^-?\d{1,9}([./]\d{1,9})?$")
"""A number as `Subset.fraction` may write it: `1`, `0.125` or `1/8`."""


def one_of(*tables: Mapping[str, str]) -> tuple[Any, Any]:
    """Return annotations for a string that must be a key of one of the tables.

    A key that is added to a table is then allowed, and appears in the JSON schema, without a change here.
    """

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
    """A section of params.yaml.

    It is immutable. It coerces no types, and rejects unknown keys, NaN and infinite numbers.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Toy(Section):
    """The embedded toy data set, which `stpp draw` draws."""

    images: Annotated[int, Field(ge=1, le=10**6)] = 300
    """Number of images."""
    size: Annotated[int, Field(ge=32, le=1024)] = 96
    """Height and width of an image in pixels."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the images."""


class Annotations(Section):
    """Annotation files of a tool in place of mask files: `prepare` draws the masks from their polygons and bitmaps."""

    format: Annotated[str, *one_of(FORMATS)]
    """Format of the files."""
    file: Text
    """Path below `root`, such as `annotations.json`. With one file for each image or folder: a pattern with
    placeholders of `images`, such as `labels/{name}.json`."""
    order: Literal["file", "small", "classes"] = "file"
    """Which object lies on top where several overlap. `file`: the later one in the file, or the higher one if the tool
    keeps a z-order. `small`: the one of fewer pixels. `classes`: the one whose class is later in `classes`."""
    rest: ClassName | None = None
    """Class of the pixels without an object, or `ignore`. Default: the class `background` if there is one, else
    `ignore`."""
    labels: Annotated[dict[str, ClassName], Field(max_length=65536)] | None = None
    """Class, or `ignore`, by label of the files (`bus: vehicle`). Other labels are names of classes."""
    added: Text | None = None
    """Pattern of further mask files with the placeholders of `images`, such as `added/{name}.png`. Their pixels are
    class ids, or 255 to ignore. Such a mask takes the place of the image's objects. `stpp label add` writes them."""

    @field_validator("labels", mode="before")
    @classmethod
    def _keys_as_text(cls, labels: Any) -> Any:
        return {str(k): v for k, v in labels.items()} if isinstance(labels, dict) else labels


class Data(Section):
    """The data set: the folder that holds it, the names of its files, and the meaning of its mask values."""

    name: Name
    """Name of the data set in reports, and of its MLflow experiment."""
    kind: Annotated[str, *one_of(LAYOUTS)]
    """Layout of the files. `folder`: the layout that the fields below describe. Other kinds have a built-in layout."""
    root: Text
    """Folder that holds the images and masks. If it moves, DVC re-runs `check` and `prepare`, no other stage."""
    images: Text | None = None
    """Kind folder: pattern of image paths below `root`, such as `{set}/{name}.jpg`. A placeholder in braces stands for
    one part of a path."""
    masks: Text | Annotated[dict[ClassName, Text], Field(min_length=1, max_length=IGNORE)] | None = None
    """Kind folder: pattern of mask paths below `root` with the placeholders of `images`, as `{set}annot/{name}.png`. Or
    a pattern for each class, if an image has several mask files (`crop: "{name}_crop*.png"`): pixels that are not 0
    belong to the class, `*` stands for any part of a name, and of two classes the later one lies on top."""
    outside: Text | None = None
    """Kind folder: pattern of the files whose pixels of 0 are ignored in the mask, such as a field of view."""
    annotations: Annotations | None = None
    """Kind folder: annotation files in place of `masks`."""
    list: Text | None = None
    """Kind folder: text file below `root` with one image, or one image and its mask, per line. If `images` is given, a
    line may also hold the id of an image that the pattern finds."""
    exclude: Text | Annotated[tuple[Text, ...], Field(max_length=1000)] | None = None
    """Images to leave out: ids, image paths, or shell patterns of them (`*` also matches `/`); or a text file below
    `root` with one id or image path per line."""
    classes: Annotated[tuple[ClassName, ...], Field(max_length=IGNORE)] | Text | None = None
    """Kind folder: class names in the order of their ids, starting with id 0; or a file below `root` that names them:
    `labelmap.txt` (CVAT), `class_dict.csv`, `_classes.csv` (Roboflow) or a name in each line. If the file has colours,
    masks are read by colour, unless `values` holds numbers or is `{}`."""
    palette: Annotated[tuple[tuple[Level, Level, Level], ...], Field(max_length=IGNORE)] | None = None
    """Kind folder: colour of every class as red, green, blue, each from 0 to 255. Default: the colours in `values` or
    the file of `classes`, else those of Okabe and Ito, then further ones that differ most from all others."""
    values: Annotated[dict[str, Level | ClassName], Field(max_length=65536)] | None = None
    """Kind folder: class id, class name or `ignore` by mask value: a number (`11: ignore`, `255: 1`), a range
    (`"128-255": 1`) or a colour (`"#800000": car`). Other numbers are class ids. With colours, masks are read by
    colour, and no other colours may occur."""
    ignore: Annotated[int, Field(ge=0, le=65535)] | None = IGNORE
    """Mask value of pixels without a class. They never enter a loss or a score. `null`: there is no such value. Without
    effect if `values` holds colours."""
    variable: Text | None = None
    """Kind folder: variable that holds the mask in .mat files, with fields of structs after dots, such as
    `GTcls.Segmentation`. `null`: each file holds one variable."""

    @field_validator("exclude", mode="before")
    @classmethod
    def _names_are_text(cls, names: Any) -> Any:
        for name in names if isinstance(names, list | tuple) else [names]:
            if isinstance(name, int | float):
                raise ValueError(f"{name} is a number; put names of digits in quotes")
        return names

    @field_validator("values", mode="before")
    @classmethod
    def _keys_as_text(cls, values: Any) -> Any:
        return {str(k): v for k, v in values.items()} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _folder_is_described(self) -> Self:
        described = {
            "images": self.images,
            "masks": self.masks,
            "outside": self.outside,
            "annotations": self.annotations,
            "list": self.list,
            "classes": self.classes,
            "palette": self.palette,
            "values": self.values,
            "ignore": None if self.ignore == IGNORE else self.ignore,
            "variable": self.variable,
        }
        if self.kind != "folder":
            given = [k for k, v in described.items() if v is not None]
            if given:
                raise ValueError(f"kind {self.kind} has built-in {', '.join(given)}: remove them, or use kind folder")
            return self
        if self.images is None and self.list is None:
            raise ValueError("kind folder needs `images` (a pattern), or `list` (a file of images)")
        if self.masks is not None and self.images is None:
            raise ValueError(
                "`masks` uses the placeholders of `images`: give `images` too, or name the masks in `list`"
            )
        if self.outside is not None and (self.images is None or "*" in self.outside):
            raise ValueError("`outside` is one file for an image, with the placeholders of `images`, and without `*`")
        if not self.classes:
            raise ValueError("kind folder needs `classes`, the class names in the order of their ids")
        if isinstance(self.classes, str):
            return self
        if not all(name.strip() for name in self.classes):
            raise ValueError("`classes` holds an empty name")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("`classes` names a class twice")
        if self.palette is not None and len(self.palette) != len(self.classes):
            raise ValueError(f"`palette` has {len(self.palette)} colours for {len(self.classes)} classes")
        return self

    @model_validator(mode="after")
    def _annotations_name_classes(self) -> Self:
        if self.annotations is None:
            return self
        given = [name for name in ("masks", "values") if getattr(self, name) is not None]
        given += ["ignore"] if self.ignore not in (None, IGNORE) else []
        if given:
            raise ValueError(f"`annotations` takes the place of `{given[0]}`: give one of them")
        if self.images is None:
            raise ValueError("`annotations` needs `images`, the pattern of the image paths")
        if "*" in (self.annotations.added or ""):
            raise ValueError("`annotations.added` is one file for an image, without `*`")
        rest, labels = self.annotations.rest, self.annotations.labels or {}
        for key, name in [*((f"labels: {label}", name) for label, name in labels.items()), ("rest", rest)]:
            if isinstance(self.classes, tuple) and name not in (None, "ignore", *self.classes):
                raise ValueError(f"`annotations.{key}`: {name} is not in `classes`; give a class, or ignore")
        return self

    @model_validator(mode="after")
    def _each_class_has_mask_files(self) -> Self:
        if not isinstance(self.masks, dict):
            return self
        given = ["values"] if self.values else []
        given += ["ignore"] if self.ignore not in (None, IGNORE) else []
        if given:
            raise ValueError(f"`{given[0]}` has no meaning for masks of one class each: all that is not 0 is the class")
        if late := [one for one in self.masks.values() if "{" in one.partition("*")[2]]:
            raise ValueError(f"`masks`: {late[0]} has a placeholder after `*`; put `*` after all placeholders")
        if isinstance(self.classes, tuple):
            if unknown := [name for name in self.masks if name not in self.classes]:
                raise ValueError(f"`masks` names {unknown[0]}, which is not in `classes`")
            if missing := [name for name in self.classes if name not in (*self.masks, "background")]:
                raise ValueError(f"`masks` has no pattern for the class {missing[0]}; add one, or remove the class")
        return self

    @property
    def composed(self) -> bool:
        """Whether `prepare` makes the masks: from annotation files, or from several files for an image."""
        return self.annotations is not None or isinstance(self.masks, dict) or self.outside is not None

    @model_validator(mode="after")
    def _values_are_of_masks_and_classes(self) -> Self:
        given = self.meanings()
        if self.classes is None or isinstance(self.classes, str):
            return self
        classes = range(len(self.classes))
        if self.by_colour:
            known = given
        else:
            if self.ignore is not None and self.ignore in classes:
                raise ValueError(
                    f"`ignore` {self.ignore} is also the id of class {self.classes[self.ignore]}; if no mask value is "
                    "to be ignored, set it to null"
                )
            known = dict(enumerate(classes)) | given
        if unmeant := sorted({*classes} - {*known.values()}):
            labels = ", ".join(self.classes[c] for c in unmeant)
            why = "" if self.by_colour else ": `values` gives its id another meaning"
            raise ValueError(f"no mask value means {labels}{why}; add a value for it")
        return self

    @property
    def by_colour(self) -> bool:
        """Whether `values` holds colours."""
        return any(key.startswith("#") for key in self.values or ())

    def meanings(self) -> dict[int, int]:
        """Return the class id, or 255 for `ignore`, of every mask value in `values`.

        While `classes` is still the name of a file, every value means `ignore`. Raises ValueError if keys or meanings
        are invalid, if a value occurs twice, or if numbers and colours are mixed.
        """
        names = self.classes if isinstance(self.classes, tuple) else None
        found: dict[int, int] = {}
        for key, meaning in (self.values or {}).items():
            if key.startswith("#") != self.by_colour:
                raise ValueError("`values` holds colours and numbers; use one kind, as the masks do")
            for value in mask_values(key):
                if value in found:
                    raise ValueError(f"`values` gives mask value {value_name(value)} twice, as {key} the second time")
                found[value] = IGNORE if names is None else _class_id(key, meaning, names)
        return found


def mask_values(key: str) -> range:
    """Return the mask values that a key of `data.values` stands for. Raises ValueError if it is malformed."""
    if not MASK_VALUE.fullmatch(key):
        raise ValueError(
            f'`values` key {key!r} is not a mask value: a number (0 to 65535), a range ("128-255") or a colour '
            '("#800000")'
        )
    first, _, last = key.partition("-")
    found = range(value_of(first), value_of(last or first) + 1)
    if not key.startswith("#") and (not found or found[-1] > 65535):
        raise ValueError(f"`values` key {key!r} is not a mask value (0 to 65535)")
    return found


def _class_id(key: str, meaning: int | str, classes: tuple[str, ...]) -> int:
    """Return the class id, or 255 for `ignore`, of a meaning in `data.values`. Raises ValueError if it is neither."""
    if meaning == "ignore":
        return IGNORE
    if isinstance(meaning, int):
        if meaning >= len(classes):
            raise ValueError(f"`values` maps {key} to class {meaning}, but there are {len(classes)} classes")
        return meaning
    if meaning not in classes:
        raise ValueError(f"`values` maps {key} to {meaning!r}, which is neither a class nor `ignore`")
    return classes.index(meaning)


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
    """Architecture of the segmentation network."""
    backbone: Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9_]+$")] = "resnet50"
    """resnet18, resnet34, resnet50 or resnet101 of torchvision, or a timm network. The timm network needs a feature map
    at stride 4 and must allow dilation. `stpp backbone list` lists all that fit."""
    weights: Text = "none"
    """Weights that every training starts from. `none`: random weights. A torchvision name (IMAGENET1K_V1) or a timm tag
    (in1k): published weights. `package`: weights that an installed package ships (for backbone tf_efficientnet_lite0).
    Otherwise a file below weights/ that holds a backbone or a whole network."""
    output_stride: Literal[8, 16] = 8
    """Side of the image divided by the side of the deepest feature map. 8 is finer, slower and needs more memory."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: autocast in training and prediction."""


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
    lr: Positive = 0.001
    """Base learning rate of the backbone at batch size 16. It is scaled by batch_size / 16."""
    head_lr_factor: Positive = 10.0
    """Learning rate of a head that starts from random weights, as a multiple of the backbone's learning rate."""
    momentum: Probability = 0.9
    """Momentum of SGD, from 0 to 1."""
    weight_decay: Factor = 1e-4
    """Weight decay of SGD (L2 penalty), at least 0."""
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
    """Probability of CutOut: a rectangle of random values that is ignored in the mask."""
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
    """Score that ranks the images, highest first. `stability`: s_i, as in the paper. `random`: chance (blind selection
    in the paper's Table 4). `confidence`: mean confidence of M_iK. `inverse`: s_i, lowest first. `oracle`: true mIoU of
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
    """Online labelling (paper, Appendix C).

    The model's current prediction on the weak view of an image is the pseudo label of its strong view.
    """

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


class Params(Section):
    """All parameters of a run: the sections of params.yaml."""

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
