"""The verdict on a run: whether its models learnt, whether its students gained more than chance, and what to do."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from stpp.report.labels import LABELS, foreground, one_line, teacher_of
from stpp.report.statistics import (
    FOREGROUND,
    Counts,
    Interval,
    bootstrap_gain,
    dice,
    in_points,
    iou,
    miou,
    precision,
    rank_correlation,
    recall,
)
from stpp.store.files import read_csv
from stpp.store.records import RunJson, read

SHORT = 2000
"""With fewer iterations than this, a student with strong augmentation has hardly begun to learn."""
FEW = 20
"""With fewer iterations than this, a network has hardly changed from its start."""
NAMED = 5
"""The most classes that a sentence names."""
LOST, KNOWN = 1.0, 5.0
"""A student has lost a class if its IoU (%) is below LOST and its teacher's is above KNOWN."""
RISING = 1.0
"""A training that gains more mIoU points than this in its last third had not converged."""
UNRELATED = 0.2
"""Below this rank correlation, stability says little about quality."""


@dataclass(frozen=True)
class Facts:
    """Facts about a run besides its scores. Unknown facts are empty or None."""

    classes: Sequence[str]
    iterations: Mapping[str, int]
    """Length of each model's training in iterations."""
    correlation: float | None = None
    """Rank correlation of stability with the true quality of the teacher's masks."""
    rise: float | None = None
    """Median val mIoU in the last third of the teacher's training minus the median in its middle third, in points."""
    networks: Mapping[str, str] = field(default_factory=dict)
    """Each model's network, its backbone and weights."""


def read_facts(models: Mapping[str, Path], scores: Path | None, classes: Sequence[str]) -> Facts:
    """Read the facts about a run from its files. Files that are missing leave facts unknown.

    models: by model, the folder that `stpp train` wrote. scores: the folder that `stpp score` wrote. classes: names.
    """
    files = {name: folder / "curve.csv" for name, folder in models.items()}
    curves = {name: read_csv(file, ("iteration", "val/miou")) for name, file in files.items() if file.is_file()}
    iterations = {name: int(float(rows[-1]["iteration"])) for name, rows in curves.items()}
    records = {name: folder / "run.json" for name, folder in models.items()}
    networks = {name: read(file, RunJson).get("network", "") for name, file in records.items() if file.is_file()}
    shown = {name: one_line(network, 100) for name, network in networks.items() if network}
    rise = _rise([float(row["val/miou"]) for row in curves.get("suponly", ())])
    return Facts(classes, iterations, _correlation(scores) if scores else None, rise, shown)


def _rise(miou: Sequence[float]) -> float | None:
    """Return `Facts.rise` from the points of a curve; None if a third has fewer than 2 points, or a point is NaN."""
    third = len(miou) // 3
    if third < 2 or any(map(math.isnan, miou)):
        return None
    return median(miou[-third:]) - median(miou[-2 * third : -third])


def _correlation(scores: Path) -> float | None:
    if not all((scores / name).is_file() for name in ("scores.csv", "quality.csv")):
        return None
    stability = {row["id"]: float(row["stability"]) for row in read_csv(scores / "scores.csv", ("id", "stability"))}
    quality = {row["id"]: float(row["miou"]) for row in read_csv(scores / "quality.csv", ("id", "miou"))}
    pairs = [(stability[i], value) for i, value in quality.items() if i in stability]
    rho = rank_correlation([s for s, _ in pairs], [q for _, q in pairs])
    return None if math.isnan(rho) else rho


BASELINES = ("suponly_long", "suponly_student", "suponly")
"""Models of labelled images alone. The first one that is there is what self-training must beat."""


def verdict(val: Mapping[str, Counts], known: Facts) -> list[str]:
    """Return sentences about the models of a run: the best one on val, and what went wrong with likely reasons.

    The rest is left out if all models predict a single class. val: counts of the images of val, by model.
    """
    names = list(val)
    value = {name: float(miou(one.sum(0))) for name, one in val.items()}
    best = max(names, key=lambda name: value[name])
    few = {name: length for name in names if (length := known.iterations.get(name, FEW)) < FEW}
    only = {name: c for name, one in val.items() if (c := _only(one)) is not None}
    lines = _untrained(few) + _collapsed(only, val, known.classes)
    if len(only) == len(names):
        return lines
    if len(names) > 1:
        lines += _gained(val, value, known)
    if best not in only:
        lines += _foreground(best, val[best], known.classes)
        lines += _never_found(best, val[best], known.classes)
    if known.rise is not None and "suponly" not in few:
        what = f"SupOnly on val: {known.rise:+.1f} points in the last third of its training: "
        if known.rise > RISING:
            lines.append(f"{what}it had not converged; train longer before you label more images")
        else:
            lines.append(f"{what}more labels would help it, longer training would not (stpp suggest)")
    for student in names:
        teacher = teacher_of(student)
        if teacher not in val or known.networks.get(teacher) != known.networks.get(student):
            continue
        if (gain := bootstrap_gain(val[teacher], val[student])).sign < 0:
            lines += _below(teacher, student, gain, val, known)
    return lines


