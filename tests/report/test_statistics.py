"""Tests of intervals over seeds and images against formulas and loops, and of the verdict on a run."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score
from torchmetrics.classification import MulticlassPrecision as Precision
from torchmetrics.classification import MulticlassRecall as Recall

from stpp.report.statistics import (
    Counts,
    Interval,
    bootstrap_gain,
    calibration,
    calibration_error,
    constant_class,
    dice,
    gains,
    miou,
    paired_t,
    pixel_accuracy,
    precision,
    rank_correlation,
    read_counts,
    recall,
    reliability,
    worst_first,
    write_counts,
)
from stpp.report.verdict import Facts, read_facts, verdict
from stpp.store.files import StppError

# -- over seeds -------------------------------------------------------------------------------------------------------


def test_a_paired_difference_has_the_interval_of_the_t_test() -> None:
    rng = random.Random(0)
    for n in (2, 3, 8):
        first, second = ([rng.gauss(40, 5) for _ in range(n)] for _ in "ab")
        found = paired_t(first, second)
        low, high = stats.ttest_rel(second, first).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((low, high))
        assert found.mean == pytest.approx(sum(second) / n - sum(first) / n)
        assert (stats.ttest_rel(second, first).pvalue < 0.05) == (found.sign != 0)


# -- over images ------------------------------------------------------------------------------------------------------


def counted(n: int, right: float, seed: int, classes: int = 3) -> Counts:
    """Return the counts of n images of 100 pixels, about a share `right` of which is correct."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((n, 3, classes), dtype=np.int64)
    for image in counts:
        true = rng.integers(0, classes, 100)
        predicted = np.where(rng.random(100) < right * rng.uniform(0.7, 1.2), true, rng.integers(0, classes, 100))
        for c in range(classes):
            image[:, c] = (((true == c) & (predicted == c)).sum(), (true == c).sum(), (predicted == c).sum())
    return counts


def by_hand(counts: Counts) -> float:
    values = []
    for c in range(counts.shape[2]):
        right, true, predicted = (int(counts[:, i, c].sum()) for i in range(3))
        if true + predicted - right:
            values.append(100 * right / (true + predicted - right))
    return sum(values) / len(values)


def test_miou_of_sums_is_the_mean_over_classes_that_occur() -> None:
    counts = counted(20, 0.6, 0)
    counts[:, :, 2] = 0
    assert float(miou(counts.sum(0))) == pytest.approx(by_hand(counts))


def test_the_bootstrap_interval_equals_that_of_a_loop_over_resampled_images() -> None:
    first, second = counted(60, 0.5, 1), counted(60, 0.6, 2)
    rng = random.Random(1)
    differences = []
    for _ in range(3000):
        drawn = [rng.randrange(60) for _ in range(60)]
        differences.append(by_hand(second[drawn]) - by_hand(first[drawn]))
    differences.sort()
    found = bootstrap_gain(first, second)
    assert found.mean == pytest.approx(by_hand(second) - by_hand(first))
    assert (found.low, found.high) == pytest.approx((differences[75], differences[2924]), abs=0.6)


def test_four_times_the_images_halve_the_interval_and_equal_models_have_no_gain() -> None:
    few, many = (bootstrap_gain(counted(n, 0.5, 3), counted(n, 0.55, 4)) for n in (100, 400))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(2, rel=0.25)
    assert bootstrap_gain(counted(50, 0.5, 5), counted(50, 0.5, 5)) == Interval(0, 0, 0)


