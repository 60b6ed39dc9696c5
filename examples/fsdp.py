"""Train a model that is cut over all ranks with FSDP2; what two ranks have saved, one or four go on from.

torchrun --standalone --nproc_per_node=2 examples/fsdp.py --until 60
torchrun --standalone --nproc_per_node=4 examples/fsdp.py --until 120
"""

import argparse
import hashlib
import logging
import os
import sys

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import trimtab

logging.basicConfig(format="%(message)s")
parser = argparse.ArgumentParser()
parser.add_argument("--folder", default="runs/fsdp")
parser.add_argument("--until", type=int, default=120)
options = parser.parse_args()


def draw(step: int, rank: int, num_ranks: int) -> tuple[Tensor, Tensor]:
    """This rank's part of the batch of a step, which is the same however many ranks share it."""
    x = torch.rand(128, 2, generator=torch.Generator().manual_seed(step)) * 4 - 2
    y = torch.sin(3 * x[:, :1]) * x[:, 1:]
    return x.chunk(num_ranks)[rank], y.chunk(num_ranks)[rank]


def digest_weights(model: nn.Module) -> str:
    """The same for the same weights, whoever has which part of them; every rank calls it."""
    wholes = [each.full_tensor() if isinstance(each, DTensor) else each for each in model.parameters()]
    return hashlib.sha256(b"".join(each.detach().numpy().tobytes() for each in wholes)).hexdigest()[:16]


distributed.init_process_group("gloo")  # "nccl" on GPUs
rank, num_ranks = distributed.get_rank(), distributed.get_world_size()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
for layer in model:
    if isinstance(layer, nn.Linear):
        fully_shard(layer)
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
with trimtab.Supervisor(
    model, optimizer, clip_norm=1.0, run=options.folder, resume=True, checkpoint_every=20
) as supervisor:
    resumed = supervisor.resume()
    weights = digest_weights(model)
    if rank == 0:
        print(f"{num_ranks} ranks begin at step {supervisor.step} with weights {weights}", flush=True)
    while supervisor.step < options.until:
        x, y = draw(supervisor.step, rank, num_ranks)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        supervisor.check(loss)
        optimizer.step()
        supervisor.checkpoint()
    supervisor.checkpoint(now=True)
    weights = digest_weights(model)
    if rank == 0:
        value = supervisor.history.newest.values["loss"]
        print(f"{num_ranks} ranks end at step {supervisor.step} with weights {weights}, loss {value:.4f}", flush=True)
distributed.barrier()
distributed.destroy_process_group()
sys.stdout.flush()
os._exit(0)  # a thread of gloo that gives a tensor back while Python ends would abort the process: docs/distributed.md
