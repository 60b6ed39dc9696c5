"""Adapters of PEFT on a frozen base, in the Hugging Face Trainer with the callback alone: what is kept and put back."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import require

require("transformers", "accelerate", "peft")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from torch.utils.data import Dataset  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments  # noqa: E402

from tests.integrations.runs_accelerate import forget_accelerators  # noqa: E402
from trimtab.errors import InputError  # noqa: E402
from trimtab.integrations.transformers import SupervisorCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

CONFIG: dict[str, Any] = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}


class Counting(Dataset[dict[str, Tensor]]):
    """Sequences that count on, modulo 16."""

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = (index + torch.arange(8)) % 16
        return {"input_ids": tokens, "labels": tokens}


class Meanwhile(TrainerCallback):
    """Does something to the model after the update of a step."""

    def __init__(self, deeds: dict[int, Any]) -> None:
        self.deeds = deeds

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Do what is to be done after this step."""
        self.deeds.get(state.global_step, lambda _: None)(kwargs["model"])


def make_model(seed: int = 0) -> PeftModel:
    """Adapters on a tiny base; the seed is the base's."""
    torch.manual_seed(seed)
    base = LlamaForCausalLM(LlamaConfig(**CONFIG, num_attention_heads=2, bos_token_id=0, eos_token_id=0))
    torch.manual_seed(0)
    adapted: PeftModel = get_peft_model(base, LoraConfig(r=2, lora_alpha=4, target_modules="all-linear"))
    return adapted


def make_trainer(
    folder: Path, callback: SupervisorCallback | None, *, seed: int = 0, deeds: dict[int, Any] | None = None
) -> Trainer:
    """A trainer of 32 steps, with a checkpoint after 16."""
    forget_accelerators()
    gc.collect()
    return Trainer(
        make_model(seed),
        TrainingArguments(
            str(folder),
            max_steps=32,
            save_steps=16,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        ),
        train_dataset=Counting(),
        callbacks=[*([] if callback is None else [callback]), Meanwhile(deeds or {})],
    )


def spoil(model: Any) -> None:
    """Write NaN into an adapter."""
    with torch.no_grad():
        model.base_model.model.model.layers[1].mlp.down_proj.lora_B["default"].weight.fill_(torch.nan)


def merge_and_unmerge(model: Any) -> None:
    """Take the adapters into the base, and out again."""
    model.merge_adapter()
    model.unmerge_adapter()


def disable_and_enable(model: Any) -> None:
    """Switch the adapters off, and on again."""
    model.base_model.disable_adapter_layers()
    model.base_model.enable_adapter_layers()


def list_parameters(trainer: Trainer) -> list[Tensor]:
    """The parameters of a trainer's model."""
    assert isinstance(trainer.model, torch.nn.Module)
    return list(trainer.model.parameters())


def test_only_adapters_are_measured_and_kept(tmp_path: Path) -> None:
    """A snapshot takes what the adapters and their moments take, and NaN in an adapter leaves no trace in the base."""
    callback = SupervisorCallback()
    trainer = make_trainer(tmp_path, callback, deeds={20: spoil})
    before = [each.detach().clone() for each in list_parameters(trainer)]
    trainer.train()
    assert callback.supervisor is not None
    assert isinstance(trainer.model, PeftModel)
    assert [(each.step, each.verdict) for each in callback.supervisor.ledger if not each.proceed] == [(21, "rollback")]
    trained = [each for each in list_parameters(trainer) if each.requires_grad]
    assert all(bool(torch.isfinite(each).all()) for each in trained)
    pairs = zip(before, list_parameters(trainer), strict=True)
    assert all(torch.equal(was, each) for was, each in pairs if not each.requires_grad)
    snapshot = callback.supervisor._controls.snapshots.proven
    assert snapshot is not None
    num_bytes = sum(each.nbytes for each in trained)
    others = 4 * len(trained) + sum(each.nbytes for each in trainer.model.buffers())  # the moments' step counts
    kept = sum(copy.nbytes for copy in snapshot.copies.values())
    assert 3 * num_bytes <= kept <= 3 * num_bytes + others
    assert kept < sum(each.nbytes for each in list_parameters(trainer))


def test_adapters_alone_lead_on_bit_for_bit(tmp_path: Path) -> None:
    """The trainer's checkpoint holds adapters; on the same base a run goes on from it to the same bits."""
    whole = make_trainer(tmp_path, SupervisorCallback())
    whole.train()
    assert (tmp_path / "checkpoint-16" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "checkpoint-16" / "model.safetensors").exists()
    callback = SupervisorCallback()
    resumed = make_trainer(tmp_path, callback)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-16"))
    pairs = zip(list_parameters(whole), list_parameters(resumed), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert callback.supervisor is not None
    assert callback.supervisor.step == 32


def test_another_base_is_refused(tmp_path: Path) -> None:
    """Adapters do not go on with a base that they were not trained on, and the message says which parameter it is."""
    make_trainer(tmp_path, SupervisorCallback()).train()
    other = make_trainer(tmp_path, SupervisorCallback(), seed=1)
    with pytest.raises(
        InputError, match=r"trained on other frozen parameters.*embed_tokens\.weight is not what it was"
    ):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-16"))


@pytest.mark.parametrize("deed", [merge_and_unmerge, disable_and_enable], ids=["merged", "disabled"])
def test_adapters_may_be_taken_in_and_out(tmp_path: Path, deed: Any) -> None:
    """What PEFT does to adapters in the middle of a run is no finding, and a later fault is answered as ever."""
    callback = SupervisorCallback(strict=True)
    trainer = make_trainer(tmp_path, callback, deeds={5: deed, 10: deed, 20: spoil})
    trainer.train()
    assert callback.supervisor is not None
    assert [each.step for each in callback.supervisor.ledger if not each.proceed] == [21]
    assert all(bool(torch.isfinite(each).all()) for each in list_parameters(trainer))
    resumed = make_trainer(tmp_path, SupervisorCallback())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-16"))  # on the base as it is loaded


def test_supervisor_that_finds_nothing_changes_no_bit(tmp_path: Path) -> None:
    """The Observer law, with adapters."""
    seen, alone = (make_trainer(tmp_path, each) for each in (SupervisorCallback(), None))
    seen.train()
    alone.train()
    pairs = zip(list_parameters(seen), list_parameters(alone), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
