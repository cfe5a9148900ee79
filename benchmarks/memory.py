"""Measures the peak memory of labelling one image of 8192 x 4096 pixels with test-time augmentation.

python benchmarks/memory.py

The network is DeepLabv3+ ResNet-50 with 21 classes in float32. All parameters have their defaults, and all windows and
scales are predicted. On a CPU this takes hours, so the network only computes the largest passes of the first windows.
All other passes return zeros as logits, which take the same memory outside the network. The measurement runs in its
own process.
"""

import resource
import subprocess
import sys

HEIGHT, WIDTH, CLASSES, REAL = 4096, 8192, 21, 4


def main() -> None:
    import torch
    from torch import Tensor, nn

    from stpp.engine.device import keep_freed_memory
    from stpp.engine.predict import fold_batch_norms, label_predictor
    from stpp.models.build import build
    from stpp.params.models import Label, Model

    class Largest(nn.Module):
        """Runs the network for the first few inputs of the largest size. Returns zeros for all other inputs."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network
            self.real = self.passes = 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            if self.real < REAL and x.shape[2] * x.shape[3] >= 2048 * 2048:
                self.real += 1
                out: Tensor = self.network(x)
                return out
            return x.new_zeros(len(x), CLASSES, *x.shape[2:])

    keep_freed_memory()
    torch.manual_seed(0)
    network = Largest(fold_batch_norms(build(Model(), CLASSES), Model()))
    image = torch.randint(0, 256, (1, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    with torch.inference_mode():
        mask, *_ = label_predictor(Label())(network, image)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{mask.shape[2]} x {mask.shape[1]}: {network.passes} passes, {network.real} of them whole; peak {peak:.2f} GiB"
    )
    assert network.real == REAL
    assert peak < 4, "the bound of 4 GiB"


if __name__ == "__main__":
    if sys.argv[1:] == ["here"]:
        main()
    else:
        subprocess.run([sys.executable, __file__, "here"], check=True)
