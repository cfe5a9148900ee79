"""How pixels are normalised for a network: the mean and deviation of the images that its weights were trained on."""

from typing import NamedTuple

Rgb = tuple[float, float, float]


class Normalization(NamedTuple):
    """A pixel of 0 to 1 becomes (pixel - mean) / std, channel by channel in the order R, G, B."""

    mean: Rgb = (0.485, 0.456, 0.406)
    std: Rgb = (0.229, 0.224, 0.225)


IMAGENET = Normalization()
