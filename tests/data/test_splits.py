"""Tests of splits: sets are disjoint and complete, the seed alone decides the draw, and every mistake is named."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpp.data.oversampling import copies, copies_as_long
from stpp.ingest.splits import SETS, check, draw, size_of
from stpp.params.models import Split, Subset
from stpp.store.manifest import Dataset, Record

FEW = settings(max_examples=50, deadline=None)
NO_LISTS = Path("no-lists")
ALL = (0, 1, 2)


def record(name: str, classes: tuple[int, ...] = ALL, mask: bool = True, content: str = "") -> Record:
    place = f"masks/{name}.png" if mask else ""
    return Record(name, f"images/{name}.jpg", place, 8, 6, content or name, f"mask of {name}", classes if mask else ())


def dataset_of(*records: Record, classes: tuple[str, ...] = ("sky", "road", "tree")) -> Dataset:
    return Dataset("d", classes, ((0, 0, 0),) * len(classes), {}, {r.id: r for r in records})


def numbered(count: int) -> Dataset:
    return dataset_of(*(record(f"{i:03d}") for i in range(count)))


def split_of(**subsets: Any) -> Split:
    return Split(**({"name": "s", "labeled": Subset(count=1), "val": Subset(count=1)} | subsets))


def drawn(dataset: Dataset, split: Split, lists: Path = NO_LISTS) -> dict[str, list[str]]:
    sets, problems = draw(dataset, split, lists)
    assert problems == []
    return sets


# -- drawing ----------------------------------------------------------------------------------------------------------

SUBSETS = st.one_of(
    st.integers(1, 30).map(lambda n: Subset(count=n)),
    st.tuples(st.integers(1, 8), st.integers(8, 16)).map(lambda f: Subset(fraction=f"{f[0]}/{f[1]}")),
    st.floats(0.01, 1).map(lambda f: Subset(fraction=f)),
    st.just(Subset()),
    st.just(Subset(ids="0?[02468]")),
)
SPLITS = st.builds(
    split_of,
    labeled=SUBSETS,
    val=SUBSETS,
    unlabeled=SUBSETS,
    test=SUBSETS | st.none(),
    seed=st.integers(0, 5),
    stratify=st.booleans(),
)


@FEW
@given(st.integers(0, 60), SPLITS)
def test_sets_are_disjoint_sorted_and_of_the_requested_size_or_a_problem_is_reported(count: int, split: Split) -> None:
    dataset = numbered(count)
    sets, problems = draw(dataset, split, NO_LISTS)
    taken: set[str] = set()
    for name in SETS:
        subset: Subset | None = getattr(split, name)
        assert (name in sets) == (subset is not None)
        if subset is None:
            continue
        even = subset.ids is not None
        free = [i for i in dataset.records if i not in taken and (not even or (i < "100" and int(i) % 2 == 0))]
        ids = sets[name]
        assert set(ids) <= set(free)
        assert ids == sorted(set(ids))
        wanted = size_of(subset, len(free))
        assert len(ids) == min(wanted, len(free))
        told = [p for p in problems if p.startswith(f"split.{name}: ")]
        assert bool(told) == (wanted > len(free) or not ids)
        taken |= set(ids)


@FEW
@given(st.integers(4, 60), st.integers(1, 20), st.integers(1, 20), st.integers(0, 9))
def test_all_images_are_used_if_unlabeled_is_not_set(count: int, labeled: int, val: int, seed: int) -> None:
    dataset = numbered(count)
    sets, _ = draw(dataset, split_of(labeled=Subset(count=labeled), val=Subset(count=val), seed=seed), NO_LISTS)
    assert sorted(i for ids in sets.values() for i in ids) == list(dataset.records)


@FEW
@given(SPLITS, st.randoms(use_true_random=False))
def test_a_split_depends_on_the_seed_and_not_on_the_order_of_records(split: Split, random: Any) -> None:
    classes = [(0,), (1, 2), (0, 1, 2), (2,)]
    records = [record(f"{i:03d}", classes[i % 4]) for i in range(40)]
    other = list(records)
    random.shuffle(other)
    assert draw(dataset_of(*records), split, NO_LISTS) == draw(dataset_of(*other), split, NO_LISTS)


def test_another_seed_draws_other_images() -> None:
    splits = [drawn(numbered(60), split_of(labeled=Subset(count=20), seed=seed)) for seed in range(5)]
    assert len({tuple(s["labeled"]) for s in splits}) == 5
    assert len({tuple(s["val"]) for s in splits}) > 1


def test_every_image_is_drawn_equally_often() -> None:
    dataset = numbered(12)
    times: Counter[str] = Counter()
    for seed in range(400):
        times.update(drawn(dataset, split_of(labeled=Subset(count=3), val=Subset(count=4), seed=seed))["labeled"])
    expected, deviation = 400 * 3 / 12, (400 * 0.25 * 0.75) ** 0.5
    assert all(abs(times[i] - expected) < 4.5 * deviation for i in dataset.records)


def test_sets_take_their_images_in_the_order_test_val_labeled_unlabeled() -> None:
    everything = Subset(ids="*")
    sets, problems = draw(numbered(5), split_of(test=everything, val=everything, labeled=everything), NO_LISTS)
    assert {name: len(ids) for name, ids in sets.items()} == {"test": 5, "val": 0, "labeled": 0, "unlabeled": 0}
    assert [p.split(":")[0] for p in problems] == ["split.val", "split.labeled", "split.unlabeled"]


def test_patterns_match_ids_as_in_a_shell() -> None:
    names = ["train/a/1", "train/b/2", "val/a/1", "TRAIN/x", "other"]
    dataset = dataset_of(*(record(name) for name in names))
    sets = drawn(dataset, split_of(labeled=Subset(ids="train/*"), val=Subset(ids="val/*")))
    assert sets == {"val": ["val/a/1"], "labeled": ["train/a/1", "train/b/2"], "unlabeled": ["TRAIN/x", "other"]}


# -- stratified drawing -----------------------------------------------------------------------------------------------

SHOWN = st.sets(st.integers(0, 5), max_size=3).map(lambda classes: tuple(sorted(classes)))


@FEW
@given(st.lists(SHOWN, min_size=1, max_size=40), st.integers(0, 6), st.integers(0, 5))
def test_a_stratified_draw_has_every_class_of_the_candidates(
    shown: list[tuple[int, ...]], more: int, seed: int
) -> None:
    dataset = dataset_of(*(record(f"{i:03d}", c) for i, c in enumerate(shown)), classes=tuple("abcdef"))
    count = min(6 + more, len(shown))
    split = split_of(labeled=Subset(count=count), val=Subset(ids="none"), stratify=True, seed=seed)
    labeled = draw(dataset, split, NO_LISTS)[0]["labeled"]
    assert len(labeled) == count
    if count >= 6:
        assert {c for i in labeled for c in dataset.records[i].classes} == {c for classes in shown for c in classes}


def test_a_stratified_draw_takes_all_images_of_a_rare_class() -> None:
    records = [record(f"{i:03d}", (0,)) for i in range(90)] + [record(f"r{i}", (0, 1)) for i in range(4)]
    dataset = dataset_of(*records, classes=("sky", "road"))
    split = split_of(labeled=Subset(count=8), val=Subset(ids="none"), stratify=True)
    assert {f"r{i}" for i in range(4)} <= set(draw(dataset, split, NO_LISTS)[0]["labeled"])


def test_only_labelled_images_are_stratified() -> None:
    dataset = dataset_of(*(record(f"{i:03d}", (0,) if i else (1,)) for i in range(60)))
    plain = split_of(labeled=Subset(count=6), val=Subset(count=6))
    even = split_of(labeled=Subset(count=6), val=Subset(count=6), stratify=True)
    assert drawn(dataset, plain)["val"] == drawn(dataset, even)["val"]


# -- lists ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lists(tmp_path: Path) -> Any:
    """Return a function that writes lists by name below a folder, and returns the folder."""

    def write(**files: str | bytes) -> Path:
        for name, content in files.items():
            path = tmp_path / "lists" / f"{name}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "lists"

    return write


LISTED = {"labeled": Subset(list="labeled.txt"), "val": Subset(list="val.txt")}


def test_a_list_names_ids_or_image_paths_and_a_mask_after_them_is_ignored(lists: Any) -> None:
    folder = lists(
        labeled="\ufeff002\n\n  images/000.jpg masks/000.png\r\n", val="images/003.jpg\t/elsewhere/x.png\n001 m/1.png\n"
    )
    assert drawn(numbered(5), split_of(**LISTED), folder) == {
        "val": ["001", "003"],
        "labeled": ["000", "002"],
        "unlabeled": ["004"],
    }


def test_lists_in_the_published_format_are_read(lists: Any) -> None:
    name = "aachen_000000_000019"
    image = f"leftImg8bit/train/aachen/{name}_leftImg8bit.png"
    dataset = dataset_of(record("v"), Record(f"train/aachen/{name}", image, "m.png", 8, 6, "h", "m", ALL), record("u"))
    folder = lists(labeled=f"{image} gtFine/train/aachen/{name}_gtFine_labelTrainIds.png\n", val="v")
    assert drawn(dataset, split_of(**LISTED), folder)["labeled"] == [f"train/aachen/{name}"]


def test_a_list_may_hold_names_with_spaces_in_any_unicode_form(lists: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["Foto", "Foto 1 (Kopie), a", "b b", "\u00fc", "o\u0308 1", "v"]
    dataset = dataset_of(*(Record(n, f"i/{n}.jpg", f"m/{n}.png", 8, 6, n, "m", ALL) for n in names))
    lines = ["Foto 1 (Kopie), a", "i/b b.jpg m/b b.png", "u\u0308", "i/\u00f6 1.jpg\tm/other.png"]
    folder = lists(labeled="\n".join(lines), val="v")
    assert drawn(dataset, split_of(**LISTED), folder)["labeled"] == sorted([*names[1:3], *names[3:5]])
    said = capsys.readouterr().out
    assert "labeled.txt: 2 name(s) differ from the data set's in their Unicode form, such as in line 3" in said
    for line in ("Foto 1", "Foto 2.jpg", "Foto b b", "m/b b.png", "Foto i/x y.jpg", " ".join("a" * 10_000)):
        (folder / "labeled.txt").write_text(f"{line}\n")
        (problem, *_) = draw(dataset, split_of(**LISTED), folder)[1]
        assert "is neither an id nor an image" in problem, "what is left of the first space is not taken for the name"


def test_part_of_a_list_can_be_drawn(lists: Any) -> None:
    folder = lists(labeled="".join(f"{i:03d}\n" for i in range(20)))
    sets = drawn(numbered(40), split_of(labeled=Subset(list="labeled.txt", fraction="1/4")), folder)
    assert len(sets["labeled"]) == 5
    assert all(i < "020" for i in sets["labeled"])


@pytest.mark.parametrize(
    ("labeled", "said"),
    [
        ("000\nabsent\n", "labeled.txt:2: absent is neither an id nor an image"),
        ("000\n\n000\n", "labeled.txt:3: 000 is listed twice"),
        ("000\nimages/000.jpg\n", "labeled.txt:2: images/000.jpg is listed twice"),
        ("000\n001\n", "labeled.txt:2: 001 is also in val"),
        ("my own photo\n000\n", "labeled.txt:1: `my own photo` is neither an id nor an image"),
        ("000 -1\n", "labeled.txt:1: `000 -1` is neither an id nor an image"),
        ("000\t1\t2\n", "labeled.txt:1: `000\t1\t2` is neither an id nor an image"),
        ("", "labeled.txt: the list is empty"),
        (" \n\n", "labeled.txt: the list is empty"),
        (b"\xff\xfe0\x000\x00", "labeled.txt: not readable"),
    ],
)
def test_a_mistake_in_a_list_is_named_with_its_line(labeled: str | bytes, said: str, lists: Any) -> None:
    folder = lists(labeled=labeled, val="001")
    _, problems = draw(numbered(5), split_of(**LISTED), folder)
    assert problems[0].startswith(f"{folder}/{said}")


def test_all_mistakes_in_lists_are_reported_at_once(lists: Any) -> None:
    folder = lists(labeled="absent\n001\n000\n000\n", val="001\nnone\n")
    _, problems = draw(numbered(5), split_of(**LISTED), folder)
    places = [p.removeprefix(f"{folder}/").split(": ")[0] for p in problems]
    assert places == ["val.txt:2", "labeled.txt:1", "labeled.txt:4", "labeled.txt:2"]


@pytest.mark.parametrize("name", ["absent.txt", "../outside.txt", "sub/../../outside.txt", "ABSOLUTE", "folder", "."])
def test_the_error_names_a_list_that_is_not_in_the_folder_of_lists(name: str, lists: Any, tmp_path: Path) -> None:
    folder = lists(val="001")
    (tmp_path / "outside.txt").write_text("000\n")
    (folder / "folder").mkdir()
    (folder / "sub").mkdir()
    name = str(tmp_path / "outside.txt") if name == "ABSOLUTE" else name
    _, problems = draw(numbered(5), split_of(labeled=Subset(list=name), val=Subset(list="val.txt")), folder)
    assert problems[0].startswith("split.labeled.list: ")
    assert str(folder / name) in problems[0]


# -- checking ---------------------------------------------------------------------------------------------------------


def checked(
    sets: dict[str, list[str]], dataset: Dataset, batch_size: int = 2, **subsets: Any
) -> tuple[list[str], list[str]]:
    return check(sets, dataset, split_of(**subsets), batch_size)


def test_a_sound_split_has_neither_problem_nor_warning() -> None:
    sets = {"test": ["000"], "val": ["001"], "labeled": ["002"], "unlabeled": ["003", "004"]}
    assert checked(sets, numbered(5)) == ([], [])


@pytest.mark.parametrize("name", ["labeled", "val", "test"])
def test_a_missing_mask_is_named_where_one_is_needed(name: str) -> None:
    dataset = dataset_of(record("bare", mask=False), record("good"), record("u", mask=False))
    sets = {"labeled": ["good"], "val": ["good"], "test": ["good"], "unlabeled": ["u"]} | {name: ["bare", "good"]}
    problems, _ = checked(sets, dataset)
    assert [p for p in problems if p.startswith(f"bare: in {name}, but has no mask")]
    assert not [p for p in problems if p.startswith("u")]


def test_a_class_without_a_pixel_in_the_drawn_labels_is_a_problem_and_elsewhere_a_warning() -> None:
    dataset = dataset_of(record("some", (0, 2)), record("v", (0,)), record("all"), record("more"))
    problems, warnings = checked({"labeled": ["some"], "val": ["v"], "unlabeled": ["all", "more"]}, dataset)
    assert [p.split(";")[0] for p in problems] == [
        "class road has no pixel in the 1 labelled images and could not be learnt"
    ]
    assert warnings == ["class road has no pixel in val", "class tree has no pixel in val"]


def test_a_class_without_a_pixel_in_listed_labels_is_a_warning() -> None:
    dataset = dataset_of(record("some", (0, 2)), record("all"))
    problems, warnings = checked({"labeled": ["some"], "val": ["all"]}, dataset, labeled=Subset(list="l.txt"))
    assert problems == []
    assert warnings == ["class road has no pixel in labeled"]


@FEW
@given(st.integers(1, 260), st.integers(2, 400))
def test_fewer_labels_than_a_batch_are_a_problem_after_doubling(labeled: int, batch_size: int) -> None:
    dataset = numbered(300)
    ids = list(dataset.records)
    problems, _ = checked({"labeled": ids[:labeled], "val": ids[-1:]}, dataset, batch_size)
    samples = labeled * 2 if labeled < 200 else labeled
    assert bool(problems) == (samples < batch_size)
    if problems:
        assert f"{labeled} labelled images give {samples} samples" in problems[0]
        assert f"train.batch_size {batch_size}" in problems[0]


@pytest.mark.parametrize("other", ["labeled", "val", "test", "unlabeled"])
def test_the_same_content_under_two_ids_is_a_problem_that_names_both(other: str) -> None:
    dataset = dataset_of(record("one", content="x"), record("two", content="x"), record("v"), record("u"), record("w"))
    sets = {"labeled": ["one"], "val": ["v"], "unlabeled": ["u", "w"]}
    sets[other] = [*sets.get(other, []), "two"]
    problems, _ = checked(sets, dataset)
    assert len(problems) == 1
    assert "is the same image as" in problems[0]
    assert "one in labeled" in problems[0]
    assert f"two in {other}" in problems[0]


# -- over-sampling ----------------------------------------------------------------------------------------------------


@FEW
@given(st.integers(1, 3000), st.integers(1, 11_000))
def test_labelled_images_are_copied_until_they_are_as_many_as_the_pseudo_labelled(labeled: int, pseudo: int) -> None:
    n = copies(labeled, pseudo)
    assert (n - 1) * labeled < pseudo <= n * labeled


@FEW
@given(st.integers(1, 3000), st.integers(1, 11_000))
def test_alone_they_are_copied_until_an_epoch_is_as_long_as_a_students(labeled: int, pseudo: int) -> None:
    student = labeled * copies(labeled, pseudo) + pseudo
    assert student <= labeled * copies_as_long(labeled, pseudo) < student + labeled


@pytest.mark.parametrize(("labeled", "expected"), [(1, 2), (92, 2), (199, 2), (200, 1), (10_582, 1)])
def test_without_pseudo_labels_fewer_than_200_are_doubled(labeled: int, expected: int) -> None:
    assert copies(labeled, 0) == expected


@pytest.mark.parametrize(
    ("labeled", "images", "epochs", "teacher", "student_1", "student_2"),
    [
        (92, 10_582, 80, 880, 52_900, 105_300),
        (183, 10_582, 80, 1_760, 52_500, 104_100),
        (662, 10_582, 80, 3_280, 51_300, 99_200),
        (1464, 10_582, 80, 7_280, 52_000, 96_800),
        (372, 2_975, 240, 5_520, 41_800, 78_000),
    ],
)
def test_the_number_of_iterations_agrees_with_the_published_settings(
    labeled: int, images: int, epochs: int, teacher: int, student_1: int, student_2: int
) -> None:
    unlabeled = images - labeled
    assert labeled * copies(labeled, 0) // 16 * epochs == teacher
    for pseudo, iterations in ((unlabeled // 2, student_1), (unlabeled, student_2)):
        samples = labeled * copies(labeled, pseudo) + pseudo
        assert abs(samples // 16 * epochs - iterations) <= 50


def test_sets_that_need_masks_are_drawn_from_images_with_masks() -> None:
    dataset = dataset_of(*(record(f"{i:03d}", mask=i % 7 == 0) for i in range(70)))
    sets = drawn(dataset, split_of(labeled=Subset(), val=Subset(count=4)))
    masked = {i for i, r in dataset.records.items() if r.mask}
    assert set(sets["labeled"]) | set(sets["val"]) == masked
    assert set(sets["unlabeled"]) == set(dataset.records) - masked


def test_listed_images_are_not_drawn_into_another_set(tmp_path: Path) -> None:
    dataset = numbered(7)
    (tmp_path / "mine.txt").write_text("000\n001\n002\n003\n004\n")
    sets = drawn(dataset, split_of(labeled=Subset(list="mine.txt"), val=Subset(count=1)), tmp_path)
    assert set(sets["val"]) | set(sets["unlabeled"]) == {"005", "006"}


@pytest.mark.parametrize("name", ["val", "test"])
def test_images_of_an_evaluation_pattern_are_never_unlabelled_and_need_masks(name: str) -> None:
    dataset = dataset_of(*(record(f"{part}/{i}", mask=i != 3) for part in ("train", name) for i in range(6)))
    split = split_of(**{"val": Subset(count=1)} | {"labeled": Subset(count=2)} | {name: Subset(ids=f"{name}/*")})
    sets, problems = draw(dataset, split, NO_LISTS)
    assert sets[name] == [f"{name}/{i}" for i in range(6)]
    assert not [i for i in sets["unlabeled"] if i.startswith(name)]
    problems += check(sets, dataset, split, 2)[0]
    assert [p for p in problems if p.startswith(f"{name}/3: in {name}, but has no mask")]


def test_images_without_a_mask_that_match_the_labelled_pattern_give_a_warning() -> None:
    dataset = dataset_of(*(record(f"{i}", mask=i not in (2, 4)) for i in range(9)))
    told = []
    for labeled in (Subset(ids="*"), Subset(ids="*", count=3), Subset()):
        split = split_of(labeled=labeled, val=Subset(count=2))
        sets, _ = draw(dataset, split, NO_LISTS)
        told.append([w for w in check(sets, dataset, split, 2)[1] if "mask" in w])
    assert [len(warnings) for warnings in told] == [1, 0, 0]
    assert "2 image(s) without a mask, such as 2" in told[0][0]


def test_a_single_unlabelled_image_is_a_problem_before_anything_trains() -> None:
    sets = {"val": ["000"], "labeled": ["001", "002"], "unlabeled": ["003"]}
    problems, _ = checked(sets, numbered(4))
    assert [p for p in problems if p.startswith("split.unlabeled: 1 image ")]


def test_images_of_a_list_are_never_drawn_for_another_set(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("000\n001\n002\n003\n004\n")
    for seed in range(20):
        split = split_of(labeled=Subset(list="mine.txt"), val=Subset(count=1), seed=seed)
        assert drawn(numbered(7), split, tmp_path)["val"] in (["005"], ["006"])
