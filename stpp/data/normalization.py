"""Normalisation of a network's input images.

It uses the mean and standard deviation of the images that the network's weights were trained on. If the images have
other channels than red, green and blue, `prepare` measures these of the images with masks.
"""

from typing import NamedTuple


class Normalization(NamedTuple):
    """Mean and standard deviation by channel, in the order R, G, B if there are three.

    A pixel in [0, 1] becomes (pixel - mean) / std.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


IMAGENET = Normalization()
