"""Tests of parameters: types are strict, files are merged, and every error line names its file and key."""

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from stpp.ingest.splits import size_of
from stpp.params.data import Data
from stpp.params.file import edited, flatten, load, schema
from stpp.params.models import Evaluate, Params, Subset
from stpp.store.files import StppError

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = [ROOT / "params.yaml", *sorted((ROOT / "pipelines" / "presets").glob("*.yaml"))]
SMALL = {
    "data": {"name": "mine", "kind": "toy", "root": "somewhere"},
    "split": {"name": "s", "labeled": {"count": 2}, "val": {"count": 2}},
}
FEW = settings(max_examples=30, deadline=None)

Value = bool | int | float | str
NUMBERS = {k: v for k, v in flatten(load([ROOT / "params.yaml"])).items() if isinstance(v, bool | int | float)}
WHOLE = [k for k, v in NUMBERS.items() if isinstance(v, int) and not isinstance(v, bool)]


def name_of(path: Path) -> str:
    return path.name


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Return {"a": {"b": 1}} for {"a.b": 1}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, last = name.split(".")
        section = tree
        for part in sections:
            section = section.setdefault(part, {})
        section[last] = value
    return tree


@pytest.fixture
def complaint(tmp_path: Path) -> Any:
    """Return a function: overlay (a dict or YAML text) over the repository's parameters -> the lines of the error."""

    def complain(overlay: dict[str, Any] | str) -> list[str]:
        path = tmp_path / "overlay.yaml"
        path.write_text(overlay if isinstance(overlay, str) else json.dumps(overlay))
        with pytest.raises(StppError) as error:
            load([ROOT / "params.yaml", path])
        return str(error.value).splitlines()

    return complain


def loaded(tmp_path: Path, *overlays: dict[str, Any] | str) -> Params:
    paths = [ROOT / "params.yaml"]
    for number, overlay in enumerate(overlays):
        paths.append(tmp_path / f"overlay-{number}.yaml")
        paths[-1].write_text(overlay if isinstance(overlay, str) else json.dumps(overlay))
    return load(paths)


# -- the files of the repository --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_published_parameters_load(path: Path) -> None:
    assert isinstance(load([path]), Params)


def test_the_schema_in_the_repository_is_up_to_date() -> None:
    assert (ROOT / "params.schema.json").read_text(encoding="utf-8") == schema(), "run `stpp schema`"


def test_the_schema_describes_every_parameter_and_section() -> None:
    described = json.loads(schema())
    sections = {"": described} | described["$defs"]

    def text(of: dict[str, Any]) -> str:
        found: str = of.get("description") or text(sections[of["$ref"].rpartition("/")[2]])
        return found

    for section in sections.values():
        for key, one in section["properties"].items():
            assert text(one).endswith("."), f"{section['title']}.{key}"


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_published_parameters_agree_with_the_schema(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema()))
    assert [e.message for e in validator.iter_errors(YAML(typ="safe").load(path))] == []


def test_the_schema_refuses_text_and_unknown_keys_as_loading_does() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema()))
    values = json.loads(load([ROOT / "params.yaml"]).model_dump_json())
    assert validator.is_valid(values)
    for key, number in NUMBERS.items():
        section = values
        *sections, last = key.split(".")
        for part in sections:
            section = section[part]
        section[last] = str(number)
        assert not validator.is_valid(values), key
        section[f"{last}x"] = section[last] = number
        assert not validator.is_valid(values), key
        del section[f"{last}x"]
    assert validator.is_valid(values)


def test_loaded_parameters_are_the_same_after_writing_and_loading(tmp_path: Path) -> None:
    for path in PUBLISHED:
        first = load([path])
        (tmp_path / "again.yaml").write_text(first.model_dump_json())
        assert load([tmp_path / "again.yaml"]) == first


# -- strict -----------------------------------------------------------------------------------------------------------


def test_text_is_not_converted_to_a_number(complaint: Any) -> None:
    lines = complaint(nested({key: str(number) for key, number in NUMBERS.items()}))
    assert len(lines) == len(NUMBERS)
    for key, number in NUMBERS.items():
        (line,) = [line for line in lines if f" {key}: " in line]
        assert "overlay.yaml" in line
        assert f"(found {str(number)!r})" in line


