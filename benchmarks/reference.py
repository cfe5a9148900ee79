"""The way research code does it, plainly: what benchmarks measure this project against."""

import random

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision import transforms as T

from stpp.params import Augment, Strong, Weak

# -- one training sample ----------------------------------------------------------------------------------------------

NORMALIZE = T.Compose([T.ToTensor(), T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])


def sample(
    image_path: str, mask_path: str, augment: Augment, strong: bool, draw: random.Random
) -> tuple[Tensor, Tensor]:
    """Normalised image (3, crop, crop) and mask int64 (crop, crop) of one image: A_w, and A_s if `strong`."""
    image = Image.open(image_path).convert("RGB")
    mask = Image.open(mask_path)
    image, mask = weak(image, mask, augment.weak, draw)
    if strong:
        image, mask = strongly(image, mask, augment.strong, draw)
    return NORMALIZE(image), torch.from_numpy(np.array(mask)).long()


def weak(image: Image.Image, mask: Image.Image, params: Weak, draw: random.Random) -> tuple[Image.Image, Image.Image]:
    """Resize the whole image, pad it right and bottom, crop, flip."""
    base, (low, high), crop = params.base, params.scale, params.crop
    width, height = image.size
    long = draw.randint(int(base * low), int(base * high))
    if height > width:
        height, width = long, max(1, int(width * long / height + 0.5))
    else:
        height, width = max(1, int(height * long / width + 0.5)), long
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    mask = mask.resize((width, height), Image.Resampling.NEAREST)
    border = (0, 0, max(crop - width, 0), max(crop - height, 0))
    image = ImageOps.expand(image, border=border, fill=0)
    mask = ImageOps.expand(mask, border=border, fill=255)
    top = int((image.height - crop + 1) * draw.random())
    left = int((image.width - crop + 1) * draw.random())
    image = image.crop((left, top, left + crop, top + crop))
    mask = mask.crop((left, top, left + crop, top + crop))
    if draw.random() < params.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mask = mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image, mask


def strongly(
    image: Image.Image, mask: Image.Image, params: Strong, draw: random.Random
) -> tuple[Image.Image, Image.Image]:
    """Colour jitter, greyscale, Gaussian blur, CutOut."""
    if draw.random() < params.jitter:
        image = T.ColorJitter(params.brightness, params.contrast, params.saturation, params.hue)(image)
    image = T.RandomGrayscale(p=params.grayscale)(image)
    if draw.random() < params.blur:
        image = image.filter(ImageFilter.GaussianBlur(radius=draw.uniform(*params.blur_sigma)))
    if draw.random() < params.cutout:
        image, mask = cut_out(image, mask, params.cutout_area, params.cutout_aspect)
    return image, mask


def cut_out(
    image: Image.Image, mask: Image.Image, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[Image.Image, Image.Image]:
    """Noise in a rectangle that is drawn until it fits; ignored in the mask."""
    pixels, labels = np.array(image), np.array(mask)
    height, width, channels = pixels.shape
    while True:
        size = np.random.uniform(*area) * height * width
        ratio = np.random.uniform(*aspect)
        w, h = int(np.sqrt(size / ratio)), int(np.sqrt(size * ratio))
        x, y = np.random.randint(0, width), np.random.randint(0, height)
        if x + w <= width and y + h <= height:
            break
    pixels[y : y + h, x : x + w] = np.random.uniform(0, 255, (h, w, channels))
    labels[y : y + h, x : x + w] = 255
    return Image.fromarray(pixels), Image.fromarray(labels)
