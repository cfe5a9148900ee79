"""Tests of the paper's settings and numbers (against its text, if it is in ../shared), and of its split lists."""

import json
import re
from pathlib import Path

import pytest

from stpp.engine.optim import scaled_lr
from stpp.ingest.published import LABELED, SPLITS, TRAIN, VAL, lists_folder, read_lists
from stpp.paper.published import SETTINGS, TABLES, cells, params_of, table
from stpp.paper.systems import SYSTEMS, iterations
from stpp.params.file import as_yaml, load
from stpp.params.models import Params, Train
from stpp.store.files import StppError, sha256

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"

B = ("stpp", "round_1")
"""The systems of Appendix B."""

# -- numbers and settings


def test_every_system_of_every_table_can_be_run() -> None:
    assert {system for one in TABLES.values() for system in one.systems} <= set(SYSTEMS)


def test_a_cell_has_the_same_number_in_all_tables() -> None:
    seen: dict[tuple[str, str], float] = {}
    for one in TABLES.values():
        for cell, number in one.numbers.items():
            assert seen.setdefault(cell, number) == number
            assert 50 < number < 91


@pytest.mark.parametrize(
    ("name", "settings", "numbers"),
    [
        ("table-1", 12, 36),
        ("table-2", 5, 15),
        ("table-3", 3, 9),
        ("table-4", 3, 9),
        ("table-5", 6, 18),
        ("table-6", 3, 12),
        ("appendix-b", 2, 4),
        ("beyond-1", 15, 45),
    ],
)
def test_a_table_has_as_many_cells_as_in_the_paper(name: str, settings: int, numbers: int) -> None:
    assert len(table(name).settings) == settings
    assert len(table(name).numbers) == numbers


@pytest.mark.real
def test_the_numbers_equal_those_in_the_text_of_the_paper() -> None:
    text = SHARED / "paper" / "st-plus-plus.txt"
    if not text.is_file():
        pytest.skip(f"{text} is not there")
    words = text.read_text()
    # The name of a row in the paper, which is right before its numbers.
    called = {
        "suponly": "SupOnly",
        "st": r"ST\)?",
        "stpp": r"(?:ST\+\+\)?|ST\+\+: selective re-training)",
        "blind": "blind two-stage re-training",
        "online": "Online labeling",
        "pixel_1": "Pixel-level re-train phase #1",
        "pixel_2": "Pixel-level re-train phase #2",
    }
    for name, one in ((name, one) for name, one in TABLES.items() if name != "beyond-1"):
        rows: dict[tuple[str, str], list[float]] = {}
        for setting in one.settings:
            for system in one.systems:
                number = one.numbers.get((setting.name, system))
                if number is not None:
                    rows.setdefault((setting.network, system), []).append(number)
        for row, numbers in rows.items():
            printed = r"[ %]+".join(re.escape(f"{n:.1f}") for n in numbers)
            if name != "appendix-b":
                assert re.search(rf"{called[row[1]]} {printed}", words), f"{name} {row}: {numbers}"
    before, after = ([table("appendix-b").numbers[s.name, x] for s in table("appendix-b").settings] for x in B)
    sentence = f"{before[0]:.1f}% to {after[0]:.1f}% and {before[1]:.1f}% to {after[1]:.1f}%"
    assert sentence in words.replace("\n", " ")


@pytest.mark.real
def test_the_numbers_of_later_systems_equal_those_that_were_read_in_their_papers() -> None:
    text = SHARED / "paper" / "beyond.md"
    if not text.is_file():
        pytest.skip(f"{text} is not there")
    called = {"ST++ (the paper)": "stpp", "UniMatch V1": "unimatch", "labelled only": "suponly", "FixMatch": "fixmatch"}
    called["UniMatch V2"] = "unimatch_v2"
    networks = {"ResNet-101": "deeplabv3plus-resnet101"}
    networks |= {f"DINOv2-{size[0].upper()}": f"dpt-vit_{size}_patch14_dinov2" for size in ("small", "base")}
    one, seen = table("beyond-1"), 0
    for system, backbone, numbers in re.findall(r"(?m)^\| ([^|]+) \| ([^|]+) \| ([\d. /]+) \|$", text.read_text()):
        if system in called:
            settings = [setting.name for setting in one.settings if setting.network == networks[backbone]]
            assert [one.numbers[name, called[system]] for name in settings] == [float(n) for n in numbers.split(" / ")]
            seen += 1
    assert seen == 7


