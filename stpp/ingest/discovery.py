"""Discovery of how a folder of images and masks names its files: the patterns that give the most images a mask."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import product
from pathlib import Path
from typing import TypeVar

from stpp.data.mask_pixels import MOST_COLOURS, MaskOfColoursError, read_mask
from stpp.ingest.folders import Folders, images_and_masks
from stpp.ingest.names import ending
from stpp.ingest.patterns import compile_pattern
from stpp.store.files import StppError
from stpp.store.masks import IGNORE

T = TypeVar("T")
K = TypeVar("K")
SAMPLED, TRIED, PARTNERS = 40, 12, 20
"""SAMPLED: masks whose names are compared with all images. TRIED: namings that are tried on all files. PARTNERS: images
that are compared with one mask."""
LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
PLACEHOLDERS = ("{set}", "{part}", "{part2}", "{part3}", "{part4}", "{part5}")
"""Names of the varying folders above an image, from the outermost on."""
WORDS = ("mask", "label", "annot", "seg", "gt", "truth", "target")
"""Words in the names of masks. They tell which of two folders or files is the mask."""


class UnsureError(StppError):
    """A question that only a person can answer. `option` is the name of the option that answers it."""

    def __init__(self, question: str, option: str, example: str) -> None:
        super().__init__(f"{question}\nanswer with --{option} {example}")
        self.question, self.option = question, option


@dataclass(frozen=True)
class _Naming:
    """A way to name masks after images.

    An image is `before`, name, `after`, below `depth` folders. `mask` is the mask's path; `{0}`, `{1}` stand for the
    image's folders and `{name}` for the name.
    """

    depth: int
    before: str
    after: str
    mask: str

    def mask_of(self, image: str) -> str:
        """Return the path of an image's mask, with its ending in lower case; empty if the image is named otherwise."""
        *parts, file = image.split("/")
        stem = file.rpartition(".")[0]
        fits = len(parts) == self.depth and stem.startswith(self.before) and stem.endswith(self.after)
        name = stem[len(self.before) : len(stem) - len(self.after)]
        return self.mask.format(*parts, name=name) if fits and name else ""


@dataclass(frozen=True)
class Patterns:
    """The patterns of images and masks below the root."""

    images: str
    masks: str


