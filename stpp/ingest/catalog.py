"""Listing of a data set's images and masks: by a layout's patterns, or by a list."""

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise
from operator import itemgetter
from pathlib import Path

from stpp.ingest.known_layouts import Layout
from stpp.ingest.names import is_stray
from stpp.ingest.passed_over import Excluded, PassedOver
from stpp.ingest.patterns import check_inside, compile_pattern, fill, leads_out
from stpp.params.data import Data
from stpp.store.files import ID, UNSEEN, StppError, quoted, read_text, unicode_forms
from stpp.store.manifest import columns, hint, names_in, respelled_in
from stpp.store.packed import MappedRows, MappedTable, RowWriter

LINK = "a symbolic link, which DVC does not follow; copy the folder, or set data.root to the link's target"
RENAME = "rename one, or leave it out with data.exclude"


@dataclass(frozen=True)
class ImagePair:
    """The paths of an image and its mask below the data set's root; the mask is empty if there is none."""

    image: str
    mask: str


def list_images(data: Data, known: Layout) -> tuple[MappedTable[ImagePair], list[str], list[str]]:
    """List all images of a data set; return them by id in ascending order, problems, and notes on files passed over.

    With a pattern, an id joins the values of the placeholders: `{set}/{name}.jpg` gives `train/0001` (`{ext}` is left
    out). With a list only, the id is the image's path without its suffix. With both, the list selects from the images
    that the pattern finds. Raises StppError if data.root is no folder, or if a pattern or the list cannot be used.
    """
    root = Path(data.root)
    if not root.is_dir():
        raise StppError(f"data.root: {data.root} is not a folder; is the path right, and is the data there?")
    problems: list[str] = []
    ours = {one for one in (data.list, data.classes, data.exclude) if isinstance(one, str)}
    ours |= {"imported.json", data.annotations.file if data.annotations else ""}
    others = PassedOver(known, ours)
    excluded = Excluded(data.exclude, lambda name: _lines(root, name, "data.exclude"))
    notes: list[str] = []
    pairs: Sequence[Sequence[str]] = []
    if known.images:
        pairs = _PatternSearch(root, known, others, problems).pairs()
    if data.list:
        pairs = _listed(root, data.list, pairs if known.images else None, problems, notes)
    composed = RowWriter()
    found = MappedRows.spooled(_named(root, pairs, excluded, composed, problems)).ordered()
    if any(one == other for one, other in pairwise(found.keys())):
        found = MappedRows.spooled(_once(root, found, data.list or "", problems))
    problems += _spelled_alike(root, composed.rows().ordered())
    if not len(found) and not problems:
        where = f"the list {data.list}" if data.list else f"the pattern {known.images}"
        left = "all images are left out by data.exclude" if len(pairs) else f"no image found with {where}"
        problems.append(f"{root}: {left}; compare it with the file names there")
    return MappedTable(found, _found), problems, [*others.said(), *notes, *excluded.said()]


def _named(
    root: Path, pairs: Iterable[Sequence[str]], excluded: Excluded, composed: RowWriter, problems: list[str]
) -> Iterator[Sequence[str]]:
    """Yield the images that are not excluded; those whose name cannot be an id become problems.

    composed: gets the composed form, the id and the path of every image whose id is not in ASCII.
    """
    for name, image, mask in pairs:
        if excluded.counts(name, image):
            continue
        if ID.match(name) and not any(UNSEEN.search(path) for path in (image, mask) if not path.isprintable()):
            yield name, image, mask
            if not name.isascii():
                composed.add([unicodedata.normalize("NFC", name), name, image])
        else:
            remedy = "rename it without control characters, backslashes, and spaces at the ends"
            problems.append(f"{root / image}: `{name}` cannot be an id: {remedy}")


def _once(root: Path, rows: MappedRows, listed: str, problems: list[str]) -> Iterator[Sequence[str]]:
    """Yield the first image of every id; the others become problems. rows: ordered by id. listed: data.list, or ""."""
    before: Sequence[str] = ["", "", ""]
    for row in rows:
        if row[0] != before[0]:
            before = row
            yield row
        elif row[1] == before[1]:
            problems.append(f"{root / row[1]}: listed twice in {listed}; remove one line")
        else:
            problems.append(
                f"{root / row[1]}: has the same id {quoted(row[0])} as {quoted(f'{root / before[1]}')}; {RENAME}"
            )


def _spelled_alike(root: Path, composed: MappedRows) -> list[str]:
    """Return a problem for every id that equals another one but for its Unicode form. composed: see `_named`."""
    return [
        f"{root / other[2]}: has the same id as {quoted(f'{root / one[2]}')} in another Unicode form; {RENAME}"
        for one, other in pairwise(composed)
        if one[0] == other[0] and one[1] != other[1]
    ]


