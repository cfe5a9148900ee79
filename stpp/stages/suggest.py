"""The `suggest` command: suggests which unlabelled images to label next."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.audit.duplicates import SeenImages
from stpp.data.reader import ImageReader
from stpp.deploy.tasks import Proposal, write_task
from stpp.params.file import load
from stpp.report.panels import contact_sheet
from stpp.selftrain.suggestion import Suggestion
from stpp.selftrain.suggestion import suggest as choose
from stpp.stages import options, tasks
from stpp.stages.suggest_errors import suggest_errors
from stpp.store.files import StppError, atomic_folder, raise_problems, read_ids, write_csv, write_ids
from stpp.store.manifest import Dataset, read_dataset, read_table
from stpp.store.masks import MaskSet

MASKS = ("runs/label_reliable/masks", "runs/label_unreliable/masks")
LIST, TABLE, SHEET = "suggested.txt", "suggested.csv", "suggested.png"


def suggest(
    out: Annotated[Path, Option(help="New folder for the list, a table with reasons, and a contact sheet.")],
    n: Annotated[int, Option("--n", min=1, help="How many images.")] = 50,
    scores: Annotated[Path, Option(help="Folder that `stpp score` wrote.")] = Path("runs/score"),
    masks: Annotated[list[Path] | None, Option(help=f"Mask sets of D_u (default: {', '.join(MASKS)}).")] = None,
    data: options.Data = Path("runs/data"),
    split: options.Split = Path("runs/split"),
    params: options.Params = None,
    errors: Annotated[
        Path | None, Option(help="Checkpoint: suggest masks of D_l that it is confidently against.")
    ] = None,
    tool: Annotated[tasks.Tool | None, Option("--as", help="Also write a task for this annotation tool.")] = None,
    tolerance: tasks.Tolerance = 1.0,
    smallest: tasks.Smallest = 16,
) -> None:
    """Suggest which unlabelled images are most worth a mask, or which masks to check.

    It prefers images that are unstable and that show rare classes. An image
    that looks like a labelled or a suggested one is taken only if no others are
    left. Add the masks that you make with `stpp label add`. With --errors, it
    suggests masks of D_l that may have errors instead.

    With --as, the folder is also a task for an annotation tool: copies of the
    images, numbered in this order, with their pseudo masks to correct.
    """
    if out.exists():
        raise StppError(f"{out}: already exists; remove it, or give another folder")
    dataset = read_dataset(data)
    p = load(options.params_files(params))
    photos = ImageReader(dataset, Path(p.data.root))
    labeled = read_ids(split / "labeled.txt")
    if errors is not None:
        if tool:
            raise StppError("--as: a task holds unlabelled images; leave it out with --errors")
        suggest_errors(photos, labeled, errors, n, out, p.runtime)
        return
    stability = read_table(scores / "scores.csv", ("id", "stability"), lambda row: float(row[1]))
    sets = [MaskSet(folder) for folder in (masks or map(Path, MASKS))]
    folders = ", ".join(str(one.folder) for one in sets)
    remedy = "name the mask sets of all unlabelled images with --masks"
    problems = [f"{i}: no mask in {folders}; {remedy}" for i in stability if not any(i in one.rows for one in sets)]
    problems += [f"{i}: in {scores}, but not in {data}; run `dvc repro`" for i in stability if i not in dataset.records]
    raise_problems(problems, "suggest")

    def holder(name: str) -> MaskSet:
        return next(one for one in sets if name in one.rows)

    def shares(name: str) -> list[float]:
        pixels = [int(count) for count in holder(name).rows[name]["classes"].split()]
        return [count / max(1, sum(pixels)) for count in pixels]

    known = Counter(c for i in labeled for c in dataset.records[i].classes)
    shown = [known[c] for c in range(len(dataset.classes))]
    looks = SeenImages({i: photos.root / dataset.records[i].image for i in labeled})
    taken = choose(stability, shares, shown, n, lambda i: looks.alike(photos.root / dataset.records[i].image))
    notes, steps = list[str](), list[str]()
    with atomic_folder(out) as partial:
        write_ids(partial / LIST, [one.id for one in taken])
        _write_table(partial / TABLE, taken, dataset)
        pictures = [
            (f"{number}. {one.id}  s {one.stability:.2f}", photos.picture(one.id), holder(one.id).read(one.id))
            for number, one in enumerate(taken, 1)
        ]
        contact_sheet(pictures, dataset.palette, dataset.classes, partial / SHEET)
        if tool:
            proposals = _proposals(taken, photos, holder)
            notes, steps = write_task(partial, tool, dataset.classes, dataset.palette, proposals, tolerance, smallest)
    if alike := sum(one.alike for one in taken):
        print(f"{alike} suggested images look like labelled or other suggested ones: only {len(taken) - alike} do not")
    print(f"{out}: {len(taken)} of {len(stability)} images; their pictures and pseudo masks are in {out / SHEET}")
    tasks.print_steps(notes, [*steps, f"stpp label add EXPORT --task {out} --name second"] if tool else [], out)


def _proposals(taken: list[Suggestion], photos: ImageReader, holder: Callable[[str], MaskSet]) -> Iterator[Proposal]:
    """Yield the images with their pseudo masks for a task. holder: the mask set of an id."""
    for number, one in enumerate(taken, 1):
        image = photos.dataset.records[one.id].image
        yield Proposal(
            one.id,
            _name(number, image, len(taken)),
            photos.root / image,
            functools.partial(holder(one.id).read, one.id),
            f"{number}. stability {one.stability:.2f}: {_named(one, photos.dataset)}",
            one.stability,
        )


def _name(number: int, image: str, of: int) -> str:
    """Return the name of an image in a task: its number, so that tools keep the order, and the end of its file name."""
    name = image.rpartition("/")[2].encode()[-200:].decode(errors="ignore")
    return f"{number:0{len(str(of))}d}-{name}"


def _named(one: Suggestion, dataset: Dataset) -> str:
    """Return the classes of a pseudo mask with their shares, the largest first, without those below a percent."""
    largest = sorted(range(len(dataset.classes)), key=lambda c: -one.shares[c])
    return "; ".join(f"{dataset.classes[c]} {100 * one.shares[c]:.0f} %" for c in largest if one.shares[c] >= 0.01)


def _write_table(path: Path, taken: list[Suggestion], dataset: Dataset) -> None:
    """Write why each image was taken: its stability, its worth, and the classes of its pseudo mask."""
    rows = []
    for one in taken:
        rows.append(
            (
                one.id,
                dataset.records[one.id].image,
                f"{one.stability:.4f}",
                f"{one.worth:.6f}",
                _named(one, dataset),
                "yes" if one.alike else "",
            )
        )
    write_csv(path, ("id", "image", "stability", "worth", "classes", "looks_like_others"), rows)