def _gained(val: Mapping[str, Counts], value: Mapping[str, float], known: Facts) -> list[str]:
    """Return what the best model gained over SupOnly; another sentence names the best model of every other network.

    value: mIoU on val by model.
    """
    base = next((name for name in BASELINES if name in val), next(iter(val)))
    of = {name: known.networks.get(name, "an unknown network") for name in val}
    top = {network: max((n for n in val if of[n] == network), key=lambda n: value[n]) for network in of.values()}
    best, lines = top.pop(of[base]), []
    if best != base:
        gain = bootstrap_gain(val[base], val[best])
        sure = "more than" if gain.sign > 0 else "no more than"
        lines.append(
            f"best on val: {_label(best)}, {in_points(gain)} above {_label(base)}: {sure} the choice of "
            f"{len(val[best])} images explains"
        )
        lines += _longer(base, best, known.iterations)
    elif any(of[name] == of[base] for name in val if name not in BASELINES):
        lines.append(f"best on val: {_label(best)} ({value[best]:.1f}); self-training gained nothing here")
    compared = "" if base != "suponly" else "; `stpp system use suponly_student` trains equal networks"
    for network, name in top.items():
        lines.append(
            f"best on val of {network}: {_label(name)} ({value[name]:.1f}); {_label(base)} "
            f"({value[base]:.1f}) is {of[base]}: the difference is not a gain of self-training{compared}"
        )
    return lines


def _longer(base: str, best: str, iterations: Mapping[str, int]) -> list[str]:
    """Return which command compares at equal length, if the best model trained for longer than SupOnly."""
    if base != "suponly" or not 0 < iterations.get(base, 0) < iterations.get(best, 0):
        return []
    lengths = f"{iterations[best]} iterations against {iterations[base]}"
    return [f"{_label(best)} trained for {lengths}: `stpp system use suponly_long` adds SupOnly of equal length"]


def _untrained(few: Mapping[str, int]) -> list[str]:
    """Return a warning about models with FEW iterations. few: iterations by model."""
    trained = ", ".join(f"{_label(name)} {length}" for name, length in few.items())
    advice = "these results show only that the pipeline runs; raise train.epochs, or set train.iterations"
    return [f"warning: trained for a handful of iterations: {trained}; {advice}"] if few else []


def _only(counts: Counts) -> int | None:
    """Return the class that a model predicts most if it finds no other (IoU below LOST); None if it finds several."""
    _, true, predicted = counts.sum(0)
    found = (iou(counts.sum(0)) >= LOST) & (true > 0)
    return int(predicted.argmax()) if found.sum() < 2 <= (true > 0).sum() else None


def _collapsed(only: Mapping[str, int], val: Mapping[str, Counts], classes: Sequence[str]) -> list[str]:
    """Return a warning for each class that is all that some models predict. only: this class, by model."""
    lines = []
    for c in dict.fromkeys(only.values()):
        of = [name for name in only if only[name] == c]
        shares = [100 * float(val[name][:, 2, c].sum() / val[name][:, 2].sum()) for name in of]
        shown = ", ".join(
            f"{_label(name)} ({share:.1f} % of all pixels)" for name, share in zip(of, shares, strict=True)
        )
        lines.append(
            f"warning: no class but {classes[c]} is found on val by {shown}: nothing else was learnt; train for longer "
            "(train.epochs), start from weights (model.weights), or change train.lr"
        )
    return lines


def _foreground(model: str, counts: Counts, classes: Sequence[str]) -> list[str]:
    """Return a sentence with a model's scores of the foreground on val; nothing without a foreground."""
    scores = {"IoU": iou, "Dice": dice, "precision": precision, "recall": recall}
    values = {name: float(of(counts.sum(0))[FOREGROUND]) for name, of in scores.items() if foreground(classes)}
    shown = ", ".join(f"{name} {value:.1f}" for name, value in values.items() if not math.isnan(value))
    return [f"{_label(model)} on val, {foreground(classes)} (%): {shown}"] if shown else []


def _never_found(model: str, counts: Counts, classes: Sequence[str]) -> list[str]:
    """Return a sentence that names the classes of val that a model does not find, with their pixels."""
    true, values = counts[:, 1].sum(0).tolist(), iou(counts.sum(0)).tolist()
    lost = [f"{name} ({n} pixels)" for name, n, v in zip(classes, true, values, strict=True) if n and v < LOST]
    if not lost:
        return []
    more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    advice = "label more images that show them (stpp suggest), or train for longer"
    of = f"{len(lost)} of {sum(n > 0 for n in true)} classes of val"
    return [f"{_label(model)} does not find {of}: {', '.join(lost[:NAMED])}{more}; {advice}"]


def _below(teacher: str, student: str, loss: Interval, val: Mapping[str, Counts], known: Facts) -> list[str]:
    """Return a warning about a student that is worse than its teacher, and the likely reasons.

    loss: the student's mIoU minus the teacher's, which is below 0.
    """
    lines = [
        f"warning: {_label(student)} is worse than {_label(teacher)}, its teacher: {in_points(loss)}; likely reasons:"
    ]
    length = known.iterations.get(student)
    if length is not None and length < SHORT:
        lines.append(
            f"  - it was trained for {length} iterations, the paper's students for 39,000 and more: strong "
            "augmentation makes learning slow; raise train.epochs, or set train.iterations"
        )
    if known.correlation is not None and known.correlation < UNRELATED:
        lines.append(
            f"  - stability says little about the masks' quality here (rank correlation {known.correlation:.2f}): "
            "train the teacher for longer, or compare with ST (pipelines/st)"
        )
    before, after = (iou(val[name].sum(0)).tolist() for name in (teacher, student))
    lost = [c for c, b, a in zip(known.classes, before, after, strict=True) if b > KNOWN and a < LOST]
    if lost:
        lines.append(
            f"  - {', '.join(lost)}: known to {_label(teacher)}, lost by {_label(student)}; label more images that "
            "show it (stpp suggest)"
        )
    if len(lines) == 1:
        lines.append("  - chance: run other seeds to check (train.seed)")
    return lines


def _label(name: str) -> str:
    return LABELS.get(name, name)
