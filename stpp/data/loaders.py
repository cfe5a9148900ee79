"""Batches for training, in a random order that can be resumed anywhere."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from stpp.data.datasets import Draw, OnlineDataset, SelfTrainingDataset
from stpp.data.seeds import seed_of
from stpp.params.models import Runtime
from stpp.run.distributed import rank, shard

T = TypeVar("T")


class TrainingBatchSampler(Sampler[list[Draw]]):
    """A batch sampler for training: batches of (epoch, position), from iteration `start` up to `total`.

    Every epoch has its own random order; its last batch is dropped if it is incomplete. With several processes, each
    yields its shard of every batch. batch_size: samples in a batch, summed over all processes.
    """

    def __init__(self, samples: int, batch_size: int, total: int, seed: int, role: str, start: int = 0) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.per_epoch = samples // batch_size
        self.total = total
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
            yield [(epoch, p) for p in shard(order[i * self.batch_size : (i + 1) * self.batch_size])]


def training_loader(
    data: SelfTrainingDataset | OnlineDataset, batches: TrainingBatchSampler, runtime: Runtime, device: torch.device
) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        data,
        batch_sampler=batches,
        num_workers=runtime.workers,
        pin_memory=device.type == "cuda",
    )


def seed_each_batch(batches: Iterable[T], seed: int, role: str, start: int) -> Iterator[T]:
    """Yield batches, and seed torch's generator before each one, for dropout.

    start: the iteration of the first batch. The seed depends on the iteration and on the process's rank.
    """
    for iteration, batch in enumerate(batches, start):
        torch.manual_seed(seed_of(seed, role, iteration, "dropout") + rank())
        yield batch
