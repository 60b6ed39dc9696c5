"""Fine-tune adapters (LoRA) in a tiny random transformer with the Hugging Face Trainer, supervised by one callback.

pip install trimtab[transformers] peft
python examples/lora.py

The base is frozen: what is measured, kept in snapshots and put back is the adapters alone. After half the run something
overwrites an adapter with NaN.
"""

import logging
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from trimtab.integrations.transformers import SupervisorCallback

logging.basicConfig(format="%(message)s")
torch.manual_seed(0)

ADAPTER = "base_model.model.model.layers.1.mlp.down_proj.lora_B.default.weight"


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
        """Overwrite an adapter after step 80."""
        if state.global_step == 80:
            with torch.no_grad():
                kwargs["model"].get_parameter(ADAPTER).fill_(torch.nan)


base = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=32,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=0,
    )
)
model = get_peft_model(base, LoraConfig(r=4, lora_alpha=4, target_modules="all-linear"))
before = {name: each.detach().clone() for name, each in model.named_parameters() if not each.requires_grad}
num_trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
num_frozen = sum(each.numel() for each in before.values())
supervision = SupervisorCallback()
with TemporaryDirectory() as folder:
    trainer = Trainer(
        model,
        TrainingArguments(
            folder,
            max_steps=150,
            per_device_train_batch_size=32,
            learning_rate=1e-2,
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
    first = trainer.evaluate()["eval_loss"]
    trainer.train()
    final = trainer.evaluate()["eval_loss"]

print(f"{num_trained} trained parameters, {num_frozen} frozen")
assert supervision.supervisor is not None
for decision in supervision.supervisor.ledger:
    if not decision.proceed:
        print(f"step {decision.step}: {decision.verdict}")
is_untouched = all(torch.equal(each, before[name]) for name, each in model.named_parameters() if name in before)
print(f"the base is {'untouched' if is_untouched else 'changed'}; evaluation loss {first:.4f} → {final:.4f}")
