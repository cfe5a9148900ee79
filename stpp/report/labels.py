"""Display names of models and mask sets, and functions that make names from outside safe to display."""

from collections.abc import Sequence

from stpp.store.files import printable

PARTS = {"jitter": "colour jitter", "grayscale": "greyscale", "blur": "blur", "cutout": "CutOut"}
"""Display name of each part of A_s, by its parameter."""

LABELS = {
    "suponly": "SupOnly",
    "suponly_student": "SupOnly, student's network",
    "suponly_long": "SupOnly, as long as ST++",
    "teacher": "Teacher (SupOnly)",
    "st": "ST",
    "student_1": "Student 1",
    "student": "Student 2 (ST++)",
    "stpp": "ST++",
    "plain": "plain self-training",
    "blind_student_1": "blind, student 1",
    "blind": "blind two-stage",
    "online": "online labelling",
    "fixmatch": "FixMatch",
    "unimatch": "UniMatch",
    "unimatch_v2": "UniMatch V2",
    "pixel_1": "pixel-level, phase 1",
    "pixel_2": "pixel-level, phase 2",
    **{f"round_{n}": f"ST++, {n} round{'s' if n > 1 else ''} more" for n in (1, 2, 3)},
    "both_sets": "A_s on both sets",
    "cutout_labeled": "CutOut on both sets",
    **{f"{which}_{part}": f"{which} {shown}" for part, shown in PARTS.items() for which in ("only", "no")},
    "reliable": "reliable, by the teacher",
    "unreliable": "unreliable, by the teacher",
    "boosted": "unreliable, by student 1",
    "blind_first": "random half, by the teacher",
    "blind_second": "other half, by student 1",
    "pixel_confident": "confident pixels, by the teacher",
    "pixel_all": "all pixels, the others by student 1",
    **{f"for_round_{n}": f"all, for round {n}" for n in (1, 2, 3)},
}
"""Display name by model or mask set."""

TEACHERS = {
    "suponly": "",
    **dict.fromkeys(("suponly_student", "suponly_long", "online", "fixmatch", "unimatch", "unimatch_v2"), ""),
    "stpp": "student_1",
    "blind": "blind_student_1",
    "pixel_2": "pixel_1",
    "round_1": "stpp",
    **{f"round_{n}": f"round_{n - 1}" for n in (2, 3)},
}
"""The model that labels images for a model, by that model; empty if there is none. For all others it is SupOnly."""


def teacher_of(model: str) -> str:
    """Return the model whose pseudo labels train `model` in the pipelines, or an empty string if there is none."""
    return TEACHERS.get(model, "suponly")


def system_label(system: str) -> str:
    """Return the display name of a system: its pipeline, and the variant if it has several, as in `iterative 2`."""
    pipeline, _, variant = system.partition(" ")
    model = {"iterative": f"round_{variant}", "pixel": "pixel_2"}.get(pipeline, variant or pipeline)
    return LABELS.get(model, system)


def foreground(classes: Sequence[str]) -> str:
    """Return the class that is the foreground: the second of two. It is empty if there are not two classes."""
    return classes[1] if len(classes) == 2 else ""


def one_line(name: str, length: int = 28) -> str:
    """Return a name of any origin as one line of printable characters, cut in the middle to at most `length` of them.

    Control and formatting characters and lone surrogates become U+FFFD, because they could break or reverse a line.
    """
    shown = printable(name)
    if len(shown) <= length:
        return shown
    tail = (length - 1) // 2
    return f"{shown[: length - 1 - tail]}…{shown[len(shown) - tail :]}"
