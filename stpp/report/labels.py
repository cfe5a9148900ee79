"""How names of models and mask sets are shown to people, and how names from outside are made fit to show."""

LABELS = {
    "suponly": "SupOnly",
    "teacher": "Teacher (SupOnly)",
    "st": "ST",
    "student_1": "Student 1",
    "student": "Student 2 (ST++)",
    "stpp": "ST++",
    "reliable": "reliable, by the teacher",
    "unreliable": "unreliable, by the teacher",
    "boosted": "unreliable, by student 1",
}


def one_line(name: str, length: int = 28) -> str:
    """A name of any origin as printable characters on one line, cut in the middle to at most `length` of them.

    Control and formatting characters and lone surrogates become U+FFFD: they could break a line or reverse it.
    """
    shown = "".join(c if c.isprintable() else "\ufffd" for c in name)
    if len(shown) <= length:
        return shown
    tail = (length - 1) // 2
    return f"{shown[: length - 1 - tail]}…{shown[len(shown) - tail :]}"