@pytest.mark.parametrize("value", [8.5, True, "8"])
def test_only_a_whole_number_is_a_count(value: Value, complaint: Any) -> None:
    lines = complaint(nested(dict.fromkeys(WHOLE, value)))
    assert len(lines) == len(WHOLE)
    for key in WHOLE:
        assert any(f" {key}: " in line and f"(found {value!r})" in line for line in lines), key


def test_a_float_is_not_a_count_even_without_a_fraction(complaint: Any) -> None:
    counts = [key for key in WHOLE if key != "model.output_stride"]  # it is a choice of 8 and 16, and 8.0 equals 8
    lines = complaint(nested(dict.fromkeys(counts, 8.0)))
    assert len(lines) == len(counts)
    assert all("valid integer (found 8.0)" in line for line in lines)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("split.stratify", 1),
        ("label.flip", "yes"),
        ("data.root", 3),
        ("data.name", "with space"),
        ("model.network", "fcn"),
        ("train.momentum", 1.5),
        ("train.batch_size", 1),
        ("train.lr", 0),
        ("select.ratio", 1.0),
        ("label.scales", []),
        ("label.scales", 1.0),
        ("train", None),
        ("train", [1]),
    ],
)
def test_a_value_of_a_wrong_type_or_out_of_range_is_refused(key: str, value: object, complaint: Any) -> None:
    (line,) = complaint(nested({key: value}))
    assert f" {key}: " in line


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize("key", ["train.lr", "train.head_lr_factor", "train.weight_decay"])
def test_numbers_are_finite(key: str, text: str, complaint: Any) -> None:
    section, name = key.split(".")
    (line,) = complaint(f"{section}: {{{name}: {text}}}")
    assert f" {key}: " in line


def test_an_unknown_key_is_named_with_its_path(complaint: Any) -> None:
    keys = [f"{key}x" for key in [*NUMBERS, "train", "augment.weak"]]
    lines = complaint(nested(dict.fromkeys(keys, 1)))
    assert len(lines) == len(keys)
    for key in keys:
        assert any(f" {key}: no such parameter" in line for line in lines), key


def test_all_problems_are_reported_at_once_with_one_line_each(complaint: Any) -> None:
    lines = complaint(
        {
            "train": {"lr": "8", "epochs": 2.0, "leraning_rate": 1},
            "augment": {"weak": {"crop": 3, "scale": [0.5]}},
            "split": {"labeled": {"count": None, "fraction": 2.0}},
            "studnet": {},
        }
    )
    keys = ["train.lr", "train.epochs", "train.leraning_rate", "augment.weak.crop", "augment.weak.scale.1"]
    keys += ["split.labeled.fraction", "studnet"]
    assert len(lines) == len(keys)
    for key in keys:
        assert sum(f" {key}: " in line for line in lines) == 1, key


@pytest.mark.parametrize("meaning", [1.5, None, [1]])
def test_a_value_that_fits_neither_of_two_types_is_one_problem(meaning: object, complaint: Any) -> None:
    data = {"kind": "folder", "images": "{name}.png", "classes": ["a", "b"], "values": {"11": meaning}}
    (line,) = complaint({"data": data})
    assert " data.values.11: " in line
    assert "integer" in line
    assert "string" in line


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps({"data": SMALL["data"], "split": {"name": "s", "labeled": {}}}))
    with pytest.raises(StppError, match=r"params\.yaml: split\.val: "):
        load([path])


@pytest.mark.parametrize("key", ["train.lr", "data.root", "augment.weak.crop", "split.labeled.count", "train"])
def test_parameters_are_frozen(key: str) -> None:
    section: BaseModel = load([ROOT / "params.yaml"])
    *sections, name = key.split(".")
    for part in sections:
        section = getattr(section, part)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(section, name, getattr(section, name))


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "1.e-3", ".001", "0.001", "+1e-3"])
def test_a_float_may_have_any_notation(text: str, tmp_path: Path) -> None:
    assert loaded(tmp_path, f"train: {{lr: {text}}}").train.lr == 1e-3


