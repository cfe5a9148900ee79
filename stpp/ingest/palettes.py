"""The colours that mask files give their values, which tell where values are not what they seem.

A palette mask is read by its values. A tool that makes palettes anew for every file (GIFs, pictures reduced to few
colours) gives one class another value in each, and nothing but the colours tells.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from stpp.data.images import palette_of
from stpp.ingest.catalog import Layout
from stpp.ingest.seen import Shown
from stpp.store.masks import IGNORE


def shown_in(path: Path, values: Iterable[int], meaning: dict[int, int]) -> Shown:
    """The values in a mask with the colours of its palette, but for colours that say nothing.

    These are what is ignored, a ramp of greys, and colours that the palette has twice, as those that fill it up.
    """
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


class Palettes:
    """The values and colours of all masks so far: one colour a value is kept, and the first mask that has it."""

    def __init__(self, known: Layout, root: Path) -> None:
        self.values: set[int] = set()
        self._known, self._root = known, root
        self._first: dict[int, tuple[str, str]] = {}
        colours = known.palette if known.colours_known else ()
        self._class_of = {"#{:02x}{:02x}{:02x}".format(*colour): c for c, colour in reversed([*enumerate(colours)])}

    def compared(self, mask: str, shown: Shown) -> list[str]:
        """The problem of a mask whose palette contradicts the classes' or that of an earlier mask, if it does."""
        self.values.update(shown)
        for value, colour in shown.items():
            if not colour:
                continue
            own, of = self._known.values[value], self._class_of.get(colour)
            if of is not None and self._known.palette[of] != self._known.palette[own]:
                classes = (
                    f"{self._known.classes[own]} by its value, and {self._known.classes[of]} by its colour {colour}"
                )
                return [f"{self._root / mask}: {value} is {classes} in the file's palette; {REMEDY}"]
            first, where = self._first.setdefault(value, (colour, mask))
            if first != colour:
                what = f"its palette shows {value} as {colour}, that of {self._root / where} as {first}"
                return [f"{self._root / mask}: {what}; {REMEDY}"]
        return []


REMEDY = "make values mean the same in all masks, or mend data.palette or the palettes of the files"