def _found(row: list[str]) -> ImagePair:
    return ImagePair(*row[1:])


def mask_of(image: str, known: Layout) -> str:
    """Return the path below the root where the mask of an image belongs, whether or not it exists.

    Raises StppError if there is no pattern for masks, or if the image does not match the pattern for images.
    """
    match = compile_pattern(known.images, "data.images")[0].fullmatch(image) if known.images and known.masks else None
    if match is None:
        raise StppError(f"{image}: no pattern for the path of its mask; set data.images and data.masks")
    return fill(known.masks[0], match.groupdict())


class _PatternSearch:
    """The search for images and masks by a layout's patterns."""

    def __init__(self, root: Path, known: Layout, others: PassedOver, problems: list[str]) -> None:
        """Raises StppError for a pattern that leads out of the root or has no placeholder.

        The same for a pattern for masks with a placeholder that the images' pattern lacks.
        """
        self._root, self._known, self._others, self._problems = root, known, others, problems
        self._pattern, self._names = compile_pattern(known.images, "data.images")
        check_inside(known.images, "data.images")
        self._of_masks = []
        for masks in (*known.masks, *known.parts):
            key = "data.masks" if masks in known.masks else "data.masks, data.outside or data.annotations.added"
            check_inside(masks, key)
            of_mask, parts = compile_pattern(masks, key, wild=masks in known.parts)
            if unknown := set(parts) - set(self._names):
                raise StppError(f"{key}: {{{unknown.pop()}}} does not occur in the images' pattern {known.images}")
            self._of_masks.append((masks, of_mask))
        self._masks = _Masks()
        self._masks_too: set[str] = set()
        """Masks that the images' pattern finds, too."""
        self._doubtful = False
        """Whether an image is named like a mask."""

    def pairs(self) -> MappedRows:
        """Return id, image and mask of every image, in the order of folders and names; broken links become problems."""
        pairs = MappedRows.spooled(self._images())
        if self._doubtful or self._masks.spelled_otherwise:
            pairs = MappedRows.spooled(self._settled(pairs))
        for mask in self._masks.without(row[2] for row in pairs if row[2]):
            self._others.orphan(mask)
        return pairs

    def _images(self) -> Iterator[Sequence[str]]:
        known, root = self._known, self._root
        for image in files_of(root, known, self._others.stray):
            match = self._pattern.fullmatch(image)
            as_mask = next((of for of in self._of_masks if of[1].fullmatch(image)), None)
            if as_mask and as_mask[0] in known.masks:
                self._masks.add(image, as_mask[0])
            if not match:
                if not as_mask:
                    self._others.unmatched(image)
                continue
            if not os.path.isfile(f"{root}/{image}"):  # noqa: PTH113 - a Path costs more than the check
                self._problems.append(f"{root}/{image}: a broken link; restore its target, or remove it")
                continue
            parts = match.groupdict()
            candidates = (form for m in known.masks for form in unicode_forms(fill(m, parts)))
            mask = next((m for m in candidates if os.path.isfile(f"{root}/{m}")), "")  # noqa: PTH113
            # `{set}/{name}.png` also matches the mask `trainannot/1.png`. The mask of an image is not an image itself.
            if mask and self._pattern.fullmatch(mask):
                self._masks_too.add(mask)
            self._doubtful = self._doubtful or as_mask is not None
            yield "/".join(parts[n] for n in self._names if n != "ext"), image, mask

    def _settled(self, pairs: MappedRows) -> Iterator[Sequence[str]]:
        """Add masks whose endings differ from the pattern in case, and drop the images that are masks themselves.

        A file that also matches a pattern for masks stays only if it has another file as its mask and is no mask of
        an image.
        """
        spelled = self._masks.spelled()
        for name, image, plainly in pairs:
            mask = plainly
            if spelled and not mask:
                parts = self._pattern.fullmatch(image).groupdict()  # type: ignore[union-attr]
                mask = next(filter(None, (spelled.get(fill(m, parts)) for m in self._known.masks)), "")
            of_image = image not in self._masks_too and mask not in ("", image)
            if of_image or not any(of.fullmatch(image) for _, of in self._of_masks):
                yield name, image, mask


