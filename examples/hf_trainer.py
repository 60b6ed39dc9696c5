"""Train a tiny language model from random weights with the Hugging Face Trainer, supervised by one callback.

python examples/hf_trainer.py

Halfway something overwrites a weight, as a flipped bit does; without the callback the rest of the run is lost.
"""

import logging
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from trimtab.integrations.transformers import SupervisorCallback

logging.basicConfig(format="%(message)s")
torch.manual_seed(0)


class Counting(Dataset[dict[str, Tensor]]):
    """Sequences that count on by the same number, modulo 32."""

    def __init__(self, num: int) -> None:
        start, by = torch.randint(32, (num, 1)), torch.randint(1, 5, (num, 1))
        self.tokens = (start + by * torch.arange(16)) % 32

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


class Accident(TrainerCallback):
    """What nobody wants."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Overwrite a weight after step 75."""
        if state.global_step == 75:
            with torch.no_grad():
                kwargs["model"].transformer.h[0].mlp.c_fc.weight[0, 0] = 1e30


model = GPT2LMHeadModel(
    GPT2Config(vocab_size=32, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
)
supervision = SupervisorCallback()
with TemporaryDirectory() as folder:
    trainer = Trainer(
        model,
        TrainingArguments(
            folder,
            max_steps=150,
            per_device_train_batch_size=32,
            learning_rate=3e-3,
            eval_strategy="steps",
            eval_steps=50,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=Counting(2048),
        eval_dataset=Counting(128),
        callbacks=[supervision, Accident()],
    )
    trainer.train()
    final = trainer.evaluate()["eval_loss"]

assert supervision.supervisor is not None
for decision in supervision.supervisor.ledger:
    if not decision.proceed:
        print(f"step {decision.step}: {decision.verdict}")
print(f"evaluation loss {final:.4f}")