def test_counts_are_read_back_and_the_error_names_a_damaged_file(tmp_path: Path) -> None:
    path, one = tmp_path / "images.npz", counted(4, 0.5, 0)
    write_counts(path, {"val": ["a", "b", "c", "d"], "file": ["e"]}, {("val", "st"): one, ("file", "st"): one[:1]})
    assert read_counts(path, "val").keys() == {"st"}
    assert np.array_equal(read_counts(path, "val")["st"], one)
    assert read_counts(path, "test") == {}
    before = path.read_bytes()
    write_counts(path, {"val": ["a", "b", "c", "d"], "file": ["e"]}, {("val", "st"): one, ("file", "st"): one[:1]})
    assert path.read_bytes() == before
    for spoilt in (b"", before[:100], before[: len(before) // 2], b"PK" + bytes(50)):
        path.write_bytes(spoilt)
        with pytest.raises(StppError, match=r"images\.npz: not what `stpp evaluate` writes"):
            read_counts(path, "val")
    write_counts(path, {"val": ["a"]}, {("val", "st"): one})
    with pytest.raises(StppError, match="val/st"):
        read_counts(path, "val")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_dice_precision_recall_accuracy_and_calibration_equal_those_of_torchmetrics(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    true, predicted = rng.integers(0, classes, (2, 60))
    level = rng.integers(1025, 2048, 60)  # multiples of 1 / 2048, so that no rounding moves a pixel to another bin
    probabilities = np.full((60, classes), (1 - level[:, None] / 2048) / (classes - 1))
    probabilities[np.arange(60), predicted] = level / 2048
    given = torch.from_numpy(probabilities), torch.from_numpy(true)
    counts = np.array([[[(hit & (m == c)).sum() for c in range(classes)] for hit, m in (
        (true == predicted, true), (true >= 0, true), (true >= 0, predicted))]])  # fmt: skip
    for ours, theirs in ((dice, MulticlassF1Score), (precision, Precision), (recall, Recall)):
        expected = 100 * theirs(classes, average="none")(*given)
        np.testing.assert_allclose(np.nan_to_num(ours(counts)[0]), expected, atol=1e-4)
    assert pixel_accuracy(counts)[0] == pytest.approx(100 * float(MulticlassAccuracy(classes, average="micro")(*given)))
    levels = np.zeros((2049, 2), dtype=np.int64)
    np.add.at(levels, (level, (true == predicted).astype(int)), 1)
    bins = calibration(levels)
    assert calibration_error(bins) == pytest.approx(
        100 * float(MulticlassCalibrationError(classes, 15)(*given)), abs=1e-4
    )
    rows = [row for row in reliability(bins) if row[2]]
    assert sum(row[2] for row in rows) == 60 and all(above < mean <= to for above, to, *_, mean in rows)


def test_images_are_ranked_by_their_miou_and_those_without_a_valid_pixel_come_last() -> None:
    counts = np.concatenate(
        [of_pixels((9, 9, 9)), 0 * of_pixels((1, 1, 1)), of_pixels((2, 9, 9)), of_pixels((5, 9, 9))]
    )
    assert worst_first(counts) == [2, 3, 0, 1]


# -- the verdict on a run ---------------------------------------------------------------------------------------------

CLASSES = ("sky", "pole", "road")
GOOD, BAD = counted(80, 0.7, 6), counted(80, 0.5, 7)


def test_the_best_on_val_is_named_with_its_gain_and_the_noise_of_the_images() -> None:
    (line,) = verdict({"suponly": BAD, "student_1": GOOD, "stpp": GOOD}, Facts(CLASSES, {}))
    gain = bootstrap_gain(BAD, GOOD)
    assert line.startswith(f"best on val: Student 1, +{gain.mean:.1f}") and ": more than" in line
    assert gains({"suponly": BAD, "stpp": GOOD}) == {"stpp": gain}
    (line,) = verdict({"suponly": BAD[:5], "st": counted(80, 0.51, 7)[:5]}, Facts(CLASSES, {}))
    assert "no more than the choice of 5 images explains" in line or "gained nothing" in line
    assert verdict({"st": GOOD}, Facts(CLASSES, {})) == [] == list(gains({"st": GOOD}))


def test_a_student_below_its_teacher_gives_a_warning_with_likely_causes() -> None:
    lost = GOOD.copy()
    lost[:, 0, 1] = lost[:, 2, 1] = 0
    known = Facts(CLASSES, {"student_1": 9000, "stpp": 150}, 0.05)
    first, warning, *causes = verdict({"suponly": BAD, "student_1": GOOD, "stpp": lost}, known)
    assert "best on val: Student 1" in first and "warning: ST++ is worse than Student 1, its teacher: -" in warning
    assert [word in cause for word, cause in zip(("150 iterations", "0.05", "pole"), causes, strict=True)] == [True] * 3
    lines = verdict({"suponly": GOOD, "st": BAD}, Facts(CLASSES, {}))
    assert "self-training gained nothing" in lines[0] and "other seeds" in lines[2]


def test_models_of_different_networks_are_not_compared_as_a_gain_of_self_training(tmp_path: Path) -> None:
    networks = {"suponly": "dpt on large (x)", "st": "pspnet on small (y)", "suponly_student": "pspnet on small (y)"}
    for name, network in networks.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"run_id": None, "network": network}))
    known = read_facts({name: tmp_path / name for name in networks}, None, CLASSES)
    teacher, small = counted(80, 0.8, 5), counted(80, 0.4, 8)
    (line,) = verdict({"suponly": teacher, "st": BAD}, known)
    assert line.startswith("best on val of pspnet on small (y): ST (") and "SupOnly (" in line
    assert "is dpt on large (x): the difference is not a gain of self-training; `stpp system use" in line
    gained, line = verdict({"suponly": teacher, "suponly_student": small, "st": BAD}, known)
    assert f"best on val: ST, +{bootstrap_gain(small, BAD).mean:.1f}" in gained and "network: more than" in gained
    assert line.startswith("best on val of dpt on large (x): SupOnly (") and line.endswith("self-training")