def test_an_integer_is_accepted_as_a_float(tmp_path: Path) -> None:
    assert loaded(tmp_path, "train: {lr: 1}").train.lr == 1.0


def test_an_overlay_changes_the_keys_it_names_and_no_other(tmp_path: Path) -> None:
    plain = flatten(load([ROOT / "params.yaml"]))
    overlay = {"train": {"lr": 0.5}, "augment": {"strong": {"blur": 0.0}}, "label": {"scales": [1.0]}}
    merged = flatten(loaded(tmp_path, overlay))
    changed = {"train.lr": 0.5, "augment.strong.blur": 0.0, "label.scales": (1.0,)}
    assert merged == plain | changed


def test_of_two_overlays_the_later_wins(tmp_path: Path) -> None:
    p = loaded(tmp_path, {"train": {"lr": 0.5, "momentum": 0.1}}, {"train": {"lr": 0.25}})
    assert (p.train.lr, p.train.momentum) == (0.25, 0.1)


def test_an_overlay_may_be_invalid_without_a_later_one(tmp_path: Path) -> None:
    assert loaded(tmp_path, {"train": {"checkpoints": 40}}, {"train": {"epochs": 50}}).train.checkpoints == 40


@pytest.mark.parametrize(
    "content",
    [
        b"train: {lr: 1",
        b"train:\n\tlr: 1",
        b"\xff\xfe\x00",
        b"train: {lr: 1, lr: 2}",
        b"train: {lr: 2001-01-01}",
        b"train: {lr: 2001-99-99}",
        b"train: &a [*a]",
        b"? [a, b]\n: 1",
        b"",
        b"- train",
        b"train",
    ],
)
def test_the_error_names_a_file_that_is_not_a_mapping_of_sections(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(StppError, match=r"odd\.yaml: (not readable as YAML|expected sections)"):
        load([ROOT / "params.yaml", path])


def test_the_error_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StppError, match=r"absent\.yaml: no such file"):
        load([tmp_path / "absent.yaml"])


# -- checks within a section ------------------------------------------------------------------------------------------

FOLDER = {"name": "mine", "kind": "folder", "root": "r", "images": "{name}.png", "classes": ["a", "b"]}


