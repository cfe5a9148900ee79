"""Batches: for training in a random order that can start anywhere, for prediction by equal size."""

from collections.abc import Iterable, Iterator
from itertools import groupby

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from stpp.data.datasets import Draw, Plain, Training, WeakStrong
from stpp.params import Runtime
from stpp.seeds import seed_of


class Batches(Sampler[list[Draw]]):
    """Batches of (epoch, position) over all epochs from a given iteration on; an incomplete last batch is dropped."""

    def __init__(self, samples: int, batch_size: int, epochs: int, seed: int, role: str, start: int = 0) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.per_epoch = samples // batch_size
        self.total = self.per_epoch * epochs
        self.seed = (seed, role)
        self.start = start

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        order: list[int] = []
        for iteration in range(self.start, self.total):
            epoch, i = divmod(iteration, self.per_epoch)
            if not order or i == 0:
                generator = torch.Generator().manual_seed(seed_of(*self.seed, epoch, "order"))
                order = torch.randperm(self.samples, generator=generator).tolist()
            yield [(epoch, p) for p in order[i * self.batch_size : (i + 1) * self.batch_size]]


def training_loader(
    data: Training | WeakStrong, batches: Batches, runtime: Runtime, device: torch.device
) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        data,
        batch_sampler=batches,
        num_workers=runtime.workers,
        pin_memory=device.type == "cuda",
    )


def prediction_loader(data: Plain, batch_size: int, runtime: Runtime) -> Iterable[tuple[list[str], Tensor]]:
    """Neighbours of equal size form a batch, so that a batch never depends on anything outside its list of ids."""
    records = data.photos.dataset.records
    sizes = [(records[name].width, records[name].height) for name in data.ids]
    batches: list[list[int]] = []
    for _, same in groupby(range(len(data.ids)), key=sizes.__getitem__):
        run = list(same)
        batches += [run[i : i + batch_size] for i in range(0, len(run), batch_size)]
    loader: Iterable[tuple[list[str], Tensor]] = DataLoader(
        data, batch_sampler=batches, num_workers=min(runtime.workers, len(batches)), collate_fn=_stack
    )
    return loader


def _stack(samples: list[tuple[str, Tensor]]) -> tuple[list[str], Tensor]:
    return [name for name, _ in samples], torch.stack([image for _, image in samples])