def test_a_gain_is_that_over_a_training_on_labelled_images_of_equal_length() -> None:
    known = Facts(CLASSES, {"suponly": 500, "suponly_long": 3000, "stpp": 3000})
    long = counted(80, 0.6, 8)
    gained, hint = verdict({"suponly": BAD, "stpp": GOOD}, known)
    assert "above SupOnly:" in gained
    assert "3000 iterations against 500: `stpp system use suponly_long`" in hint
    (gained,) = verdict({"suponly": BAD, "suponly_long": long, "stpp": GOOD}, known)
    assert f"ST++, +{bootstrap_gain(long, GOOD).mean:.1f}" in gained and "as long as ST++:" in gained
    (nothing, *_) = verdict({"suponly": BAD, "suponly_long": GOOD, "stpp": long}, known)
    assert "best on val: SupOnly, as long as ST++ (" in nothing and "gained nothing here" in nothing
    assert not any("gained nothing" in line for line in verdict({"suponly": BAD, "suponly_long": BAD}, known))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([10, 20, 30, 40, 50, 60], "+20.0 points in the last third of its training: it had not converged"),
        (
            [10, 40, 50, 90, 50, 50, 90, 50, 10],
            "+0.0 points in the last third of its training: more labels would help",
        ),
        ([10, 20, 30, 40, 50], ""),
        ([10, 20, 30, 40, math.nan, 60], ""),
    ],
)
def test_the_verdict_says_if_more_labels_or_a_longer_training_would_help(
    tmp_path: Path, values: list[float], said: str
) -> None:
    rows = "".join(f"{100 * i},{value}\n" for i, value in enumerate(values, 1))
    (tmp_path / "curve.csv").write_text(f"iteration,val/miou\n{rows}")
    known = read_facts({"suponly": tmp_path, "st": tmp_path / "none"}, None, CLASSES)
    lines = verdict({"suponly": BAD, "st": GOOD}, known)
    assert [said in line for line in lines[1:]] == [True] * bool(said)


def of_pixels(*rows: tuple[int, int, int]) -> Counts:
    """Return the counts of one image. rows: by class, pixels that are right, that are true, that are predicted."""
    return np.array([list(zip(*rows, strict=True))], dtype=np.int64)


