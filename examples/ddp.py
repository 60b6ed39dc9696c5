"""Train on several processes with DistributedDataParallel; a rank that is killed costs a restart, and nothing else.

torchrun --standalone --nproc_per_node=2 --max-restarts=3 examples/ddp.py [--folder runs/ddp] [--kill-at STEP]

With `--kill-at` the last rank kills itself once with signal 9 before that step. torchrun starts all ranks again, they
go on from the newest healthy checkpoint, and the weights they end with are the same bit for bit.
"""

import argparse
import hashlib
import logging
import os
import signal
import sys

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

import trimtab

NUM_STEPS = 120

logging.basicConfig(format="%(message)s")
parser = argparse.ArgumentParser()
parser.add_argument("--folder", default="runs/ddp")
parser.add_argument("--kill-at", type=int, default=0)
options = parser.parse_args()


class Batches:
    """Batches of this rank, which can be rewound."""

    def __init__(self, rank: int) -> None:
        self.rank, self.position = rank, 0

    def draw(self) -> tuple[Tensor, Tensor]:
        """The next batch: a function of two numbers, and noise."""
        x = torch.rand(64, 2, generator=torch.Generator().manual_seed(1000 * self.rank + self.position)) * 4 - 2
        self.position += 1
        return x, torch.sin(3 * x[:, :1]) * x[:, 1:] + 0.01 * torch.randn(64, 1)

    def state_dict(self) -> dict[str, int]:
        """Where it is."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go there."""
        self.position = state["position"]


attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
store, rank, num_ranks = next(distributed.rendezvous("env://"))  # type: ignore[attr-defined]
# torchrun keeps the store over restarts, with the addresses of dead processes in it
store = distributed.PrefixStore(attempt, store)  # type: ignore[attr-defined]
distributed.init_process_group("gloo", store=store, rank=rank, world_size=num_ranks)  # "nccl" on GPUs
torch.manual_seed(rank)
batches = Batches(rank)
model = DistributedDataParallel(nn.Sequential(nn.Linear(2, 64), nn.GELU(), nn.Dropout(0.05), nn.Linear(64, 1)))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_STEPS)
supervisor = trimtab.Supervisor(
    model,
    optimizer,
    scheduler,
    clip_norm=1.0,
    data=batches,
    run=options.folder,
    resume=True,
    signals=True,
    checkpoint_every=20,
)
with supervisor:
    supervisor.resume()
    while supervisor.step < NUM_STEPS:
        if supervisor.step + 1 == options.kill_at and attempt == "0" and rank == num_ranks - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        x, y = batches.draw()
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        supervisor.check(loss)
        optimizer.step()
        scheduler.step()
        supervisor.checkpoint()
        if "pause" in supervisor.signals:  # on all ranks at once, whichever of them was told
            break
    supervisor.checkpoint(now=True)

if rank == 0:
    digest = hashlib.sha256(b"".join(each.detach().numpy().tobytes() for each in model.parameters())).hexdigest()
    print(f"{supervisor.step} steps, weights {digest[:16]}", flush=True)
distributed.barrier()
distributed.destroy_process_group()
sys.stdout.flush()
os._exit(0)  # a thread of gloo that gives a tensor back while Python ends would abort the process: docs/distributed.md
