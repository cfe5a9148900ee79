"""The `predict` command: predicts masks of any images with nothing but a checkpoint."""

import glob
import io
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from typer import Argument, Option

from stpp.data.bands import as_rgb, read_with
from stpp.data.kinds import HEAD, kind_of
from stpp.deploy.engines import ENDINGS, Engine
from stpp.deploy.geotiff import encode_geotiff, place_of
from stpp.deploy.predictor import Predictor
from stpp.deploy.task_formats import TASKS
from stpp.deploy.tasks import Proposal, write_task
from stpp.engine import device as devices
from stpp.ingest.colours import background
from stpp.ingest.names import READ, UNREAD, ending, is_stray
from stpp.models.metadata import CheckpointMetadata
from stpp.params.models import Runtime
from stpp.run.progress import progress
from stpp.stages import tasks
from stpp.store.files import (
    DISK_FULL,
    StppError,
    atomic_folder,
    atomic_write,
    digest,
    parse_json,
    printable,
    raise_problems,
    read_bytes,
    read_json,
    sha256,
    write_json,
)
from stpp.store.masks import IGNORE, encode_mask, read_png

FILES = {
    "mask": "masks/{}.png",
    "overlay": "overlays/{}.png",
    "probabilities": "probabilities/{}.npz",
    "geotiff": "geotiffs/{}.tif",
}
Kind = StrEnum("Kind", [*FILES, *TASKS])  # type: ignore[misc]
"""A kind of result: a file for each image, or a task for an annotation tool."""
Kinds = Annotated[list[Kind] | None, Option("--as", help="What to write; may be given several times (default: mask).")]
Tta = Annotated[bool, Option("--tta", help="Test-time augmentation: five scales and their mirror images; slow.")]
Window = Annotated[
    int | None, Option(min=32, help="Side of a sliding window in pixels (default: 1024 above 4 megapixels, else none).")
]
Engines = Annotated[
    Engine, Option(help="What runs the model: torch a checkpoint; the others an exported file, on CPU.")
]
RECORD, DONE = "predictions.json", "done.jsonl"


def predict(
    images: Annotated[list[str], Argument(help="Images, folders of them, patterns in quotes, or lists (.txt).")],
    model: Annotated[Path, Option(help="Checkpoint that `stpp train` wrote, or a model that `stpp export` wrote.")],
    out: Annotated[Path, Option(help="Folder for the results: masks/, overlays/, ..., or the tool's name.")],
    kind: Kinds = None,
    tta: Tta = False,
    window: Window = None,
    tolerance: tasks.Tolerance = 1.0,
    smallest: tasks.Smallest = 16,
    device: Annotated[Literal["auto", "cpu", "cuda"], Option(help="Device to compute on.")] = "auto",
    engine: Engines = "torch",
) -> None:
    """Predict masks of any images: PNGs of class ids in the model's colours.

    After an interruption, run the same command again to go on. Files that stpp
    has not written are never replaced. An image that cannot be read does not
    stop the others: it is named at the end, and the exit code is 2.
    """
    where = _device(model, engine, device)
    found, unread = _found(images, out)
    predictor = Predictor(model, where, window=window, tta=tta, engine=engine)
    kinds = [str(one) for one in dict.fromkeys(kind or [Kind("mask")])]
    tools = [one for one in kinds if one in TASKS]
    of_image = [one for one in FILES if one in kinds or (tools and one == "mask")]
    content = digest([model, model.with_suffix(".bin")]) if engine == "openvino" else sha256(model)
    how = {"model": content, "as": kinds, "tta": tta, "window": window}
    done = _begin(out, how, predictor.about)

    problems, notes, ready = list(unread), dict[str, list[str]](), list[Photo]()
    for photo in progress(found, f"predict {len(found)} images", len(found)):
        written = {one: out / FILES[one].format(photo.name) for one in of_image}
        try:
            entry = {"name": photo.name, "image": str(photo.path.resolve()), "sha256": sha256(photo.path)}
            before = done.get(photo.name)
            if before == {**entry, "state": "done"} and all(path.is_file() for path in written.values()):
                ready.append(photo)
                continue
            _keep_apart(entry, before, written)
            _note(out, entry, "begun")
            for note in _predict(photo.path, predictor, written):
                notes.setdefault(note, []).append(str(photo.path))
            _note(out, entry, "done")
            ready.append(photo)
        except StppError as error:
            problems.append(str(error) if str(photo.path) in str(error) else f"{photo.path}: {error}")
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            problems.append(f"{photo.path}: {error.strerror or error}")
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "memory" not in str(error):
                raise
            problems.append(f"{photo.path}: does not fit into memory; try a smaller --window, or without --tta")
    for note, of in sorted(notes.items()):
        print(printable(f"warning: {note}: {len(of)} image(s), such as {of[0]}"))
    count = len(found) + len(unread)
    print(f"{out}: {count - len(problems)} of {count} images; {', '.join(predictor.about.classes)}")
    for tool in tools:
        _write_task(out, tool, ready, predictor.about, tolerance, smallest)
    raise_problems(problems, "predict")


