"""Files that the real tools have just written, of runs that are healthy, turn NaN or diverge: read and diagnosed."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.conftest import require
from trimtab.diagnosis import diagnose
from trimtab.readers import read_log

NUM_STEPS, POISON = 200, 120

RUNS = {"healthy": (0.05, math.inf), "nan": (0.05, POISON), "diverging": (20.0, math.inf)}
"""Learning rate, and the step from which on the loss is NaN."""

CAUSES = {"healthy": None, "nan": "loss-not-finite", "diverging": "explosion"}
"""What each is to be diagnosed with."""

VERDICTS = {"healthy": "healthy", "nan": "failed", "diverging": "failed"}


@contextmanager
def kept_quiet(*modules: str) -> Iterator[None]:
    """Leave out the warnings that other people's code gives about itself, and what it prints and logs."""
    names = ("lightning", "lightning.pytorch", "transformers", "accelerate")
    levels = {name: logging.getLogger(name).level for name in names}
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        for module in modules:
            warnings.filterwarnings("ignore", module=module)
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def make_data() -> tuple[Tensor, Tensor]:
    """A task that a small network learns in a hundred steps."""
    inputs = torch.randn(800, 4)
    return inputs, torch.sin(inputs[:, :1]) + 0.1 * torch.randn(800, 1)


def make_network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))


def write_summary(folder: Path, rate: float, poison: float) -> Path:
    """A plain loop with `torch.utils.tensorboard.SummaryWriter`."""
    require("tensorboard")
    with kept_quiet(r"tensorboard(\..*)?", r"google(\..*)?"):
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder))
    inputs, targets = make_data()
    model = make_network()
    optimizer = torch.optim.SGD(model.parameters(), rate)
    for step in range(NUM_STEPS):
        chosen = torch.randint(len(inputs), (16,))
        loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen]) * (math.nan if step >= poison else 1.0)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf)
        optimizer.step()
        writer.add_scalar("Loss/train", loss.item(), step)
        writer.add_scalar("grad_norm", norm.item(), step)
        writer.add_scalar("lr", rate, step)
        if step % 40 == 39:
            writer.add_scalar("Loss/val", nn.functional.mse_loss(model(inputs), targets).item(), step)
    writer.close()
    return folder


def write_lightning(folder: Path, rate: float, poison: float, logger_name: str) -> Path:
    """Lightning's Trainer with one of its loggers."""
    require("lightning")
    with kept_quiet(r"lightning(\..*)?"):  # it warns of few workers and of short epochs
        from lightning.pytorch import LightningModule, Trainer, loggers

        class Network(LightningModule):  # type: ignore[misc, unused-ignore]
            def __init__(self) -> None:
                super().__init__()
                self.network = make_network()

            def compute_loss(self, batch: Any) -> Tensor:
                return nn.functional.mse_loss(self.network(batch[0]), batch[1])

            def training_step(self, batch: Any, _: int) -> Tensor:
                loss = self.compute_loss(batch) * (math.nan if self.global_step >= poison else 1.0)
                self.log("train_loss", loss)
                return loss

            def validation_step(self, batch: Any, _: int) -> None:
                self.log("val_loss", self.compute_loss(batch))

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), rate)

        data = TensorDataset(*make_data())
        trainer = Trainer(
            max_steps=NUM_STEPS,
            logger=getattr(loggers, logger_name)(str(folder), name="run"),
            log_every_n_steps=1,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(Network(), DataLoader(data, batch_size=16, shuffle=True), DataLoader(data, batch_size=400))
    return folder / "run" / "version_0"


def write_trainer_state(folder: Path, rate: float, poison: float) -> Path:
    """The Hugging Face Trainer with a language model of a few thousand random weights."""
    require("transformers")
    with kept_quiet(r"transformers(\..*)?"):
        import transformers

        class PoisonedTrainer(transformers.Trainer):  # type: ignore[misc, unused-ignore]
            def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
                loss: Any = super().compute_loss(*args, **kwargs)
                return loss * (math.nan if self.state.global_step >= poison else 1.0)

        config = transformers.GPT2Config(
            vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )
        sequences = (torch.randint(32, (400, 1)) + 3 * torch.arange(16)) % 32
        arguments = transformers.TrainingArguments(
            output_dir=str(folder),
            max_steps=NUM_STEPS,
            per_device_train_batch_size=8,
            learning_rate=rate,
            optim="sgd" if rate > 1 else "adamw_torch",
            lr_scheduler_type="constant",
            max_grad_norm=0.0 if rate > 1 else 1.0,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_steps=NUM_STEPS,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        data = [{"input_ids": row, "labels": row} for row in sequences]
        PoisonedTrainer(transformers.GPT2LMHeadModel(config), arguments, train_dataset=data).train()
    return folder


def write_csv_logger(folder: Path, rate: float, poison: float) -> Path:
    """Lightning's CSVLogger."""
    return write_lightning(folder, rate, poison, "CSVLogger")


def write_tensorboard_logger(folder: Path, rate: float, poison: float) -> Path:
    """Lightning's TensorBoardLogger."""
    require("tensorboard")
    return write_lightning(folder, rate, poison, "TensorBoardLogger")


Write = Callable[[Path, float, float], Path]

WRITERS: dict[str, tuple[Write, str]] = {
    "summary-writer": (write_summary, "tensorboard"),
    "lightning-csv": (write_csv_logger, "csv"),
    "lightning-tensorboard": (write_tensorboard_logger, "tensorboard"),
    "trainer-state": (write_trainer_state, "trainer-state"),
}
"""Each tool, and the reader that has to recognize what it writes."""


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("write", "format"), WRITERS.values(), ids=WRITERS.keys())
def test_real_file_is_diagnosed(write: Write, format: str, run: str, tmp_path: Path) -> None:
    """What a tool writes of a run is recognized, has every step, and is diagnosed with what was done to the run."""
    path = write(tmp_path, *RUNS[run])
    log = read_log(path)
    diagnosis = diagnose(path)
    assert log.format == format
    assert sum("loss" in each.values for each in log.measurements if each.clock == "step") == NUM_STEPS
    assert diagnosis.verdict == VERDICTS[run], str(diagnosis)
    assert next((each.name for each in diagnosis.causes), None) == CAUSES[run], str(diagnosis)
    if run == "nan":
        assert diagnosis.causes[0].step in (POISON, POISON + 1)  # some tools count from 0
