"""Checks of the colour palettes in mask files, to find masks whose values mean another class than in other masks.

Masks with a palette are read by value, not by colour. Some tools make a new palette for every file (GIFs, images
reduced to few colours). One class then has a different value in each file, and only the colours show it.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from stpp.data.mask_pixels import palette_of
from stpp.ingest.inspection_cache import MaskColours
from stpp.ingest.known_layouts import Layout
from stpp.store.manifest import by_colour
from stpp.store.masks import IGNORE


def shown_in(path: Path, values: Iterable[int], meaning: dict[int, int]) -> MaskColours:
    """Return each of a mask's `values` with its palette colour as "#rrggbb", or "" if the colour has no meaning.

    meaning: mask value -> class id or 255. A colour has no meaning if its value is ignored, or if the palette holds it
    more than once, as it does the colours that fill it up. No colour has a meaning if the palette is a grey ramp, where
    each of `values` v has the colour (v, v, v), or if the values are colours themselves.
    """
    if by_colour(meaning):
        return dict.fromkeys(values, "")
    palette = palette_of(path)
    of = {value: palette[value] if value < len(palette) else None for value in values}
    if all(colour in (None, (value, value, value)) for value, colour in of.items()):
        return dict.fromkeys(of, "")
    often = Counter(palette)
    return {
        value: "#{:02x}{:02x}{:02x}".format(*colour)
        if colour and often[colour] == 1 and meaning.get(value) != IGNORE
        else ""
        for value, colour in of.items()
    }


class PaletteCheck:
    """The values of all masks so far and, for each value, its first colour and the mask that has it."""

    def __init__(self, known: Layout, root: Path) -> None:
        self.values: set[int] = set()
        self._known, self._root = known, root
        self._first: dict[int, tuple[str, str]] = {}
        colours = known.palette if known.colours_known else ()
        self._class_of = {"#{:02x}{:02x}{:02x}".format(*colour): c for c, colour in reversed([*enumerate(colours)])}

    def compared(self, mask: str, shown: MaskColours) -> list[str]:
        """Return a problem if a mask's palette contradicts the class colours or an earlier mask, else an empty list."""
        self.values.update(shown)
        for value, colour in shown.items():
            if not colour:
                continue
            own, of = self._known.values[value], self._class_of.get(colour)
            if of is not None and self._known.palette[of] != self._known.palette[own]:
                classes = (
                    f"{self._known.classes[own]}, but its palette colour {colour} is that of {self._known.classes[of]}"
                )
                return [f"{self._root / mask}: value {value} is {classes}; {REMEDY}"]
            first, where = self._first.setdefault(value, (colour, mask))
            if first != colour:
                what = f"its palette shows value {value} as {colour}, but that of {self._root / where} as {first}"
                return [f"{self._root / mask}: {what}; {REMEDY}"]
        return []


REMEDY = "use the same values in all masks, correct data.palette, or read them by colour: name colours in data.values"