def test_the_error_for_an_unknown_table_names_the_known_ones() -> None:
    with pytest.raises(StppError, match="table-1, table-2"):
        table("table-9")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_a_valid_params_file_with_the_values_of_the_paper(name: str, tmp_path: Path) -> None:
    setting = SETTINGS[name]
    path = tmp_path / "params.yaml"
    path.write_text(as_yaml(Params.model_validate(params_of(setting))))
    params = load([path])
    assert params == Params.model_validate(params_of(setting))
    found = params.train.epochs, params.augment.weak.crop, scaled_lr(params.train)
    if "dinov2" in name:
        assert found == (60, 518, 5e-6) and params.train.optimizer == "adamw"
    else:
        assert found == ((80, 321, 0.001) if setting.data == "pascal" else (240, 721, 0.004))
    assert (params.model.output_stride, params.train.checkpoints, params.select.ratio) == (8, 3, 0.5)
    assert params.label.scales == (0.5, 0.75, 1.0, 1.5, 2.0)
    assert f"{params.model.network}-{params.model.backbone}" == setting.network
    assert cells(setting)


@pytest.mark.parametrize(
    ("data", "labels", "teacher", "student_1", "student"),
    [
        ("pascal", "92", 880, 52_900, 105_300),
        ("pascal", "183", 1_760, 52_500, 104_100),
        ("pascal", "366", 1_760, 51_100, 102_300),
        ("pascal", "732", 3_600, 50_200, 100_500),
        ("pascal", "1464", 7_280, 52_000, 96_800),
        ("pascal", "1_16", 3_280, 51_300, 99_200),
        ("pascal", "1_8", 6_560, 49_600, 92_600),
        ("pascal", "1_4", 13_200, 46_200, 92_600),
        ("cityscapes", "1_30", 2_880, 43_900, 86_400),
        ("cityscapes", "1_8", 5_520, 41_800, 78_000),
        ("cityscapes", "1_4", 11_000, 38_900, 66_700),
    ],
)
def test_models_train_for_as_many_iterations_as_in_the_published_code(
    data: str, labels: str, teacher: int, student_1: int, student: int
) -> None:
    m, train = LABELED[data][labels], Train(epochs=80 if data == "pascal" else 240)
    expected = {"runs/teacher": teacher, "runs/student_1": student_1, "runs/student": student}
    for out, count in expected.items():
        counted = iterations(out, m, TRAIN[data] - m, train, 0.5)
        assert counted == pytest.approx(count, abs=60 if count > 10_000 else 0)


# -- split lists


def published(folder: Path, labels: str = "92", data: str = "pascal") -> Path:
    """Write lists in the published layout and of the published size. Return their folder."""
    images = [f"JPEGImages/{i:05d}.jpg SegmentationClass/{i:05d}.png" for i in range(TRAIN[data] + VAL[data])]
    m, n = LABELED[data][labels], TRAIN[data]
    lists = {"labeled": images[:m], "unlabeled": images[m:n]}
    for split in SPLITS:
        for name, lines in lists.items():
            path = folder / data / labels / split / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines))
    (folder / data / "val.txt").write_text("\n".join(images[n:]) + "\n")
    return folder


def test_a_published_split_is_read_completely(tmp_path: Path) -> None:
    lists = read_lists(published(tmp_path), "pascal", "92", "split_1")
    assert (len(lists.labeled), len(lists.unlabeled), len(lists.val)) == (92, 10_490, 1_449)