def test_models_that_predict_one_class_are_named_whatever_their_miou() -> None:
    """A binary set of which 84.2 % is background: mIoU 42.1 by predicting nothing else."""
    classes = ("background", "crack")
    nothing, nearly = of_pixels((842, 842, 1000), (0, 158, 0)), of_pixels((840, 842, 997), (1, 158, 3))
    (line,) = verdict({"suponly": nothing, "stpp": nearly}, Facts(classes, {}))
    found = "no class but background is found on val by SupOnly (100.0 % of all pixels), ST++ (99.7 % of all pixels): "
    assert line.startswith(f"warning: {found}")
    assert "train.epochs" in line
    rare = of_pixels((994, 995, 996), (4, 5, 4))  # 99.6 % of the predictions are background, as they should be
    warning, best, of_crack = verdict({"suponly": nothing, "stpp": rare}, Facts(classes, {}))
    assert "by SupOnly (100.0 % of all pixels): " in warning and best.startswith("best on val: ST++")
    assert of_crack == "ST++ on val, crack (%): IoU 80.0, Dice 88.9, precision 100.0, recall 80.0"
    assert verdict({"st": of_pixels((9, 9, 9), (0, 0, 0))}, Facts(classes, {})) == []  # val shows one class only


def test_classes_that_the_best_model_never_finds_are_named_with_their_pixels() -> None:
    classes = tuple("abcdefghij")
    found = [(50, 60, 60)] * 2
    counts = of_pixels(*found, *[(0, n, 0) for n in (1, 2, 3, 4, 5, 6)], (0, 0, 40), (0, 0, 0))
    (line,) = verdict({"st": counts}, Facts(classes, {}))
    listed = "c (1 pixels), d (2 pixels), e (3 pixels), f (4 pixels), g (5 pixels) and 1 more"
    assert line.startswith(f"ST does not find 6 of 8 classes of val: {listed}; label more images")


def test_a_training_of_a_handful_of_iterations_is_named() -> None:
    known = Facts(CLASSES, {"suponly": 19, "stpp": 20}, rise=5.0)
    first, *others = verdict({"suponly": BAD, "stpp": GOOD}, known)
    assert first.startswith("warning: trained for a handful of iterations: SupOnly 19; ")
    assert others[0].startswith("best on val: ") and not any("last third" in line for line in others)


# -- rank correlation -------------------------------------------------------------------------------------------------


def ranks(values: list[float]) -> list[float]:
    return [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]


def spearman(a: list[float], b: list[float]) -> float:
    """Return Pearson's correlation of the ranks."""
    x, y = ranks(a), ranks(b)
    mean = (len(a) + 1) / 2
    cov = sum((u - mean) * (v - mean) for u, v in zip(x, y, strict=True))
    return cov / math.sqrt(sum((u - mean) ** 2 for u in x) * sum((v - mean) ** 2 for v in y))


VALUES = st.integers(0, 4).map(float) | st.floats(allow_nan=False)


@settings(deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), max_size=12))
def test_rank_correlation_equals_the_formula_by_double_loops(pairs: list[tuple[float, float]]) -> None:
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    if len(pairs) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(rank_correlation(a, b))
    else:
        assert rank_correlation(a, b) == pytest.approx(spearman(a, b), abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=3, unique=True))
def test_rank_correlation_depends_only_on_the_order(values: list[int]) -> None:
    a = [float(v) for v in values]
    assert rank_correlation(a, [v**3 for v in a]) == pytest.approx(1)
    assert rank_correlation(a, [-v for v in a]) == pytest.approx(-1)


def test_rank_correlation_of_nan_is_nan_and_of_unequal_lengths_an_error() -> None:
    assert math.isnan(rank_correlation([1, 2, math.nan], [1, 2, 3]))
    with pytest.raises(ValueError):
        rank_correlation([1, 2, 3], [1, 2])


def test_a_constant_prediction_is_found_unless_there_is_only_one_class() -> None:
    assert constant_class(np.array([[0, 5, 0], [0, 7, 0], [0, 0, 0]])) == 1
    assert constant_class(np.array([[0, 5, 0], [0, 7, 0], [0, 0, 1]])) is None
    assert constant_class(np.array([[0, 0, 0], [0, 7, 0], [0, 0, 0]])) is None, "nothing else was to be found"
    assert constant_class(np.zeros((3, 3), np.int64)) is None
