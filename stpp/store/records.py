"""Pydantic models of the JSON files that stages write.

Such a file may have been edited, cut or exchanged since. `read` checks it and reports this in one message, before any
value is used.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from stpp.store.files import StppError, read_json


def _up_to(highest: int) -> AfterValidator:
    def checked(value: float) -> float:
        if value < 0 or value > highest:  # NaN passes: it is the mIoU of a set that shows no class
            raise ValueError(f"must be between 0 and {highest}")
        return value

    return AfterValidator(checked)


Ratio = Annotated[float, _up_to(1)]
Percent = Annotated[float, _up_to(100)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class JsonFile(BaseModel):
    """The fields of a JSON file that are read and checked; the file may hold more."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Digested(JsonFile):
    """A JSON file that identifies a content by its digest."""

    digest: str


class DatasetJson(Digested):
    """runs/data/dataset.json, written by `stpp prepare`."""

    name: str
    classes: Annotated[list[str], Field(min_length=1, max_length=255)]
    palette: list[Annotated[list[Count], Field(min_length=3, max_length=3)]]
    values: dict[str, Count]
    masks: Literal["masks"] | None = None
    """The folder of the mask set if the masks were drawn from annotation files."""
    variable: str = ""
    reading: dict[str, Any] | None = None
    """See `stpp.store.reading`."""


class RunJson(JsonFile):
    """run.json of a stage that trains, scores, labels or evaluates."""

    run_id: str | None
    stage: str = ""
    key: str = ""
    experiment: str = ""
    setting: Annotated[str, Field(alias="stpp.setting")] = ""
    data_digest: Annotated[str, Field(alias="stpp.data.digest")] = ""
    split_digest: Annotated[str, Field(alias="stpp.split.digest")] = ""
    network: str = ""
    """The network that a training trained, as `Model.title` names it."""


class EvaluationJson(RunJson):
    """run.json of `stpp evaluate`."""

    evaluation: str
    """How models predict."""
    lists: dict[str, str]
    """The digest of the images and masks of every set."""
    images: dict[str, Count]
    """The number of images of every set."""
    unit: Literal["%"]
    """The unit of all scores beside it. Older versions wrote fractions, and no unit."""


class Score(JsonFile):
    """The metrics of one model or mask set on one set of images."""

    miou: Percent


class MaskScore(Score):
    """The metrics of a mask set, on its images with a true mask."""

    images: Count


class MetricsJson(JsonFile):
    """metrics.json of `stpp evaluate`: scores by model for val and for every other evaluated set."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Score]]

    evaluation: str = ""
    """Only older versions of stpp wrote it here, and `lists`; see `EvaluationJson`."""
    lists: dict[str, str] = {}
    val: Annotated[dict[str, Score], Field(min_length=1)]
    pseudo: dict[str, MaskScore] = {}


class ScoresJson(JsonFile):
    """scores.json of `stpp evaluate`: one confusion matrix per model, for val."""

    val: Annotated[dict[str, list[list[Count]]], Field(min_length=1)]


class TaskImage(JsonFile):
    """An image of a task for an annotation tool: its name in the task, and its id."""

    name: str
    id: str


class TaskJson(JsonFile):
    """task.json, in the folder of a task for an annotation tool."""

    tool: str
    classes: list[str]
    images: list[TaskImage]


class ParentJson(JsonFile):
    """parent.json of a split, written by `stpp label add`."""

    parent: str
    """Name of the split that it was made from."""
    added: dict[str, str]
    """The sha256 of the added masks, by id."""
    as_proposed: dict[str, Ratio] = {}
    """The fraction of pixels that were left as proposed, by id. Empty if no masks were proposed."""
    iou: dict[str, Ratio] = {}
    """The IoU of proposals and new masks, by class."""
    annotated_by: dict[str, str] = {}
    """Who made the masks, by id, where the export says it."""


class Finished(JsonFile):
    """finished.json in a job's folder below `.stpp`, written once the job's work is complete."""

    key: str
    run_json: str


def read(path: Path, kind: type[JsonFile]) -> dict[str, Any]:
    """Read a stage's JSON file into a dict. Raises StppError naming the file and the first field `kind` refuses."""
    raw = read_json(path)
    check(raw, kind, path)
    return dict(raw)


def check(raw: Any, kind: type[JsonFile], where: Path | str) -> None:
    """Raise StppError naming the first field of `raw` that `kind` refuses. where: the file's name in the message."""
    try:
        kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        what = f"{place}: {first['msg']}"
        raise StppError(f"{where}: not what its stage writes ({what}); rerun the stage that writes it") from None
