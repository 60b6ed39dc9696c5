"""The small training of `runs` with Accelerate."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch.utils.data import DataLoader

from tests.integrations.runs import BATCH_SIZE, Run, Samples, Setting, make_parts, tell
from trimtab import Supervisor

PRECISIONS = {"float32": "no", "bfloat16": "bf16"}


def forget_accelerators() -> None:
    """Forget those made before in the same process, which share a state."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def make_accelerator(precision: str = "float32", num_micro_batches: int = 1) -> Accelerator:
    """An accelerator that knows nothing of those made before it."""
    forget_accelerators()
    return Accelerator(cpu=True, mixed_precision=PRECISIONS[precision], gradient_accumulation_steps=num_micro_batches)


def make_run(setting: Setting, _: Path) -> Run:
    """One run."""
    accelerator = make_accelerator(setting.precision, setting.num_micro_batches)
    model, optimizer, scheduler = make_parts(setting.num_steps)
    loader = DataLoader(Samples(spoils=setting.fault.spoils), batch_size=BATCH_SIZE)
    net, stepper, loader, schedule = accelerator.prepare(model, optimizer, loader, scheduler)
    supervisor = None
    if setting.is_supervised:
        supervisor = Supervisor(net, stepper.optimizer, schedule, clip_norm=setting.clip_norm, **setting.options)
    step, total = 0, torch.zeros(())
    for batch in loader:
        with accelerator.accumulate(net):
            loss = net(**batch)["loss"]
            accelerator.backward(loss)
            total += loss.detach() / accelerator.gradient_accumulation_steps
            if accelerator.sync_gradients:
                step += 1
                if supervisor is None:
                    accelerator.clip_grad_norm_(net.parameters(), setting.clip_norm)
                else:
                    supervisor.check(total, batch=batch if setting.num_micro_batches == 1 else None)
                total = torch.zeros(())
            stepper.step()
            schedule.step()
            stepper.zero_grad()
            if accelerator.sync_gradients:
                setting.fault.strike(model, step)
    return Run(model, [] if supervisor is None else tell(supervisor.ledger), step)
