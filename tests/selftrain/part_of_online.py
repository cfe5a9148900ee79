"""Trains in one of two processes with batches of their own, and prints whether both end in equal weights."""

import test_fixmatch
import test_unimatch
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from stpp.data.loaders import seed_each_batch
from stpp.selftrain.online.fixmatch import FixMatch
from stpp.selftrain.online.unimatch import UniMatch, UniMatchV2

torch.distributed.init_process_group("gloo")
for method, tests in ((FixMatch, test_fixmatch), (UniMatch, test_unimatch), (UniMatchV2, test_unimatch)):
    network, step = tests.Small(), method(tests.PARAMS)
    replica = DistributedDataParallel(network, broadcast_buffers=False)
    sgd = torch.optim.SGD(network.parameters(), lr=0.5)
    batches = (tests.batch(10 * i + torch.distributed.get_rank()) for i in range(4))
    for x, y in seed_each_batch(batches, 0, "online", 0):
        loss = step(replica.train(), x, y, y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        if isinstance(step, FixMatch):
            step.after(network)
    kept = [*network.parameters(), *(step.state_dict()["network"].values() if isinstance(step, FixMatch) else ())]
    mine = torch.cat([value.detach().flatten().double() for value in kept])
    all_of_them = [torch.zeros_like(mine) for _ in range(2)]
    torch.distributed.all_gather(all_of_them, mine)
    print(method.__name__, "equal" if torch.equal(*all_of_them) else "different", flush=True)