COCO = {"format": "coco", "file": "coco.json"}
PARTS = {"a": "{name}_a.png", "b": "{name}_b*.png"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "pascal"}, "kind pascal has built-in images, classes"),
        ({"kind": "pascal", "images": None, "classes": None, "values": {"220": "ignore"}}, "has built-in values"),
        ({"kind": "pascal", "images": None, "classes": None, "ignore": 11}, "has built-in ignore"),
        ({"images": None}, "needs `images`"),
        ({"images": None, "list": "l.txt", "masks": "{name}.png"}, "`masks` uses the placeholders of `images`"),
        ({"classes": None}, "needs `classes`"),
        ({"classes": []}, "needs `classes`"),
        ({"classes": ["a", "a"]}, "twice"),
        ({"classes": [f"c{i}" for i in range(256)]}, "at most 255 items"),
        ({"palette": [[0, 0, 0]]}, "1 colours for 2 classes"),
        ({"palette": [[0, 0, 0], [0, 0, 256]]}, "less than or equal to 255"),
        ({"annotations": COCO, "masks": "{name}.png"}, "`annotations` takes the place of `masks`"),
        ({"annotations": COCO, "values": {"7": 1}}, "`annotations` takes the place of `values`"),
        ({"annotations": COCO, "ignore": 9}, "`annotations` takes the place of `ignore`"),
        ({"annotations": COCO, "images": None, "list": "list.txt"}, "needs `images`"),
        ({"annotations": COCO | {"rest": "c"}}, "`annotations.rest`: c is not in `classes`"),
        ({"annotations": COCO | {"labels": {"x": "c"}}}, "`annotations.labels: x`: c is not in `classes`"),
        ({"annotations": {"format": "coco"}}, "annotations.file"),
        ({"annotations": COCO | {"format": "xml"}}, "Input should be 'coco'"),
        ({"kind": "pascal", "images": None, "classes": None, "annotations": COCO}, "has built-in annotations"),
        ({"masks": {"a": "{name}_a.png"}}, "`masks` has no pattern for the class b"),
        ({"masks": PARTS | {"c": "{name}_c.png"}}, "`masks` names c, which is not in `classes`"),
        ({"masks": PARTS, "values": {"255": 1}}, "`values` has no meaning for masks of one class each"),
        ({"masks": PARTS, "ignore": 9}, "`ignore` has no meaning for masks of one class each"),
        ({"masks": PARTS | {"a": "*_{name}.png"}}, "has a placeholder after `*`"),
        ({"masks": PARTS, "annotations": COCO}, "`annotations` takes the place of `masks`"),
        ({"outside": "{name}*.gif"}, "`outside` is one file for an image"),
        ({"outside": "{name}.gif", "images": None, "list": "l.txt"}, "`outside` is one file for an image"),
        ({"kind": "pascal", "images": None, "classes": None, "outside": "{name}.gif"}, "has built-in outside"),
        ({"exclude": ["a", 12]}, "12 is a number; put names of digits in quotes"),
        ({"values": {"a": 1}}, "'a' is not a mask value"),
        ({"values": {"-1": 1}}, "'-1' is not a mask value"),
        ({"values": {"65536": 1}}, "'65536' is not a mask value"),
        ({"values": {"7": 2}}, "class 2, but there are 2"),
        ({"values": {"7": "ingore"}}, "maps 7 to 'ingore', which is neither a class nor `ignore`"),
        ({"values": {"7": 1, "#800000": 1}}, "holds colours and numbers"),
        ({"values": {"5-9": 1, "7": 0}}, "gives mask value 7 twice, as 7 the second time"),
        ({"values": {"#AB0000": 1, "#ab0000": 0}}, "gives mask value #ab0000 twice"),
        ({"values": {"9-5": 1}}, "'9-5' is not a mask value"),
        ({"values": {"5-70000": 1}}, "'5-70000' is not a mask value"),
        ({"values": {"#80000": 1}}, "'#80000' is not a mask value"),
        ({"values": {"128,0,0": 1}}, "'128,0,0' is not a mask value"),
        ({"values": {"#800000": 1}}, "no mask value means a; add a value for it"),
        ({"values": {"7": -1}}, "greater than or equal to 0"),
        ({"ignore": 1}, "`ignore` 1 is also the id of class b"),
        ({"values": {"1": "ignore"}}, "no mask value means b"),
        ({"values": {"1": 0, "0": 0}}, "no mask value means b"),
    ],
)
def test_the_error_explains_a_wrong_description_of_a_folder(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps({**SMALL, "data": FOLDER | change}))
    with pytest.raises(StppError) as error:
        load([path])
    assert f"{path}: data" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize("key", ["11", "'11'"])
def test_mask_values_may_be_numbers_or_text(key: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    folder = "kind: folder, images: '{name}.png', classes: [a, b]"
    path.write_text(f"data: {{name: n, root: r, {folder}, values: {{{key}: ignore}}}}\nsplit: {SMALL['split']}")
    assert load([path]).data.values == {"11": "ignore"}
    assert Data(name="n", kind="folder", root="r", images="{a}", classes=("a", "b"), values={11: 1}).values == {"11": 1}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"train": {"epochs": 2, "checkpoints": 3}}, "`checkpoints` 3 is too many for 2 epochs"),
        ({"augment": {"weak": {"scale": [2.0, 0.5]}}}, "augment.weak: `scale` needs"),
        ({"augment": {"strong": {"blur_sigma": [0.0, 1.0]}}}, "augment.strong: `blur_sigma` needs"),
        ({"augment": {"strong": {"cutout_area": [0.1, 1.5]}}}, "augment.strong: `cutout_area` is a share"),
        ({"augment": {"strong": {"cutout_area": [0.9, 1.0], "cutout_aspect": [3.0, 3.3]}}}, "fits into the crop"),
        ({"augment": {"strong": {"cutout_area": [0.9, 1.0], "cutout_aspect": [0.3, 0.5]}}}, "fits into the crop"),
        ({"split": {"labeled": {"count": 3, "fraction": "1/8"}}}, "`count` or `fraction`"),
        ({"split": {"labeled": {"list": "a.txt", "ids": "*"}}}, "`list` or `ids`"),
    ],
)
def test_the_error_explains_values_that_contradict_each_other(
    section: dict[str, Any], said: str, complaint: Any
) -> None:
    (line,) = complaint(section)
    assert "overlay.yaml" in line
    assert f" {next(iter(section))}" in line
    assert said in line


