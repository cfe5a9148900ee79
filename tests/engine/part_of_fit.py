"""Runs one process of a training in several.

tests/stages/test_distributed.py starts it: part_of_fit.py STEP ACCUMULATE OUT.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from stpp.engine.evaluate import Scores
from stpp.engine.fit import Hooks, Trainer, fit, supervised
from stpp.engine.losses import loss_of
from stpp.engine.metrics import confusions
from stpp.params.models import Loss, Model, Runtime, Train
from stpp.run import distributed
from stpp.store.files import write_json

CLASSES = 3
TRAIN = Train(epochs=3, batch_size=8, lr=0.05, head_lr_factor=1.0)


class Noise(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Samples with very different numbers of valid pixels."""

    images = 1

    def __len__(self) -> int:
        return 19

    def __getitem__(self, draw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, position = draw
        generator = torch.Generator().manual_seed(100 * epoch + position)
        x = torch.randn(3, 16, 16, generator=generator)
        y = torch.randint(0, CLASSES, (16, 16), generator=generator)
        y[: position % 16] = 255
        return x, y


def frozen(network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor:
    """Return the usual loss, but with the running statistics of batch norm and without dropout."""
    return supervised(network.eval(), x, y, whole)


def hard(network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor:
    """Return the loss with class weights, OHEM and Dice, else as `frozen`."""
    return supervised(network.eval(), x, y, whole, loss_of(Loss(ohem=0.4, dice=0.5), (1.0, 3.0, 0.5)))


STEPS = {"frozen": frozen, "hard": hard, "supervised": supervised}


def main(step: str, accumulate: int, out: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, CLASSES, 1)
    )
    data = Noise()

    class Val(Hooks):
        def validate(self, network: nn.Module) -> Scores:
            network.eval()
            matrix = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
            for position in distributed.shard(range(len(data))):
                x, y = data[0, position]
                with torch.no_grad():
                    matrix += confusions(network(x[None]).argmax(1), y[None], CLASSES)[0]
            return Scores(distributed.all_reduce(matrix))

    iterations = len(data) // TRAIN.batch_size
    with distributed.process_group():
        trainer = Trainer(
            network,
            TRAIN.model_copy(update={"accumulate": accumulate}),
            iterations,
            model=Model(),
            device=torch.device("cpu"),
            role="teacher",
            step=STEPS[step],
        )
        curve = fit(trainer, data, Runtime(workers=0), Val())  # type: ignore[arg-type]
        weights = {name: value.flatten().tolist() for name, value in network.state_dict().items()}
        write_json(out / f"{distributed.rank()}.json", {"curve": curve, "weights": weights})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
