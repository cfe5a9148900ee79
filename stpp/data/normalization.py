"""Normalisation of a network's input images.

It uses the mean and standard deviation of the images that the network's weights were trained on.
"""

from typing import NamedTuple

Rgb = tuple[float, float, float]


class Normalization(NamedTuple):
    """Mean and standard deviation by channel, in the order R, G, B.

    A pixel in [0, 1] becomes (pixel - mean) / std.
    """

    mean: Rgb = (0.485, 0.456, 0.406)
    std: Rgb = (0.229, 0.224, 0.225)


IMAGENET = Normalization()
