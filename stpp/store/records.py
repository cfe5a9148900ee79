"""The JSON files that stages write: what each of them holds.

Read from disk they may have been edited, cut or exchanged: `read` says so in one message, before a value is used.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from stpp.store.files import StppError, read_json


def _ratio(value: float) -> float:
    if value < 0 or value > 1:  # NaN is neither: a set may show no class
        raise ValueError("not between 0 and 1")
    return value


Ratio = Annotated[float, AfterValidator(_ratio)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Record(BaseModel):
    """What is read of a file; it may hold more."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Digested(Record):
    """What names a content."""

    digest: str


class DataSet(Digested):
    """runs/data/dataset.json."""

    name: str
    classes: Annotated[list[str], Field(min_length=1, max_length=255)]
    palette: list[Annotated[list[Count], Field(min_length=3, max_length=3)]]
    values: dict[str, Count]


class Run(Record):
    """run.json of a stage that computes for long."""

    run_id: str | None
    stage: str = ""
    key: str = ""
    setting: Annotated[str, Field(alias="stpp.setting")] = ""
    data_digest: Annotated[str, Field(alias="stpp.data.digest")] = ""
    split_digest: Annotated[str, Field(alias="stpp.split.digest")] = ""


class Score(Record):
    """What was measured of a model, or of a mask set."""

    miou: Ratio


class Evaluation(Record):
    """metrics.json of `stpp evaluate`: scores by model for val, and so for every other set that it was given."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Score]]

    evaluation: str
    lists: dict[str, str]
    val: Annotated[dict[str, Score], Field(min_length=1)]
    pseudo: dict[str, Score] = {}


class Matrices(Record):
    """scores.json of `stpp evaluate`: a confusion matrix by model for val."""

    val: Annotated[dict[str, list[list[Count]]], Field(min_length=1)]


class Finished(Record):
    """finished.json of work that a stage has done, in `.stpp`."""

    key: str
    run_json: str


def read(path: Path, kind: type[Record]) -> dict[str, Any]:
    """The table in a JSON file of a stage. Raises StppError naming the file, and what in it is not as in `kind`."""
    raw = read_json(path)
    check(raw, kind, path)
    return dict(raw)


def check(raw: Any, kind: type[Record], where: Path | str) -> None:
    """Raises StppError naming what in `raw` is not as in `kind`."""
    try:
        kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        what = f"{place}: {first['msg']}"
        raise StppError(f"{where}: not what its stage writes ({what}); run the stage that makes it again") from None
