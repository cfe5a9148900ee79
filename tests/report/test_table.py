"""The table of a run's results: every number in the row of its model and the column of its set."""

from stpp.report.table import table


def test_val_and_test_stand_in_their_columns_and_of_two_files_the_first_counts() -> None:
    first = {"val": {"st": {"miou": 0.5}}, "test": {"st": {"miou": 0.25}}}
    later = {"val": {"st": {"miou": 0.9}, "stpp": {"miou": 0.625}}, "pseudo": {"reliable": {"miou": 0.75}}}
    assert [line.split() for line in table([first, later], "tiny", {}).splitlines()] == [
        ["tiny:", "mIoU", "(%)", "val", "test"],
        ["ST", "50.0", "25.0"],
        ["ST++", "62.5", "-"],
        ["pseudo", "masks:", "mIoU", "(%)"],
        ["reliable,", "by", "the", "teacher", "75.0"],
    ]