def test_all_problems_of_a_published_split_are_reported_at_once(tmp_path: Path) -> None:
    folder = published(tmp_path)
    split = folder / "pascal/92/split_0"
    labeled = (split / "labeled.txt").read_text().splitlines()
    val = (folder / "pascal/val.txt").read_text().splitlines()
    (split / "labeled.txt").write_text("\n".join([*labeled[:-2], labeled[0], val[3]]))
    (split / "unlabeled.txt").write_text("\n\n")
    with pytest.raises(StppError) as error:
        read_lists(folder, "pascal", "92", "split_0")
    message = str(error.value)
    assert f"{labeled[0].split()[0]} is listed twice" in message
    assert f"{val[3].split()[0]} is listed also in" in message
    assert "unlabeled.txt: the published list is empty" in message


def test_problems_are_found_despite_a_byte_order_mark_joined_lines_and_plain_ids(tmp_path: Path) -> None:
    folder = published(tmp_path)
    path = folder / "pascal/92/split_0/labeled.txt"
    lines = path.read_text().splitlines()
    val = (folder / "pascal/val.txt").read_text().split()[0]
    for changed, said in (
        ([lines[1], *lines[1:]], f"{lines[1].split()[0]} is listed twice"),
        ([Path(val).stem, *lines[1:]], f"{val} is listed also in"),
        ([lines[0] + lines[1], *lines[2:]], "is a line break missing?"),
    ):
        path.write_text("\n".join(changed), encoding="utf-8-sig")
        with pytest.raises(StppError) as error:
            read_lists(folder, "pascal", "92", "split_0")
        assert said in str(error.value)


@pytest.mark.parametrize(("which", "change"), [("labeled", -1), ("unlabeled", -1), ("labeled", 1)])
def test_a_wrong_number_of_images_is_an_error(tmp_path: Path, which: str, change: int) -> None:
    path = published(tmp_path) / "pascal/92/split_0" / f"{which}.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, "JPEGImages/x.jpg x.png"] if change > 0 else lines[:-1]))
    with pytest.raises(StppError, match=rf"{which}\.txt: {len(lines) + change} images, but pascal 92 has {len(lines)}"):
        read_lists(tmp_path, "pascal", "92", "split_0")


@pytest.mark.parametrize(("data", "labels", "split"), [("pascal", "93", "split_0"), ("pascal", "92", "split_7")])
def test_the_error_for_an_unknown_setting_names_the_known_ones(data: str, labels: str, split: str) -> None:
    with pytest.raises(StppError, match="known: "):
        read_lists(Path(), data, labels, split)


def test_the_command_stores_lists_with_name_source_and_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stpp.stages.data import lists

    monkeypatch.chdir(tmp_path)
    lists("pascal", "92", published(tmp_path / "from"), "https://example.org/lists@abc", "split_2")
    folder = Path("splits/pascal/92/split_2")
    about = json.loads((folder / "source.json").read_text())
    assert (about["name"], about["source"]) == ("pascal 92 split_2", "https://example.org/lists@abc")
    assert about["sha256"] == {f"{n}.txt": sha256(folder / f"{n}.txt") for n in ("labeled", "unlabeled", "val")}


@pytest.mark.real
@pytest.mark.parametrize(("data", "labels"), [(d, n) for d, names in LABELED.items() for n in names])
def test_the_published_lists_can_be_read_except_for_the_empty_ones(data: str, labels: str) -> None:
    folder = SHARED / "data" / "published_splits"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    for split in SPLITS[:1] if labels == "1464" else SPLITS:
        if labels in ("183", "366", "732") and split != "split_0":
            with pytest.raises(StppError, match="the published list is empty"):
                read_lists(folder, data, labels, split)
        else:
            assert len(read_lists(folder, data, labels, split).labeled) == LABELED[data][labels]


def test_settings_name_the_lists_where_the_command_stores_them() -> None:
    for setting in SETTINGS.values():
        split = params_of(setting)["split"]
        folder = lists_folder(setting.data, setting.labels)
        assert [split[name]["list"] for name in ("labeled", "unlabeled", "val")] == [
            f"{folder}/{name}.txt" for name in ("labeled", "unlabeled", "val")
        ]
