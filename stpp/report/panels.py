"""Pictures of masks beside their images, in the colours of the data set.

Masks are shown pixel for pixel, so the pictures are drawn with Pillow and not with matplotlib.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.font_manager import get_font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stpp.report.labels import one_line
from stpp.store.files import atomic_write
from stpp.store.manifest import Rgb
from stpp.store.masks import IGNORE

Cell = NDArray[np.uint8] | None
"""An RGB image (H, W, 3), a mask of class ids (H, W) with 255 for ignored pixels, or None for an empty cell."""
Font = ImageFont.FreeTypeFont

WIDTH = 2000
SIDE = 320
"""WIDTH: maximum width of a picture. SIDE: maximum width and height of a cell. In pixels."""
GAP = 8
IDS = 132
"""Maximum width of the column of ids in pixels."""
STRIPES = ((232, 232, 232), (196, 196, 196))
"""Light greys of the diagonal stripes that mark ignored pixels."""
HATCH = 10
"""Distance of the lines that mark wrong pixels; they are black on light colours and white on dark ones. In pixels."""
INK, FAINT = (20, 20, 20), (150, 150, 150)


def panel(
    rows: Sequence[tuple[str, Sequence[Cell]]],
    titles: Sequence[str],
    palette: Sequence[Rgb],
    classes: Sequence[str],
    path: Path,
    heading: str = "",
    truth: int | None = None,
    marked: str = "wrong",
) -> None:
    """Draw a grid of images and masks, and write it to `path` as a PNG.

    rows: for each image its id and its cells, one cell per title. heading: text above the grid. truth: column of the
    true masks; pixels that differ from them are hatched in the columns after it. marked: what the legend calls these
    pixels. Below the grid stand the classes that occur. Pictures above the size of a cell (at most 320 px) are shrunk,
    smaller ones are enlarged by a whole factor. Masks keep their exact colours. Raises ValueError if a row does not
    have one cell for each title, and IndexError if a mask holds an id without a colour.
    """
    side = min(SIDE, (WIDTH - IDS - GAP * (len(titles) + 2)) // max(1, len(titles)))
    wrong = [_wrong(cells, truth) for _, cells in rows]
    pictures = [
        [_shown(cell, palette, side, marks) for _, cell, marks in zip(titles, cells, of_cells, strict=True)]
        for (_, cells), of_cells in zip(rows, wrong, strict=True)
    ]
    sizes = [[_size(row, column, side) for column in range(len(titles))] for row in pictures]
    widths = [max([size[column][0] for size in sizes] or [side]) for column in range(len(titles))]
    heights = [max([height for _, height in row] or [side]) for row in sizes]

    head, label, small = _font(14), _font(13), _font(11)
    ids = [
        _wrapped(name, IDS, small, max(1, high // 14), length=400)
        for (name, _), high in zip(rows, heights, strict=True)
    ]
    margin = round(max([small.getlength(line) for lines in ids for line in lines] or [0]))
    captions = [_wrapped(title, width, head, 2) for title, width in zip(titles, widths, strict=True)]
    x = list(accumulate((width + GAP for width in widths), initial=margin + 2 * GAP))
    width = max(x[-1], 480)
    above = _wrapped(heading if rows else "no images to show", width - 2 * GAP, head, 6, length=1000)
    top = GAP + 20 * len(above) + 18 * max([len(lines) for lines in captions] or [0]) + 4
    y = list(accumulate((height + GAP for height in heights), initial=top))
    swatches = _legend(rows, palette, classes)
    if any(marks is not None and marks.any() for of_cells in wrong for marks in of_cells):
        swatches.append((marked, WRONG))
    places, end = _flow([label.getlength(name) for name, _ in swatches], width, y[-1] + GAP)

    sheet = Image.new("RGB", (width, end + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for index, line in enumerate(above):
        pen.text((GAP, GAP + 12 + 20 * index), line, INK, head, anchor="ls")
    for lines, left, wide in zip(captions, x, widths, strict=False):
        for index, line in enumerate(lines):
            at = (left + wide / 2, top - 6 - 18 * (len(lines) - 1 - index))
            pen.text(at, line, INK, head, anchor="ms")
    for lines, row, size, down in zip(ids, pictures, sizes, y, strict=False):
        for index, line in enumerate(lines):
            pen.text((GAP, down + 12 + 14 * index), line, INK, small, anchor="ls")
        for picture, of_cell, left in zip(row, size, x, strict=False):
            _draw_cell(sheet, picture, of_cell, (left, down))
    for (name, swatch), place in zip(swatches, places, strict=True):
        _draw_entry(sheet, name, swatch, place)
    with atomic_write(path) as partial:
        sheet.save(partial, format="PNG")


def _draw_cell(sheet: Image.Image, picture: Image.Image | None, size: tuple[int, int], place: tuple[int, int]) -> None:
    """Draw a picture, or an empty cell of this width and height. place: its upper left corner."""
    (wide, tall), (left, down), pen = size, place, ImageDraw.Draw(sheet)
    if picture is not None:
        sheet.paste(picture, place)
    else:
        pen.rectangle((left, down, left + wide - 1, down + tall - 1), outline=FAINT)
        pen.text((left + wide / 2, down + tall / 2), "no mask", FAINT, _font(13), anchor="mm")


def _draw_entry(sheet: Image.Image, name: str, swatch: Image.Image, place: tuple[int, int]) -> None:
    """Draw an entry of the legend: a swatch with its name. place: the swatch's upper left corner."""
    (left, down), pen = place, ImageDraw.Draw(sheet)
    sheet.paste(swatch, place)
    pen.rectangle((left - 1, down - 1, left + swatch.width, down + swatch.height), outline=FAINT)
    pen.text((left + 24, down + 11), name, INK, _font(13), anchor="ls")