def _device(model: Path, engine: Engine, device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return where the model runs. Raises StppError if there is no such file, or engine or device do not fit it."""
    if not model.is_file():
        raise StppError(f"{model}: no such file; name a checkpoint, such as runs/student/model.safetensors")
    if engine == "torch" and (other := ENDINGS.get(model.suffix)):
        raise StppError(f"{model}: an exported model, as its name says; add --engine {other}")
    if engine != "torch" and device == "cuda":
        raise StppError(f"--engine {engine} computes on the CPU; leave out --device")
    return devices.setup_device(Runtime(device=device if engine == "torch" else "cpu"))


def _write_task(
    out: Path, tool: str, photos: list["Photo"], about: CheckpointMetadata, tolerance: float, least: int
) -> None:
    """Write a task for an annotation tool from the masks in `out`, unless there is one, which a person may work on."""
    folder = out / tool
    if folder.exists():
        print(f"{folder}: stays as it is; move it away to have it written again")
        return
    proposals = (
        Proposal(
            photo.name,
            photo.name + photo.path.suffix,
            photo.path,
            partial(read_png, out / FILES["mask"].format(photo.name)),
        )
        for photo in photos
    )
    with atomic_folder(folder) as new:
        notes, steps = write_task(new, tool, about.classes, about.palette, proposals, tolerance, least)
    print(f"{folder}: a task of {len(photos)} images")
    tasks.print_steps(notes, steps, folder)


@dataclass(frozen=True)
class Photo:
    """An image, and the name of its results without a suffix."""

    path: Path
    name: str


def _found(words: list[str], out: Path) -> tuple[list[Photo], list[str]]:
    """Return the images that the words name, and a problem for every image in their folders that cannot be read.

    Files in `out` are left out, because they are results. Raises StppError if a word names no image, if a file in a
    list does not exist, or if the results of two images would have the same name.
    """
    named: dict[str, Path] = {}
    problems, unread = [], []
    for word in words:
        path = Path(word)
        others: list[str] = []
        if path.is_dir():
            inside, others = _in_folder(path, out)
            several = [(p, p.relative_to(path).with_suffix("").as_posix()) for p in inside]
        elif path.suffix == ".txt" and path.is_file():
            text = read_bytes(path).decode("utf-8-sig", errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            listed = [next((p for p in (Path(line), path.parent / line) if p.is_file()), Path(line)) for line in lines]
            several = [(p, p.stem) for p in listed]
        elif path.is_file():
            several = [(path, path.stem)]
        else:
            matching = sorted(glob.glob(word, recursive=True))  # noqa: PTH207 - a pattern may be an absolute path
            several = [(p, p.stem) for p in map(Path, matching) if p.is_file()]
        several = [(p, name) for p, name in several if not p.resolve().is_relative_to(out.resolve())]
        unread += others
        if not several and not others:
            problems.append(f"{word}: no images found")
        for image, name in several:
            if not image.is_file():
                problems.append(f"{word}: {image}: no such file")
            elif named.setdefault(name, image).resolve() != image.resolve():
                problems.append(
                    f"{image}: its results would have the same name as those of {named[name]}; predict them separately"
                )
    raise_problems(problems, "predict")
    return [Photo(path, name) for name, path in named.items()], list(dict.fromkeys(unread))


def _in_folder(folder: Path, out: Path) -> tuple[list[Path], list[str]]:
    """Return the images below a folder, except those in `out`, and a problem for everything that cannot be read.

    Prints how many other files were passed over because they are no images.
    """
    found: list[Path] = []
    unread: list[str] = []
    passed: Counter[str] = Counter()

    def refuse(error: OSError) -> None:
        unread.append(f"{error.filename}: not readable: {error.strerror}")

    for inside, folders, files in os.walk(folder, onerror=refuse):
        links = [name for name in folders if (Path(inside) / name).is_symlink() and not is_stray(name)]
        unread += [
            f"{Path(inside) / name}: a link to a folder, which is not followed; name it separately" for name in links
        ]
        passed["hidden"] += sum(map(is_stray, folders))
        folders[:] = [
            name for name in folders if not is_stray(name) and (Path(inside) / name).resolve() != out.resolve()
        ]
        for path in (Path(inside) / name for name in files):
            kind = ending(path.name)
            if is_stray(path.name) or not path.is_file():
                passed["hidden" if is_stray(path.name) else "not a file"] += 1
            elif kind in READ:
                found.append(path)
            elif kind in UNREAD:
                unread.append(f"{path}: {kind} cannot be read; convert it to PNG or JPEG")
            elif picture := _picture(path, kind_of, HEAD):
                unread.append(f"{path}: its content is {picture}, but its name does not say so; rename or convert it")
            else:
                passed[kind or "no ending"] += 1
    if passed := +passed:
        print(printable(f"{folder}: skipped, not images: {', '.join(f'{n} {kind}' for kind, n in passed.items())}"))
    return sorted(found), sorted(unread)


def _picture(path: Path, kind_of: Callable[[bytes], str], head: int) -> str:
    """Return the kind of picture that a file's first bytes show; empty if it is none, or cannot be read."""
    try:
        with path.open("rb") as file:
            return kind_of(file.read(head))
    except OSError:
        return ""


def _keep_apart(entry: dict[str, str], before: dict[str, str] | None, written: dict[str, Path]) -> None:
    """Raise StppError if a result would replace that of another image, or a file that stpp did not write."""
    if before is not None and before["image"] != entry["image"]:
        raise StppError(f"{entry['image']}: its results would replace those of {before['image']}; give another --out")
    theirs = [path for path in written.values() if path.exists()] if before is None else []
    if theirs:
        raise StppError(f"{theirs[0]}: already exists and was not written by stpp; move it away")


def _note(out: Path, entry: dict[str, str], state: str) -> None:
    """Append a line to done.jsonl: the results of an image are "begun" or "done".

    "begun" is noted before the first result is written, so that files of an interrupted call are known as stpp's.
    """
    with (out / DONE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({**entry, "state": state}) + "\n")


def _begin(out: Path, how: dict[str, Any], about: CheckpointMetadata) -> dict[str, dict[str, str]]:
    """Prepare the folder, and return by name what an earlier call of the same kind has noted in done.jsonl.

    Raises StppError if the folder holds other things, or predictions of another model or kind.
    """
    record, done = out / RECORD, out / DONE
    if record.is_file():
        before = read_json(record)
        if not isinstance(before, dict) or before.get("how") != how:
            raise StppError(
                f"{out}: holds predictions of another model or with other options; give another folder, or remove it"
            )
        lines = read_bytes(done, 2**32).decode(errors="replace").splitlines() if done.is_file() else []
        return {one["name"]: one for one in map(_line, lines) if one}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StppError(f"{out}: already exists and is not an empty folder; give a new folder")
    write_json(record, {"how": how, "classes": about.classes, "palette": about.palette})
    return {}


def _line(text: str) -> dict[str, str] | None:
    """Parse a line of done.jsonl; return None if the line is incomplete because the process was killed."""
    try:
        one = parse_json(text)
        whole = set(one) == {"name", "image", "sha256", "state"} and all(isinstance(v, str) for v in one.values())
        return one if whole else None
    except (ValueError, TypeError, AttributeError):
        return None


def _predict(path: Path, predictor: Predictor, written: dict[str, Path]) -> list[str]:
    """Write the requested results of an image; return notes on what was done to the image to read it."""
    about = predictor.about
    photo = read_with(path, about.reading)
    image, notes = photo.pixels, photo.notes
    if "probabilities" in written:
        probabilities = predictor.probabilities(image)
        mask = probabilities.argmax(0).to(torch.uint8).numpy()
    else:  # masks alone need much less memory
        mask = predictor.mask(image).numpy()
    if photo.nodata is not None:
        mask = np.where(photo.nodata, np.uint8(IGNORE), mask)
    place = place_of(path)
    if not place and "geotiff" in written:
        notes.append("without transform and projection, so its GeoTIFF has none")
    if place and "geotiff" not in written:
        notes.append("georeferenced: `--as geotiff` writes masks with its transform and projection")
    for kind, file in written.items():
        with atomic_write(file) as new:
            if kind == "mask":
                new.write_bytes(encode_mask(mask, about.palette))
            elif kind == "geotiff":
                new.write_bytes(encode_geotiff(mask, about.palette, place))
            elif kind == "overlay":
                new.write_bytes(_overlay(as_rgb(image), mask, about))
            else:
                half = probabilities.half().numpy()
                with new.open("wb") as out:
                    np.savez_compressed(out, probabilities=half, classes=np.array(about.classes))
    return [*notes, *photo.counts]


def _overlay(image: NDArray[np.uint8], mask: NDArray[np.uint8], about: CheckpointMetadata) -> bytes:
    """Return a PNG of the image blended, half and half, with the colours of its classes; the background stays clear."""
    known = np.where(mask == IGNORE, 0, mask)
    blended = ((image + np.array(about.palette, np.uint16)[known]) // 2).astype(np.uint8)
    clear = ((mask == background(about.classes)) | (mask == IGNORE))[:, :, None]
    out = io.BytesIO()
    Image.fromarray(np.where(clear, image, blended)).save(out, format="PNG")
    return out.getvalue()
