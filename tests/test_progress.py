"""Tests of the progress of loops in a log, which has no bars."""

import pytest

from stpp.run import progress
from stpp.run.progress import duration


def test_in_a_log_a_short_loop_is_silent_and_a_long_one_prints_whole_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(progress.progress("abc", "score", 3)) == list("abc")
    assert list(progress.bar("abc", "train", 3)) == list("abc")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "SHORT", 0.0)
    assert list(progress.progress("abc", "score", 3)) == list("abc")
    said = ["score: 1/3, 0 s left", "score: 2/3, 0 s left", "score: 3/3 in 0 s"]
    assert capsys.readouterr() == ("", "".join(f"{line}\n" for line in said))
    assert list(progress.progress("ab", "import", None)) == list("ab")
    assert capsys.readouterr().err.splitlines()[-1] == "import: 2 in 0 s"


def test_a_duration_is_written_in_its_two_largest_units() -> None:
    written = {0.4: "0 s", 59.4: "59 s", 59.6: "1 min 0 s", 200: "3 min 20 s", 3600: "1 h 0 min", 7559: "2 h 5 min"}
    assert {seconds: duration(seconds) for seconds in written} == written
