"""Stage draw: the embedded data set."""

from stpp.stages import options


def draw(out: options.Out, params: options.Params = None) -> None:
    """Draw the embedded data set `toy`: images and masks, the same bytes from the same seed."""
    from stpp.ingest.toy import draw as draw_toy
    from stpp.params.file import load

    draw_toy(out, load(options.params_files(params)).toy)