# -- sizes of subsets -------------------------------------------------------------------------------------------------


@FEW
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20_000))
def test_a_fraction_is_rounded_half_up_and_takes_at_least_one(a: int, b: int, candidates: int) -> None:
    a, b = sorted((a, b))
    size = size_of(Subset(fraction=f"{a}/{b}"), candidates)
    assert size == max(1, (2 * candidates * a + b) // (2 * b))
    assert size == 1 or abs(Fraction(size) - Fraction(candidates * a, b)) <= Fraction(1, 2)


@FEW
@given(st.integers(1, 1000), st.integers(1, 20_000))
def test_a_decimal_selects_the_same_number_as_the_equal_fraction(thousandths: int, candidates: int) -> None:
    as_text = size_of(Subset(fraction=f"{thousandths}/1000"), candidates)
    assert size_of(Subset(fraction=thousandths / 1000), candidates) == as_text


@pytest.mark.parametrize(("fraction", "size"), [("1/16", 661), ("1/8", 1323), (0.125, 1323), (1.0, 10582)])
def test_fractions_of_augmented_pascal(fraction: str | float, size: int) -> None:
    assert size_of(Subset(fraction=fraction), 10582) == size


@FEW
@given(st.integers(0, 1000))
def test_without_count_or_fraction_all_candidates_are_taken(candidates: int) -> None:
    assert size_of(Subset(), candidates) == candidates
    assert size_of(Subset(count=7), candidates) == 7


@pytest.mark.parametrize(
    "bad", ["0", "2", "9/8", "-1/8", "1/0", "x", "", "1/2/3", "nan", "1e-99999999", 0.0, -0.5, 1.5, True, [1]]
)
def test_an_invalid_fraction_is_refused(bad: object, complaint: Any) -> None:
    (line,) = complaint({"split": {"labeled": {"count": None, "fraction": bad}}})
    assert " split.labeled" in line
    assert "fraction" in line


# -- flat names -------------------------------------------------------------------------------------------------------

KEYS = st.text("abcXYZ09_", min_size=1, max_size=4)
LEAVES = st.one_of(st.integers(), st.text("a.é ", max_size=3), st.lists(st.integers(), max_size=2), st.none())
TREES: st.SearchStrategy[dict[str, Any]] = st.deferred(
    lambda: st.dictionaries(KEYS, st.one_of(LEAVES, LEAVES, TREES), min_size=1, max_size=3)
)


@settings(max_examples=25, deadline=None)
@given(TREES)
def test_nesting_the_flat_names_gives_the_original_tree(tree: dict[str, Any]) -> None:
    assert nested(flatten(tree)) == tree


def test_flat_names_of_parameters_are_dotted() -> None:
    params = load([ROOT / "params.yaml"])
    flat = flatten(params)
    assert flat["train.lr"] == params.train.lr
    assert flat["augment.weak.crop"] == params.augment.weak.crop
    assert not any(isinstance(v, dict | BaseModel) for v in flat.values())


@pytest.mark.parametrize("path", PUBLISHED, ids=str)
def test_an_edited_file_has_the_new_values_with_reasons_and_is_otherwise_unchanged(path: Path) -> None:
    values = {"train.iterations": 7, "train.epochs": None, "label.scales": [1.0, 2.0], "runtime.cache_gb": 0.5}
    values |= {"model.precision": "bfloat16"}  # the last key of its section; an empty line follows
    why = {key: f"the reason of {key}" for key in values}
    text = edited(path, values, why)
    before, after = (YAML(typ="safe").load(source) for source in (path, text))
    assert flatten(after) == flatten(before) | values
    for key, reason in why.items():
        assert sum(f"{key.rpartition('.')[2]}: " in line and f"# {reason}" in line for line in text.splitlines()) == 1
    was, now = path.read_text().splitlines(), text.splitlines()
    assert [line for line in was if line.startswith("#") or not line] == [
        line for line in now if line.startswith("#") or not line
    ]
    assert edited(path, {}).split() == path.read_text().split()


@pytest.mark.parametrize("path", PUBLISHED, ids=str)
def test_published_params_files_set_every_value(path: Path) -> None:
    """Defaults are in code that no stage watches, so DVC would not notice if a changed default changed results."""
    raw = flatten({k: v for k, v in YAML(typ="safe").load(path).items() if k not in ("data", "split")})
    for section in ("model", "train", "augment", "score", "select", "label", "evaluate"):
        wanted = flatten({section: getattr(load([path]), section).model_dump()})
        missing = set(wanted) - set(raw)
        assert missing <= {"train.epochs", "train.iterations"}
    assert [raw.get("train.epochs"), raw.get("train.iterations")].count(None) == 1


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"strong": {"cutout_aspect": [0.3, 2000.0]}}, "at most 1000"),
        ({"weak": {"base": 8, "scale": [0.01, 2.0]}}, "less than one pixel"),
    ],
)
def test_extreme_ranges_of_augmentations_are_refused(section: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(StppError, match=said):
        loaded(tmp_path, {"augment": section})


@pytest.mark.parametrize("section", ["model", "student"])
def test_random_weights_are_not_frozen(section: str, tmp_path: Path) -> None:
    with pytest.raises(StppError, match=f"`{section}.freeze` keeps the backbone's random weights"):
        loaded(tmp_path, {section: {"freeze": True, "weights": "none"}})
    assert loaded(tmp_path, {section: {"freeze": True, "weights": "mine.pth"}})


def numbers(schema: dict[str, Any], key: str, inside: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every number in the schema with its key."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name in inside:
            return
        schema, inside = SCHEMA["$defs"][name], (*inside, name)
    if schema.get("type") in ("integer", "number") and "enum" not in schema:
        yield key, schema
    parts = [*schema.get("anyOf", ()), *schema.get("prefixItems", ()), *schema.get("allOf", ())]
    parts += [value for value in (schema.get("additionalProperties"),) if isinstance(value, dict)]
    if isinstance(schema.get("items"), dict):
        parts.append(schema["items"])
    for part in parts:
        yield from numbers(part, key, inside)
    for name, part in schema.get("properties", {}).items():
        yield from numbers(part, f"{key}.{name}".lstrip("."), inside)


SCHEMA = json.loads(schema())


def test_every_number_has_an_upper_bound_within_64_bits() -> None:
    bounds = {k: n.get("maximum", n.get("exclusiveMaximum")) for k, n in numbers(SCHEMA, "")}
    assert len(bounds) > 40
    assert {k: bound for k, bound in bounds.items() if bound is None or bound > 2**63} == {}


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "a/b", "", "a b", "x" * 101, "a\n"])
@pytest.mark.parametrize("section", ["data", "split"])
def test_a_name_that_is_not_a_plain_file_name_is_refused(section: str, name: str, complaint: Any) -> None:
    assert f"{section}.name: String should" in complaint({section: {"name": name}})[0]


@pytest.mark.parametrize("key", ["images", "masks", "list", "root"])
def test_a_path_with_a_null_byte_is_refused(key: str, complaint: Any) -> None:
    assert f"data.{key}: String should match" in complaint({"data": {"kind": "folder", key: "a\0b"}})[0]


def test_many_unknown_keys_are_reported_in_few_lines(complaint: Any) -> None:
    lines = complaint({"train": {f"epoch_{i}": 1 for i in range(20_000)}})
    assert len(lines) == 5 and lines[4] == "full list: .stpp/problems.txt"
    assert lines[3] == "... and 19997 more like these"
    assert len(complaint({"train": {"lr": "x" * 100_000}})[0]) < 600


def test_windows_may_touch_but_leave_no_gap() -> None:
    assert Evaluate(window=100, stride=100).stride == 100
    with pytest.raises(ValidationError, match="`stride` 101 leaves gaps between windows of 100"):
        Evaluate(window=100, stride=101)
