"""The `draw` stage: draws the embedded data set `toy` from a seed."""

from stpp.ingest.toy import draw as draw_toy
from stpp.params.file import load
from stpp.stages import options


def draw(out: options.Out, params: options.Params = None) -> None:
    """Draw the embedded data set: the same seed gives the same bytes."""
    toy = load(options.params_files(params)).toy
    draw_toy(out, toy)
    print(f"draw: {toy.images} images of {toy.size} x {toy.size} pixels with masks; {out} (images, masks)")
