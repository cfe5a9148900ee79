"""What the parameters of all sections share: their base class, and the types of values."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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
