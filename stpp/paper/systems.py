"""The systems of the paper's tables: the pipeline of each, the folder of its results, and the models it trains."""

from dataclasses import dataclass

from stpp.data.oversampling import copies, copies_as_long
from stpp.params.models import Train
from stpp.report.labels import PARTS
from stpp.selftrain.selection import reliable
from stpp.store.files import StppError


@dataclass(frozen=True)
class System:
    """A system: a method of the paper, and a row of its tables."""

    target: str
    """The target for `dvc repro`."""
    evaluation: str
    """Folder that the system's `stpp evaluate` writes."""
    trains: tuple[str, ...]
    """Folders of the models behind the system. Systems that share a model train it once."""


ROUNDS = (1, 2, 3)
ONLINE = {
    "runs/online/student": 1.5,
    "runs/fixmatch/student": 1 + 0.5 / 3,
    "runs/unimatch/student": 2.0,
    "runs/unimatch_v2/student": 1.5 + 0.5 / 3,
}
"""Folders of the models that label images as they learn, with their `cost`."""
ON_LABELED = ("runs/teacher", "runs/suponly_student/student")
"""Folders of the models that are trained on D_l alone, for as long as the teacher."""
LONG = "runs/suponly_long/student"
"""Folder of the model that is trained on D_l alone, for as long as student 2 of ST++."""
ON_MODEL = ("runs/teacher", *ONLINE)
"""Folders of the models that have the network `model`; all others have that of `student`, if it is given."""
ABLATIONS = ("both_sets", *(f"{w}_{part}" for w in ("only", "no") for part in PARTS), "cutout_labeled")


def _pipeline(name: str, trains: tuple[str, ...]) -> System:
    return System(f"pipelines/{name}/dvc.yaml:report", f"runs/{name}/evaluation", trains)


def _ablation(name: str) -> System:
    trains = ("runs/teacher", f"runs/ablation/{name}/student")
    return System(f"pipelines/ablation/dvc.yaml:report@{name}", f"runs/ablation/{name}/evaluation", trains)


def _round(n: int) -> System:
    trains = (
        "runs/teacher",
        "runs/student_1",
        "runs/student",
        *(f"runs/iterative/{i}/student" for i in range(1, n + 1)),
    )
    return System(f"pipelines/iterative/dvc.yaml:report@{n}", f"runs/iterative/{n}/evaluation", trains)


SYSTEMS: dict[str, System] = {
    "suponly": _pipeline("suponly", ("runs/teacher",)),
    "suponly_student": _pipeline("suponly_student", (ON_LABELED[-1],)),
    "suponly_long": _pipeline("suponly_long", (LONG,)),
    "plain": _pipeline("plain", ("runs/teacher", "runs/plain/student")),
    "st": _pipeline("st", ("runs/teacher", "runs/st/student")),
    "student_1": System("dvc.yaml", "runs/evaluation", ("runs/teacher", "runs/student_1", "runs/student")),
    "stpp": System("dvc.yaml", "runs/evaluation", ("runs/teacher", "runs/student_1", "runs/student")),
    "blind": _pipeline("blind", ("runs/teacher", "runs/blind/student_1", "runs/blind/student")),
    **{(name := out.split("/")[1]): _pipeline(name, (out,)) for out in ONLINE},
    **{
        phase: _pipeline("pixel", ("runs/teacher", "runs/pixel/student_1", "runs/pixel/student"))
        for phase in ("pixel_1", "pixel_2")
    },
    **{f"round_{n}": _round(n) for n in ROUNDS},
    **{name: _ablation(name) for name in ABLATIONS},
}


def system(name: str) -> System:
    """Return a system by name. Raises StppError that names all systems if there is no such system."""
    if name not in SYSTEMS:
        raise StppError(f"{name}: no such system; choose one of {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


PHASES = {
    "student_1": "runs/student_1",
    "blind_student_1": "runs/blind/student_1",
    "pixel_1": "runs/pixel/student_1",
}
"""Folders of first students, by model. The model of any other system is the last one that the system trains."""


def folder_of(model: str) -> str | None:
    """Return the folder of a model of the pipelines, relative to the project's root; None for any other model."""
    return PHASES.get(model) or (SYSTEMS[model].trains[-1] if model in SYSTEMS else None)


def cost(out: str) -> float:
    """Return how many batches of images pass through the network in one iteration.

    Online labelling adds half a batch, the strong views. FixMatch adds half a batch without gradients, the weak views,
    which is counted as a third of it. UniMatch and UniMatch V2 add another half, a second strong view. Features that
    are only decoded again do not count. out: folder of the model.
    """
    return ONLINE.get(out, 1.0)


def iterations(out: str, labeled: int, unlabeled: int, train: Train, ratio: float) -> int:
    """Return the iterations of the training of a model. out: its folder, one of `System.trains`."""
    if train.epochs is None:
        return train.iterations or 0
    return iterations_per_epoch(out, labeled, unlabeled, train.batch_size, ratio) * train.epochs


def iterations_per_epoch(out: str, labeled: int, unlabeled: int, batch: int, ratio: float) -> int:
    """Return the iterations in an epoch of a model's training, counted as `stpp train` counts them.

    An epoch has the over-sampled labelled images and the pseudo-labelled images. D_l is doubled below 200 images for
    a teacher, and repeated ceil(N / M) times for students. Student 1 of ST++ and of the blind pipeline sees the share
    `ratio` of the unlabelled images; every other student sees all of them. `LONG` sees D_l alone, for as long as
    these. In online labelling, FixMatch and UniMatch an epoch has every unlabelled image once, and half of a batch is
    unlabelled.
    """
    half = out in ("runs/student_1", "runs/blind/student_1")
    pseudo = 0 if out in ON_LABELED else reliable(unlabeled, ratio) if half else unlabeled
    if out in ONLINE:
        return unlabeled // (batch // 2)
    if out == LONG:
        return labeled * copies_as_long(labeled, unlabeled) // batch
    return (labeled * copies(labeled, pseudo) + pseudo) // batch
