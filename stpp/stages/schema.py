"""The `schema` command: writes the JSON schema that editors check params.yaml against."""

from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.params.file import schema as schema_text
from stpp.store.files import write_text


def schema(out: Annotated[Path, Option(help="File to write.")] = Path("params.schema.json")) -> None:
    """Write params.schema.json.

    Editors check params.yaml against this JSON schema.
    """
    write_text(out, schema_text())
