"""The table of a run's results: every number in the row of its model and the column of its set."""

import re

from stpp.report.statistics import Interval
from stpp.report.table import table


def test_val_and_test_stand_in_their_columns_and_of_two_files_the_first_counts() -> None:
    first = {"val": {"st": {"miou": 50}}, "test": {"st": {"miou": 25}}}
    later = {"val": {"st": {"miou": 90}, "stpp": {"miou": 62.5}}, "pseudo": {"reliable": {"miou": 75}}}
    assert [line.split() for line in table([first, later], "tiny", {}).splitlines()] == [
        ["tiny:", "mIoU", "(%)", "val", "test"],
        ["ST", "50.0", "25.0"],
        ["ST++", "62.5", "-"],
        ["pseudo", "masks:", "mIoU", "(%)"],
        ["reliable,", "by", "the", "teacher", "75.0"],
    ]


def test_iou_and_dice_of_the_foreground_stand_beside_miou_if_they_are_known() -> None:
    new = {"suponly": {"miou": 50, "foreground_iou": 25, "foreground_dice": 40}}
    old = {"st": {"miou": 62.5}}  # of an evaluation without these keys
    shown = table([{"val": new}, {"val": old}], "tiny", {"val": {"st": Interval(12.5, 10, 15)}}, "crack")
    assert [line.split() for line in shown.splitlines()] == [
        ["tiny:", "mIoU", "(%);", "IoU", "and", "Dice", "(%)", "of", "crack"],
        ["val", "IoU", "Dice"],
        ["SupOnly", "50.0", "25.0", "40.0"],
        ["ST", "62.5", "+12.5", "(+10.0", "to", "+15.0)", "-", "-"],
    ]
    head, first, second = shown.splitlines()[1:]
    assert len(head) == len(first) == len(second)


def test_a_table_of_two_classes_with_val_and_test_fits_a_terminal_and_keeps_every_number() -> None:
    names = ("suponly", "st", "stpp", "only_jitter")
    keys = ("miou", "foreground_iou", "foreground_dice")
    numbers = iter(range(100, 1000))
    metrics = {s: {name: {key: next(numbers) / 10 for key in keys} for name in names} for s in ("val", "test")}
    gains = {s: {name: Interval(-12.5, -25, -10.1) for name in names[1:]} for s in metrics}
    shown = table([metrics | {"pseudo": {"pixel_all": {"miou": 50}}}], "tiny", gains, "crack")
    assert max(map(len, shown.splitlines())) <= 80
    found = [word for line in shown.splitlines() for word in line.split() if re.fullmatch(r"\d+\.\d", word)]
    assert found == [f"{n / 10:.1f}" for n in range(100, 124)] + ["50.0"]
    assert shown.count("-12.5 (-25.0 to -10.1)") == 6