def spread(items: Sequence[T], most: int) -> Sequence[T]:
    """Return at most `most` of the items, evenly spaced."""
    return items[:: max(1, -(-len(items) // most))]


def discover(folders: Folders, pattern: str | None = None) -> Patterns:
    """Return the patterns that give the most images a mask.

    pattern: the pattern of masks to choose if several explain equally many. Raises UnsureError in this case without
    `pattern`. Raises StppError if there are no images or masks, or if no naming fits.
    """
    images, masks = images_and_masks(folders)
    same = folders.images == folders.masks
    there = {_lower_ending(mask): mask for mask in masks}
    own = [image for image in images if folders.owner(image) == folders.images]  # those of `more` have no masks
    names = _Names(own)
    votes = Counter(one for mask in spread(masks, SAMPLED) for one in set(_namings(mask, names.like(mask))))
    likely = [one for one, count in votes.most_common(TRIED) if 4 * count >= max(votes.values())]
    tried = {one: pairs for one in likely if (pairs := _paired(one, own, there))}
    if same:  # any two files may have similar names, but only masks hold class ids
        tried = _readable(folders.root, tried)
    if not tried:
        ids = " that holds class ids or a few colours" if same else ""
        raise StppError(
            f"{folders.root}: no mask{ids} is named like an image ({images[0]}, {masks[0]}); name each mask as its "
            "image, with the same text before or after the name in all"
        )
    most = max(map(len, tried.values()))
    best = tried if pattern else _preferred([one for one, pairs in tried.items() if len(pairs) == most])
    found = {_patterns(one, tried[one], images, same): tried[one] for one in best}
    if len(found) > 1:
        found = _readable(folders.root, found) or found
    if answered := [one for one in found if one.masks == pattern]:
        found = {max(answered, key=lambda one: len(found[one])): {}}
    if len(found) > 1 or pattern not in (None, *(one.masks for one in found)):
        fit = dict.fromkeys(one.masks for one in found)
        question = f"{folders.root}: which pattern do the masks have? These fit: {', '.join(fit)}"
        raise UnsureError(question, "pattern", f"'{next(iter(fit))}'")
    chosen = next(iter(found))
    fits, _ = compile_pattern(chosen.masks, "--pattern")
    named = sum(fits.fullmatch(mask) is not None for mask in masks)
    if not pattern and 2 * most < named:
        question = (
            f"{folders.root}: by the best pattern, {most} of {named} masks belong to an image; is it {chosen.masks}?"
        )
        raise UnsureError(question, "pattern", f"'{chosen.masks}'")
    return chosen


class _Names:
    """The names of all images, to find those that the name of a mask may come from."""

    def __init__(self, images: Iterable[str]) -> None:
        self._images: dict[str, list[str]] = defaultdict(list)
        for image in images:
            self._images[_stem(image)].append(image)
        self._ordered = sorted(self._images)
        self._reversed = sorted(stem[::-1] for stem in self._images)

    def like(self, mask: str) -> Iterator[str]:
        """Yield images whose names occur in the mask's, or have the longest common start or end with it.

        Of many images with one name, it yields those that share most folder names with the mask.
        """
        stem, folders = _stem(mask), set(mask.split("/")[:-1])
        parts = {stem[start:end] for start in range(len(stem)) for end in range(start + 1, len(stem) + 1)}
        stems = [part for part in parts if part in self._images]
        stems += _neighbours(self._ordered, stem)
        stems += [one[::-1] for one in _neighbours(self._reversed, stem[::-1])]
        for one in dict.fromkeys(stems):
            yield from nlargest(PARTNERS, self._images[one], lambda image: len(folders & set(image.split("/")[:-1])))


def _stem(file: str) -> str:
    return file.rpartition("/")[2].rpartition(".")[0]


def _lower_ending(file: str) -> str:
    return f"{file.rpartition('.')[0]}{ending(file)}"


def _neighbours(ordered: list[str], text: str) -> list[str]:
    """Return the texts on both sides of the place where `text` belongs in a sorted list."""
    at = bisect_left(ordered, text)
    return [one for one in ordered[max(0, at - 1) : at + 2] if one != text]


def _namings(mask: str, images: Iterable[str]) -> Iterator[_Naming]:
    """Yield the namings by which `mask` is the mask of one of the images."""
    *folders, file = mask.split("/")
    stem = file.rpartition(".")[0]
    for image in images:
        *parts, _ = image.split("/")
        own = _stem(image)
        name = own if own in stem else _shared(own, stem)
        if image == mask or not name:
            continue
        before, _, after = own.partition(name)
        start, _, end = stem.partition(name)
        last = f"{_escaped(start)}{{name}}{_escaped(end)}{ending(file)}"
        for above in product(*(_folder_names(at, folder, parts) for at, folder in enumerate(folders))):
            yield _Naming(len(parts), before, after, "/".join([*above, last]))


def _shared(one: str, other: str) -> str:
    """Return the longer of the common start and the common end of two names, without separators at its edges."""
    equal = [a == b for a, b in zip(one, other, strict=False)]
    start = one[: [*equal, False].index(False)]
    equal = [a == b for a, b in zip(one[::-1], other[::-1], strict=False)]
    end = one[len(one) - [*equal, False].index(False) :]
    return max(start, end, key=len).strip("_-. ")


def _folder_names(at: int, folder: str, parts: list[str]) -> list[str]:
    """Return how the folder of a mask may follow from the folders of its image.

    at: the number of folders above it. parts: the image's folders.
    """
    equal = [f"{{{number}}}" for number, part in enumerate(parts) if part == folder]
    if equal:
        return equal[:2]
    names, own = [_escaped(folder)], parts[at] if at < len(parts) else None
    if own and folder.startswith(own):
        names.append(f"{{{at}}}{_escaped(folder.removeprefix(own))}")
    elif own and folder.endswith(own):
        names.append(f"{_escaped(folder.removesuffix(own))}{{{at}}}")
    return names


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _paired(naming: _Naming, images: Iterable[str], there: Mapping[str, str]) -> dict[str, str]:
    """Return the images that have a mask by a naming, with their masks. there: the masks by `_lower_ending`."""
    pairs = ((image, there.get(naming.mask_of(image), image)) for image in images)
    return {image: mask for image, mask in pairs if mask != image}


def _preferred(namings: list[_Naming]) -> list[_Naming]:
    """Return the likeliest of namings that explain equally many images.

    The signs of a mask, from the strongest on: it is no JPEG; its path holds a word such as `mask`; its name holds all
    of its image's name; it has the same name; its path repeats many of the image's folders.
    """

    def rank(one: _Naming) -> tuple[bool, bool, bool, bool, int]:
        lossless, whole = not one.mask.endswith(LOSSY), not one.before + one.after
        word = any(word in one.mask.lower() for word in WORDS)
        exact = whole and one.mask.rpartition("/")[2].startswith("{name}.")
        return lossless, word, whole, exact, one.mask.count("{")

    return [one for one in namings if rank(one) == max(map(rank, namings))]


def _patterns(naming: _Naming, pairs: dict[str, str], images: Sequence[str], same: bool) -> Patterns:
    """Return a naming as patterns: a folder with one name for all images is written out, and so is a single ending.

    same: images and masks are in the same folder, so only files with masks are sure to be images. Raises StppError if
    a folder or a common part of the names holds a brace, which patterns cannot express.
    """
    masks = set(pairs.values())
    pool = [image for image in images if image not in masks and naming.mask_of(image)]
    first = next(iter(pairs)).split("/")
    names, free = first[:-1], iter(PLACEHOLDERS)
    for at in range(naming.depth):
        sure = pairs if same and f"{{{at}}}" not in naming.mask else pool
        if len({image.split("/")[at] for image in sure}) > 1:
            names[at] = next(free, "")
        elif "{" in names[at]:
            raise StppError(f"{names[at]}: rename the folder without braces, which stand for what varies in a pattern")
    if "{{" in naming.mask or "{" in naming.before + naming.after or "" in names:
        raise StppError(f"{first[-1]}: its path holds braces, or too many folders, for a pattern; rename the files")
    members = [i for i in pool if all("{" in n or n == p for n, p in zip(names, i.split("/"), strict=False))]
    endings = {ending(image) for image in (pairs if same else members)}
    last = f"{naming.before}{{name}}{naming.after}{endings.pop() if len(endings) == 1 else '.{ext}'}"
    return Patterns("/".join([*names, last]), naming.mask.format(*names, name="{name}"))


def _readable(root: Path, found: Mapping[K, dict[str, str]]) -> dict[K, dict[str, str]]:
    """Return those whose first mask can be read as class ids or, if there are none, those of few colours.

    found: the masks of images, by naming or pattern.
    """
    of: dict[K, int] = {}
    for one, pairs in found.items():
        try:
            read_mask(root / next(iter(pairs.values())))
            of[one] = 0
        except MaskOfColoursError as error:
            of[one] = len(error.pixels) or MOST_COLOURS
        except StppError:
            continue
    by_ids = [one for one, colours in of.items() if not colours]
    return {one: found[one] for one in by_ids or [one for one, colours in of.items() if colours <= IGNORE]}
