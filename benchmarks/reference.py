"""The reference of the benchmarks: plain code, as in many research projects.

It uses Pillow and NumPy, predicts one image at a time, and resizes the whole image before it crops it. It computes
confusion matrices and mIoU image by image, calls the synchronising `.item()` in every step, and uses float32 and the
default memory layout. It was written for this project, after the paper and common practice.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torchvision import transforms as T

from stpp.params.models import Augment, Strong, Weak

Mask = NDArray[np.uint8]
NORMALIZE: Callable[[Image.Image], Tensor] = T.Compose(  # type: ignore[no-untyped-call]
    [T.ToTensor(), T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]  # type: ignore[no-untyped-call]
)

# -- one training sample ----------------------------------------------------------------------------------------------


def sample(
    image_path: Path, mask_path: Path, augment: Augment, strong: bool, draw: random.Random
) -> tuple[Tensor, Tensor]:
    """Return normalised image (3, crop, crop) and mask int64 (crop, crop) after A_w, and after A_s if `strong`."""
    image, mask = weak(Image.open(image_path).convert("RGB"), Image.open(mask_path), augment.weak, draw)
    if strong:
        image, mask = strongly(image, mask, augment.strong, draw)
    return NORMALIZE(image), torch.from_numpy(np.array(mask)).long()


def weak(image: Image.Image, mask: Image.Image, params: Weak, draw: random.Random) -> tuple[Image.Image, Image.Image]:
    """Apply A_w: resize the whole image, pad it right and bottom, crop, flip."""
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
    """Apply A_s: colour jitter, greyscale, Gaussian blur, CutOut."""
    if draw.random() < params.jitter:
        image = T.ColorJitter(params.brightness, params.contrast, params.saturation, params.hue)(image)
    image = T.RandomGrayscale(p=params.grayscale)(image)  # type: ignore[no-untyped-call]
    if draw.random() < params.blur:
        image = image.filter(ImageFilter.GaussianBlur(radius=draw.uniform(*params.blur_sigma)))
    if draw.random() < params.cutout:
        image, mask = cut_out(image, mask, params.cutout_area, params.cutout_aspect)
    return image, mask


def cut_out(
    image: Image.Image, mask: Image.Image, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[Image.Image, Image.Image]:
    """Fill a rectangle with noise, and ignore it in the mask. Draw the rectangle again until it fits."""
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


# -- networks ---------------------------------------------------------------------------------------------------------


class Meter:
    """A confusion matrix in NumPy. It computes mIoU after every image."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.matrix = np.zeros((classes, classes))

    def add(self, predicted: Mask, target: Mask) -> float:
        valid = target < self.classes
        pairs = self.classes * target[valid].astype(int) + predicted[valid]
        self.matrix += np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)
        with np.errstate(invalid="ignore"):
            iou = np.diag(self.matrix) / (self.matrix.sum(0) + self.matrix.sum(1) - np.diag(self.matrix))
        return float(np.nanmean(iou))


def to_input(path: Path, device: torch.device) -> Tensor:
    x: Tensor = NORMALIZE(Image.open(path).convert("RGB"))
    return x[None].to(device)


def score(networks: Sequence[nn.Module], images: Iterable[Path], classes: int, device: torch.device) -> list[float]:
    """Return s_i / (K - 1) of every image."""
    scores = []
    for path in images:
        x = to_input(path, device)
        masks = []
        for network in networks:
            network.eval()
            with torch.no_grad():
                masks.append(network(x).argmax(1)[0].cpu().numpy().astype(np.uint8))
        meters = [Meter(classes).add(mask, masks[-1]) for mask in masks[:-1]]
        scores.append(sum(meters) / len(meters))
    return scores


def label(
    network: nn.Module, images: Iterable[Path], scales: Sequence[float], out: Path, device: torch.device
) -> list[Mask]:
    """Label images with test-time augmentation, one forward pass at a time. Save each mask as PNG, and return all."""
    masks = []
    network.eval()
    for path in images:
        x = to_input(path, device)
        height, width = x.shape[2:]
        total = torch.zeros(1, 1, height, width, device=device)
        with torch.no_grad():
            for scale in scales:
                size = (int(height * scale), int(width * scale))
                scaled = F.interpolate(x, size, mode="bilinear", align_corners=True)
                for flip in (False, True):
                    out_ = F.softmax(network(scaled.flip(3) if flip else scaled), dim=1)
                    out_ = out_.flip(3) if flip else out_
                    total = total + F.interpolate(out_, (height, width), mode="bilinear", align_corners=True)
        mask = total.argmax(1)[0].cpu().numpy().astype(np.uint8)
        Image.fromarray(mask).save(out / f"{path.stem}.png")
        masks.append(mask)
    return masks


def evaluate(
    network: nn.Module, pairs: Iterable[tuple[Path, Path]], classes: int, device: torch.device
) -> tuple[float, NDArray[np.float64]]:
    meter, miou = Meter(classes), 0.0
    network.eval()
    for image, mask in pairs:
        with torch.no_grad():
            predicted = network(to_input(image, device)).argmax(1)[0].cpu().numpy().astype(np.uint8)
        miou = meter.add(predicted, np.array(Image.open(mask)))
    return miou, meter.matrix


def step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    loss = nn.CrossEntropyLoss(ignore_index=255)(network(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.item())


Sample = Callable[[Path, Path, bool, random.Random], tuple[Tensor, Tensor]]
"""(image, mask, whether A_s is applied, random generator) -> x (3, crop, crop), y (crop, crop)."""


def train(
    network: nn.Module,
    labeled: Sequence[tuple[Path, Path]],
    pseudo: Sequence[tuple[Path, Path]],
    val: Sequence[tuple[Path, Path]],
    sample: Sample,
    *,
    classes: int,
    epochs: int,
    batch_size: int,
    lr: float,
    checkpoints: int,
    device: torch.device,
) -> list[dict[str, Tensor]]:
    """Train by SGD with the poly schedule, and evaluate on val after each epoch.

    Return the state dicts after `checkpoints` evenly spaced epochs.
    """
    draws = random.Random(0)
    samples = [(pair, False) for pair in labeled] * max(1, -(-len(pseudo) // len(labeled)))
    samples += [(pair, True) for pair in pseudo]
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    total, iteration, kept = epochs * (len(samples) // batch_size), 0, []
    for epoch in range(epochs):
        network.train()
        order = draws.sample(range(len(samples)), len(samples))
        for start in range(0, len(samples) - batch_size + 1, batch_size):
            batch = [sample(*samples[i][0], samples[i][1], draws) for i in order[start : start + batch_size]]
            x, y = (torch.stack(several).to(device) for several in zip(*batch, strict=True))
            step(network, optimizer, x, y)
            iteration += 1
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - iteration / total) ** 0.9
        evaluate(network, val, classes, device)
        if (epoch + 1) in {j * epochs // checkpoints for j in range(1, checkpoints + 1)}:
            kept.append({k: v.detach().clone() for k, v in network.state_dict().items()})
    return kept