def contact_sheet(
    images: Sequence[tuple[str, Cell, Cell]],
    palette: Sequence[Rgb],
    classes: Sequence[str],
    path: Path,
    columns: int = 4,
) -> None:
    """Draw images with their masks beside them, and write them to `path` as a PNG.

    images: for each pair its caption, the image and the mask. columns: pairs per row. Each pair stands under its
    caption. Below all pairs stand the classes that occur.
    """
    side = (WIDTH - GAP * (2 * columns + 1)) // (2 * columns)
    pairs = [[_shown(cell, palette, side) for cell in cells] for _, *cells in images]
    font, label = _font(13), _font(13)
    rows = [range(start, min(start + columns, len(pairs))) for start in range(0, len(pairs), columns)]
    heights = [22 + max(cell.height for i in row for cell in pairs[i] if cell is not None) + GAP for row in rows]
    y = list(accumulate(heights, initial=GAP))
    swatches = _legend([(name, cells) for name, *cells in images], palette, classes)
    places, end = _flow([label.getlength(name) for name, _ in swatches], WIDTH, y[-1] + GAP)
    sheet = Image.new("RGB", (WIDTH, end + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for row, top in zip(rows, y, strict=False):
        for column, i in enumerate(row):
            left = GAP + 2 * column * (side + GAP)
            pen.text((left, top + 15), _wrapped(images[i][0], 2 * side, font, 1)[0], INK, font, anchor="ls")
            for cell in pairs[i]:
                if cell is not None:
                    sheet.paste(cell, (left, top + 22))
                    left += cell.width + 2
    for (name, swatch), (left, down) in zip(swatches, places, strict=True):
        sheet.paste(swatch, (left, down))
        pen.text((left + 24, down + 11), name, INK, label, anchor="ls")
    with atomic_write(path) as partial:
        sheet.save(partial, format="PNG")


def _wrong(cells: Sequence[Cell], truth: int | None) -> list[NDArray[np.bool_] | None]:
    """Return for each cell which pixels (H, W) differ from the true mask; None if it is no mask behind column `truth`.

    Pixels that either mask ignores are not wrong.
    """
    true = None if truth is None else cells[truth]
    return [
        (cell != true) & (cell != IGNORE) & (true != IGNORE)
        if truth is not None and i > truth and cell is not None and true is not None and cell.shape == true.shape
        else None
        for i, cell in enumerate(cells)
    ]


def _shown(cell: Cell, palette: Sequence[Rgb], side: int, wrong: NDArray[np.bool_] | None = None) -> Image.Image | None:
    """Return a cell as an RGB image that fits into a square of `side` pixels; None for an empty cell.

    A mask is resized with nearest neighbour, which never mixes classes. wrong: pixels (H, W) of a mask to hatch.
    """
    if cell is None:
        return None
    tall, wide = cell.shape[:2]
    scale = min(side / wide, side / tall)
    scale = int(scale) if scale >= 1 else scale
    size = (max(1, round(wide * scale)), max(1, round(tall * scale)))
    image = Image.fromarray(np.ascontiguousarray(cell))
    if cell.ndim == 2:
        marks = None if wrong is None else np.asarray(Image.fromarray(wrong).resize(size, Image.Resampling.NEAREST))
        return _coloured(np.asarray(image.resize(size, Image.Resampling.NEAREST)), palette, marks)
    return image.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


def _coloured(mask: NDArray[np.uint8], palette: Sequence[Rgb], wrong: NDArray[np.bool_] | None = None) -> Image.Image:
    """Return a mask of class ids (H, W) as an RGB image, with 255 as stripes, and lines over `wrong` pixels (H, W)."""
    v, u = np.indices(mask.shape)
    stripes = np.array(STRIPES, dtype=np.uint8)[(u + v) // 4 % 2]
    ignored = mask == IGNORE
    colours = np.array(palette, dtype=np.uint8)[np.where(ignored, 0, mask)]
    shown = np.where(ignored[:, :, None], stripes, colours)
    if wrong is not None:
        lines = wrong & ((u - v) % HATCH < 2)
        light = shown @ (0.299, 0.587, 0.114) > 100
        shown[lines] = np.where(light[lines, None], 0, 255)
    return Image.fromarray(shown)


WRONG = _coloured(np.zeros((12, 18), np.uint8), [(255, 255, 255)], np.ones((12, 18), np.bool_))
"""The swatch of the wrong pixels."""


def _size(row: list[Image.Image | None], column: int, side: int) -> tuple[int, int]:
    """Return width and height of a cell. An empty cell is as large as the first filled cell of its row."""
    picture = row[column] or next((p for p in row if p is not None), None)
    return picture.size if picture is not None else (side, side * 3 // 4)


def _legend(
    rows: Sequence[tuple[str, Sequence[Cell]]], palette: Sequence[Rgb], classes: Sequence[str]
) -> list[tuple[str, Image.Image]]:
    """Return name and swatch of every class that occurs in a mask, and of ignored pixels if there are any."""
    masks = [cell for _, cells in rows for cell in cells if cell is not None and cell.ndim == 2]
    pixels = sum((np.bincount(mask.ravel(), minlength=256) for mask in masks), np.zeros(256, dtype=np.int64))
    names = [*enumerate(classes), (IGNORE, "ignored")]
    return [
        (_drawable(one_line(name)), _coloured(np.full((12, 18), index, dtype=np.uint8), palette))
        for index, name in names
        if pixels[index]
    ]


def _flow(lengths: list[float], width: int, top: int) -> tuple[list[tuple[int, int]], int]:
    """Return the place (x, y) of each swatch of the legend, and the y at which the legend ends.

    Swatches run from left to right, line after line. lengths: width of each name in px. top: y of the first line.
    """
    places, left, down = [], GAP, top
    for length in lengths:
        need = 24 + round(length) + 2 * GAP
        if left > GAP and left + need > width:
            left, down = GAP, down + 20
        places.append((left, down))
        left += need
    return places, down + (20 if lengths else 0)


FONT = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
"""DejaVu Sans, which comes with matplotlib and so is the same on every machine."""


def _font(size: int) -> Font:
    """Return the font of all texts. size: pixels."""
    return ImageFont.truetype(FONT, size, layout_engine=ImageFont.Layout.BASIC)


def _drawable(text: str) -> str:
    """Return a text with every character that FONT lacks, such as a Chinese one, as its code: `\\u65e5`."""
    font = get_font(FONT)
    return "".join(
        c if c.isascii() or font.get_char_index(ord(c)) else c.encode("unicode_escape").decode() for c in text
    )


def _wrapped(text: str, width: float, font: Font, most: int, length: int = 60) -> list[str]:
    """Wrap a text into at most `most` lines of `width` px; a text that is too long is cut.

    A line breaks after a space, `/`, `_` or `-` if it has one. length: maximum number of characters.
    """
    rest, lines = _drawable(one_line(text, length)), list[str]()
    while rest and len(lines) < most:
        fit = _fitting(rest, width, font)
        if fit < len(rest):
            if len(lines) == most - 1:
                return [*lines, rest[: _fitting(rest, width - font.getlength("…"), font)] + "…"]
            fit = max((n for n in range(1, fit + 1) if rest[n - 1] in " /_-"), default=fit)
        lines.append(rest[:fit].strip())
        rest = rest[fit:]
    return lines


def _fitting(text: str, width: float, font: Font) -> int:
    """Return how many characters of a text fit into `width` px; at least 1."""
    return max(1, bisect_right(range(1, len(text) + 1), width, key=lambda n: font.getlength(text[:n])))
