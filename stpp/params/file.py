"""Read params files as DVC reads them, merge overlays into them, validate them, and write them."""

import json
import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from stpp.params.models import Params
from stpp.store.files import StppError, parse_yaml, read_text, shown

PARAMS = 2**20
"""Maximum size of a params file in bytes."""


def load(paths: list[Path]) -> Params:
    """Read params.yaml and its overlays, and return the merged and validated parameters.

    An overlay holds only the keys that differ. Later files override earlier ones.
    Raises StppError that names the file, the key and the remedy.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        _merge(merged, read_yaml(path))
    try:
        # Validate as JSON: this is strict, but it turns YAML lists into the tuples that the frozen models hold.
        return Params.model_validate_json(json.dumps(merged))
    except ValidationError as error:
        lines = _explain(paths, json.loads(json.dumps(merged)), error.errors())
        raise StppError("\n".join(shown(lines, kinds=100))) from None


def flatten(params: BaseModel | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters by dotted name, as MLflow and `dvc params` show them: {"train.lr": 0.001}."""
    values = params.model_dump() if isinstance(params, BaseModel) else params
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def schema() -> str:
    """Return the text of params.schema.json, against which editors check params.yaml."""
    return json.dumps(Params.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def as_yaml(params: Params) -> str:
    """Return the text of a params.yaml with every value of `params`; section `toy` only if `data.kind` is toy."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            listed = CommentedSeq(value)
            listed.fa.set_flow_style()
            return listed
        return value

    yaml = YAML()
    yaml.width = 120
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    exclude = set() if params.data.kind == "toy" else {"toy"}
    out = StringIO()
    yaml.dump(plain(params.model_dump(mode="json", exclude=exclude)), out)
    return re.sub(r"^(?=\w)", "\n", out.getvalue(), flags=re.MULTILINE).lstrip("\n")


def edited(path: Path, values: Mapping[str, Any], why: Mapping[str, str] | None = None) -> str:
    """Return the text of a params file with some values replaced and all other comments kept.

    values: new values by dotted name; missing keys and sections are added. why: reasons by dotted name; a reason
    becomes the comment at the end of the key's line.
    """
    yaml = YAML()
    yaml.width = 4096  # do not wrap long lines
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.preserve_quotes = True
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    document = yaml.load(read_text(path, PARAMS)) or CommentedMap()
    for key, value in values.items():
        *sections, last = key.split(".")
        section = document
        for name in sections:
            if not isinstance(section.get(name), dict):
                section[name] = CommentedMap()
            section = section[name]
        after = last if last in section else next(reversed(section), last)
        old = section.ca.items.pop(after, None)
        # ruamel.yaml keeps one token per key: the comment at the end of its line, and all lines before the next key.
        remark, _, rest = old[2].value.partition("\n") if old and old[2] else ("", "", "")
        if after != last:
            if remark:
                section.yaml_add_eol_comment(remark, after)
            remark = ""
        section[last] = value
        if isinstance(value, list | tuple | dict):
            section[last] = CommentedMap(value) if isinstance(value, dict) else CommentedSeq(value)
            section[last].fa.set_flow_style()
        remark = (why or {}).get(key, remark)
        if remark or rest:
            section.yaml_add_eol_comment(remark or "#", last, column=40 if why else None)
            token = section.ca.items[last][2]
            token.value = (token.value if remark else "") + "\n" + rest
    out = StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the sections of a params file as they are written, without validation.

    Reads the stages of a dvc.yaml, too. Raises StppError that names the file.
    """
    try:
        raw = parse_yaml(read_text(path, PARAMS))
        json.dumps(raw)
    except FileNotFoundError:
        raise StppError(f"{path}: no such file; run in the project's folder or name the file with --params") from None
    except (ValueError, TypeError, OSError) as error:
        raise StppError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise StppError(f"{path}: expected sections such as `train:`, found {type(raw).__name__}")
    return raw


def pipeline_of(stage: str) -> tuple[str, str]:
    """Return the pipeline and the variant of a DVC stage.

    The pipeline is the name of a folder in pipelines/, or empty for the root pipeline. The variant is the text after
    `@`, or empty. DVC names a stage by its path from the folder in which `dvc` was called, which need not be the root:
    `../../dvc.yaml:evaluate`.
    """
    path, _, step = stage.rpartition(":")
    name = Path(path).parent.name
    return ("" if name == ".." else name), step.partition("@")[2]


def system_of(stage: str) -> str:
    """Return the name of a DVC stage's system: its pipeline, `stpp` for the root's, and its variant if it has one."""
    pipeline, variant = pipeline_of(stage)
    return f"{pipeline or 'stpp'} {variant}".rstrip()


def code_deps(stage: str) -> list[Path]:
    """Return the deps of a stage in its dvc.yaml that are the project's own code: files and folders below stpp/.

    The list is empty if there is no such stage.
    """
    pipeline, _ = pipeline_of(stage)
    file = Path("pipelines", pipeline, "dvc.yaml") if pipeline else Path("dvc.yaml")
    stages = read_yaml(file).get("stages", {}) if file.is_file() else {}
    entry = stages.get(stage.rpartition(":")[2].partition("@")[0], {})
    return [Path(dep) for dep in entry.get("do", entry).get("deps", ()) if str(dep).startswith("stpp/")]


def overlays_of(stage: str) -> dict[str, Any]:
    """Return the overlays of a stage by file name without suffix.

    An overlay lies beside a pipeline's dvc.yaml and makes the pipeline another system: it is the pipeline's
    params.yaml, or the file named after the variant. The root pipeline has none.
    Raises StppError if an overlay is not readable.
    """
    pipeline, variant = pipeline_of(stage)
    files = [Path("pipelines", pipeline, f"{name}.yaml") for name in ("params", variant)] if pipeline else []
    return {file.stem: read_yaml(file) for file in files if file.is_file()}


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    """Merge `other` into `into` in place, section by section."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _explain(paths: list[Path], merged: dict[str, Any], errors: list[Any]) -> list[str]:
    """Return one line for each wrong key, even if the key allows several types and each of them has an error."""
    wrong: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for error in errors:
        key = ".".join(_place(error, merged)) or "the file"
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = "no such parameter; params.schema.json lists all parameters"
        elif not isinstance(error["input"], dict):
            found[key] = f" (found {repr(error['input'])[:100]})"
        wrong.setdefault(key, []).append(message)
    files = ", ".join(map(str, paths))
    return [f"{files}: {key}: {' or '.join(messages)}{found.get(key, '')}" for key, messages in wrong.items()]


def _place(error: Any, values: Any) -> list[str]:
    """Return the keys that lead to an error, without the names of the types that pydantic appends to them."""
    place: list[str] = []
    for part in error["loc"]:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return [*place, str(part)] if error["type"] == "missing" else place
        place.append(str(part))
    return place