class _Masks:
    """The files that match a pattern for masks, kept on disk: there may be as many masks as images."""

    def __init__(self) -> None:
        self._spool = RowWriter()
        self._otherwise = RowWriter()
        self.spelled_otherwise = 0

    def add(self, path: str, pattern: str) -> None:
        """Add a file and the pattern that it matches."""
        self._spool.add([path, ""])
        _, dot, written = pattern.rpartition(".")
        if dot and "}" not in written and not path.endswith(f".{written}"):
            self.spelled_otherwise += 1
            self._otherwise.add([f"{path[: -len(written)]}{written}", path])

    def spelled(self) -> MappedTable[str] | None:
        """Return the files whose endings differ from the pattern in case, by their name with the pattern's ending.

        Returns None if there are no such files.
        """
        rows = self._otherwise.rows().ordered()
        first = (row for at, row in enumerate(rows) if not at or rows.key(at - 1) != rows.key(at))
        return MappedTable(MappedRows.spooled(first), itemgetter(1)) if len(rows) else None

    def without(self, used: Iterable[str]) -> Iterator[str]:
        """Yield the files that are not among `used`."""
        there, taken = self._spool.rows().ordered(), MappedRows.spooled([one, ""] for one in used).ordered()
        keys = taken.keys()
        key = next(keys, None)
        for row, own in zip(there, there.keys(), strict=True):
            while key is not None and key < own:
                key = next(keys, None)
            if key != own:
                yield row[0]


def files_of(root: Path, known: Layout, stray: Callable[[str], None]) -> Iterator[str]:
    """Yield the same as `files_below`; stray files count as others if a pattern names some."""
    patterns = (known.images, *known.masks, *known.parts)
    meant = any(part.startswith(".") for one in patterns for part in one.split("/"))
    return files_below(root, None if meant else stray)


def files_below(root: Path, stray: Callable[[str], None] | None = None) -> Iterator[str]:
    """Yield the relative paths of all files below `root`, folder by folder, each folder's files sorted by name.

    stray: called with every stray file or folder (see `stpp.ingest.names`), which is then not yielded; None: yield
    these files, too. Raises StppError for a link to a folder, and for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise StppError(f"{error.filename}: not readable: {error.strerror}") from None

    for folder, folders, files in os.walk(root, onerror=refuse):
        inside = folder.removeprefix(str(root)).strip("/")
        inside = f"{inside}/" if inside else ""
        if stray:
            for name in filter(is_stray, folders):
                stray(f"{inside}{name}")
            folders[:] = [name for name in folders if not is_stray(name)]
        for link in (Path(folder) / name for name in folders if (Path(folder) / name).is_symlink()):
            raise StppError(f"{link}: {LINK}")
        folders.sort()
        for file in sorted(files):
            if stray and is_stray(file):
                stray(f"{inside}{file}")
            else:
                yield f"{inside}{file}"


def _lines(root: Path, name: str, key: str) -> list[str]:
    """Return the lines of a list below the root. Raises StppError naming the parameter `key` if it cannot be read."""
    check_inside(name, key)
    try:
        return read_text(root / name, encoding="utf-8-sig").splitlines()
    except StppError as error:
        raise StppError(f"{key}: {error}") from None
    except (OSError, ValueError) as error:
        raise StppError(f"{key}: {root / name}: not readable: {error}") from None


def _listed(
    root: Path, name: str, matched: Sequence[Sequence[str]] | None, problems: list[str], notes: list[str]
) -> Sequence[Sequence[str]]:
    """Return id, image and mask for every valid line of a list; the other lines become problems.

    matched: id, image and mask of what the patterns find; None if there are no patterns. Raises StppError if the list
    cannot be read.
    """
    path, lines = root / name, _lines(root, name, "data.list")

    @cache
    def linked(folder: str) -> str:
        """Return the first folder of a path below the root that is a link, or an empty text."""
        above = folder.rpartition("/")[0]
        return (linked(above) if above else "") or (folder if folder and (root / folder).is_symlink() else "")

    names = set(chain.from_iterable(map(names_in, lines))) if matched else set[str]()
    known = {key: pair for pair in matched or () for key in pair[:2] if key in names}
    pairs, respelled = [], []
    for number, line in enumerate(lines, 1):
        first, mask = columns(line, lambda one: one in known or os.path.isfile(f"{root}/{one}"))  # noqa: PTH113
        both = [first, mask] if mask else [first]
        as_known = next((form for form in unicode_forms(first) if form in known), "")
        if not first:
            continue
        if any(leads_out(one) for one in both):
            problems.append(f"{path}:{number}: points outside data.root; give a path below it")
        elif link := next(filter(None, (linked(os.path.dirname(one)) for one in both)), ""):  # noqa: PTH120
            problems.append(f"{root / link}: {LINK}")
        elif as_known:
            id_, image, own = known[as_known]
            pairs.append((id_, image, mask or own))
            respelled += [number] if first != as_known else []
        elif matched is not None:
            problems.append(
                f"{path}:{number}: {quoted(first)} is neither an id nor an image that data.images finds{hint(first)}"
            )
        elif not Path(first).suffix:
            problems.append(
                f"{path}:{number}: {quoted(first)} is not the path of an image; to list ids, set data.images too"
            )
        else:
            pairs.append((str(Path(first).with_suffix("")), first, mask))
    if respelled:
        notes.append(respelled_in(path, respelled))
    return pairs
