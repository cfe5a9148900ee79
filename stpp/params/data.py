"""The section `data` of params.yaml: where a data set's files lie, and what their values mean."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from stpp.ingest.formats import FORMATS
from stpp.ingest.layouts import LAYOUTS
from stpp.params.section import ClassName, Level, Name, Section, Text, one_of
from stpp.store.manifest import value_name, value_of
from stpp.store.masks import IGNORE

MASK_VALUE = re.compile(r"(?i:#[0-9a-f]{6})|[0-9]{1,5}(-[0-9]{1,5})?")
"""A key of `Data.values`: a colour, a number or a range."""


Value = Annotated[float, Field(ge=-1e18, le=1e18)]
Span = tuple[Value, Value]
"""Two values that become 0 and 255."""
NoData = Annotated[float, Field(ge=-3.5e38, le=1e18, allow_inf_nan=False)]


def spans_of(given: Span | tuple[Span, ...]) -> tuple[Span, ...]:
    """Return the ranges in a value of `data.range`: one for all bands, or one for each."""
    several = tuple(one for one in given if isinstance(one, tuple))
    return several or (given,)  # type: ignore[return-value]


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
    bands: Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], Field(min_length=1, max_length=512)] | None = (
        None
    )
    """Kind folder: numbers of the bands that are read, from 1 on, such as [4, 3, 2]. Three count as red, green and
    blue; with other numbers the network's first layer changes, and A_s leaves out what needs colours. Default: grey or
    RGB."""
    range: Literal["minmax", "percentile"] | Span | Annotated[tuple[Span, ...], Field(min_length=1)] | None = None
    """Kind folder: values that become 0 and 255, such as [0, 4095], for all bands or for each; values beyond are
    clipped. `minmax`: the lowest and highest value of each band over the images with masks. `percentile`: their 2nd and
    98th percentile. Default: 8 bits as they are, and the whole range of 16 bits."""
    nodata: NoData | None = None
    """Kind folder: value of pixels without data, which are ignored in masks. A pixel has no data if all bands that are
    read have this value."""
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
            "bands": self.bands,
            "range": self.range,
            "nodata": self.nodata,
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

    @model_validator(mode="after")
    def _ranges_fit_the_bands(self) -> Self:
        if isinstance(self.range, tuple):
            spans = spans_of(self.range)
            if wrong := [span for span in spans if not span[0] < span[1]]:
                raise ValueError(
                    f"`range` {[*wrong[0]]}: the first value, which becomes black, must be below the second"
                )
            channels = len(self.bands) if self.bands else 3
            if len(spans) not in (1, channels):
                raise ValueError(
                    f"`range` has {len(spans)} pairs of values for {channels} bands; give one, or one each"
                )
        if self.bands and len({*self.bands}) != len(self.bands):
            raise ValueError("`bands` names a band twice")
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
