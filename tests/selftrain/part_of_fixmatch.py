"""Trains by FixMatch in one of two processes with batches of their own, and prints whether both teachers are equal."""

import torch
import torch.distributed
from test_fixmatch import PARAMS, Small, batch
from torch.nn.parallel import DistributedDataParallel

from stpp.selftrain.online.fixmatch import FixMatch

torch.distributed.init_process_group("gloo")
network, step = Small(), FixMatch(PARAMS)
replica = DistributedDataParallel(network, broadcast_buffers=False)
sgd = torch.optim.SGD(network.parameters(), lr=0.5)
for i in range(4):
    x, y = batch(10 * i + torch.distributed.get_rank())
    loss = step(replica.train(), x, y, y)
    sgd.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    sgd.step()
    step.after(network)
mine = torch.cat([value.flatten().double() for value in step.state_dict()["network"].values()])
all_of_them = [torch.zeros_like(mine) for _ in range(2)]
torch.distributed.all_gather(all_of_them, mine)
print("equal" if torch.equal(*all_of_them) else "different", flush=True)
