"""What is broken before the first step, one case a time, and the check that is to report it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import HashStore
from torch.utils.data import DataLoader, Dataset

from tests.conftest import require

Case = dict[str, Any]


def make_model(*last: nn.Module, outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs), *last)


def make_case(model: nn.Module | None = None, loss_fn: Any = F.cross_entropy, batch: Any = None, **more: Any) -> Case:
    """A case that is well in all that it is not given: a classifier of three classes with its batch."""
    model = make_model() if model is None else model
    optimizer = more.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.1)
    batch = (torch.randn(16, 4), torch.arange(16) % 3) if batch is None else batch
    return {"model": model, "optimizer": optimizer, "loss_fn": loss_fn, "batch": batch, **more}


def binary_batch() -> tuple[Tensor, Tensor]:
    return torch.randn(16, 4), (torch.arange(16) % 2).float()[:, None]


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self._function(inputs)


def forget_head() -> Case:
    model = make_model()
    return make_case(model, optimizer=torch.optim.SGD(model[0].parameters(), lr=0.1))


def repeat_head() -> Case:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": list(model[2].parameters())})
    return make_case(model, optimizer=optimizer)


def replace_head() -> Case:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model[2] = nn.Linear(8, 3)
    return make_case(model, optimizer=optimizer)


def freeze(*layers: int) -> Case:
    model = make_model()
    for layer in layers:
        model[layer].requires_grad_(False)
    return make_case(model)


def repeat_layer() -> Case:
    return make_case(nn.Sequential(*[nn.Linear(4, 4)] * 3, nn.Linear(4, 3)))


def share_memory() -> Case:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = nn.Parameter(first.weight.data)
    return make_case(nn.Sequential(first, second, nn.Linear(4, 3)))


def untie_words() -> Case:
    require("transformers")
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return make_case(model, None, words())


def words() -> dict[str, Tensor]:
    ids = torch.randint(20, (4, 8))
    return {"input_ids": ids, "labels": ids}


def transpose_weight() -> Case:
    model = make_model()
    model[0].weight = nn.Parameter(torch.randn(4, 8).t())
    return make_case(model)


def fill(value: float, *layers: int) -> Case:
    model = make_model()
    for layer in layers:
        for name, each in model[layer].named_parameters():
            nn.init.constant_(each, value if name == "weight" else 0.0)
    return make_case(model)


def set_momentum(momentum: float) -> Case:
    return make_case(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=momentum), nn.Linear(8, 3)))


def use_bfloat16() -> Case:
    model = make_model().bfloat16()
    batch = torch.randn(16, 4).bfloat16(), torch.arange(16) % 3
    return make_case(model, batch=batch, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-5))


def use_float16() -> Case:
    def compute_loss(model: nn.Module, batch: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            return F.cross_entropy(model(batch[0]).float(), batch[1])

    return {**make_case(), "loss_fn": None, "compute_loss": compute_loss}


def spoil(value: float) -> Case:
    inputs = torch.randn(16, 4)
    inputs[3, 1] = value
    return make_case(batch=(inputs, torch.arange(16) % 3))


class Drop(nn.Module):
    """Dropout that nobody told of eval mode."""

    def forward(self, inputs: Tensor) -> Tensor:
        return F.dropout(inputs, 0.2)


class Attend(nn.Module):
    """Attention that drops weights in eval mode too."""

    def forward(self, inputs: Tensor) -> Tensor:
        one = inputs[:, None, None]
        return F.scaled_dot_product_attention(one, one, one, dropout_p=0.3)[:, 0, 0]


class Unused(nn.Module):
    """A model with a layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.used(inputs)
        return out


class Noisy(Dataset[Tensor]):
    """Data that are augmented from a generator of their own."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(self.generator.random())


def seed_alike(_: int) -> None:
    """Seed every worker by the same number."""
    np.random.seed(0)  # noqa: NPY002  what is broken here


SUMMED = """
for epoch in range(3):
    for index, (x, y) in enumerate(loader):
        loss = loss_fn(model(x), y)
        loss.backward()
        if (index + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
"""

CLIPPED = """
def train(model, loader, optimizer, scaler):
    for x, y in loader:
        loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
"""


def wrap(model: nn.Module) -> nn.Module:
    """A model as DistributedDataParallel holds it, in a group of one rank."""
    distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        return nn.parallel.DistributedDataParallel(model)
    finally:
        distributed.destroy_process_group()


BROKEN: list[Any] = [
    pytest.param("missing-from-optimizer", forget_head, id="head-not-in-optimizer"),
    pytest.param("repeated-in-optimizer", repeat_head, id="head-in-two-groups"),
    pytest.param("foreign-in-optimizer", replace_head, id="head-replaced-after-optimizer"),
    pytest.param("frozen-head", lambda: freeze(2), id="head-frozen"),
    pytest.param("frozen-head", lambda: freeze(0, 2), id="all-frozen"),
    pytest.param("double-softmax", lambda: make_case(make_model(nn.Softmax(-1))), id="softmax-and-cross-entropy"),
    pytest.param(
        "double-softmax", lambda: make_case(make_model(nn.Softmax(-1), nn.Flatten())), id="softmax-then-flatten"
    ),
    pytest.param(
        "softmax-of-one-unit",
        lambda: make_case(make_model(nn.Softmax(1), outputs=1), F.binary_cross_entropy, binary_batch()),
        id="softmax-of-one-unit",
    ),
    pytest.param(
        "softmax-of-one-unit",
        lambda: make_case(make_model(outputs=1), batch=(torch.randn(16, 4), torch.zeros(16, dtype=torch.long))),
        id="cross-entropy-of-one-unit",
    ),
    pytest.param(
        "activation-before-loss",
        lambda: make_case(make_model(nn.Sigmoid(), outputs=1), F.binary_cross_entropy_with_logits, binary_batch()),
        id="sigmoid-twice",
    ),
    pytest.param("activation-before-loss", lambda: make_case(make_model(nn.ReLU())), id="relu-before-cross-entropy"),
    pytest.param(
        "relu-probabilities",
        lambda: make_case(make_model(nn.ReLU(), outputs=1), F.binary_cross_entropy, binary_batch()),
        id="relu-as-probability",
    ),
    pytest.param(
        "relu-probabilities", lambda: make_case(make_model(nn.Softmax(-1)), F.nll_loss), id="nll-of-probabilities"
    ),
    pytest.param("relu-probabilities", lambda: make_case(loss_fn=F.nll_loss), id="nll-of-scores"),
    pytest.param(
        "broadcast-in-loss",
        lambda: make_case(make_model(outputs=1), F.mse_loss, (torch.randn(16, 4), torch.randn(16))),
        id="column-against-row",
    ),
    pytest.param(
        "broadcast-in-loss",
        lambda: make_case(
            make_model(outputs=1), lambda out, y: (out - y).square().mean(), (torch.randn(16, 4), torch.randn(16))
        ),
        id="column-minus-row",
    ),
    pytest.param(
        "loss-without-gradient",
        lambda: make_case(loss_fn=lambda out, y: F.cross_entropy(out.detach(), y)),
        id="detached-loss",
    ),
    pytest.param(
        "loss-without-gradient", lambda: make_case(loss_fn=nn.CrossEntropyLoss(reduction="none")), id="loss-by-sample"
    ),
    pytest.param("loss-fails", lambda: make_case(batch=(torch.randn(16, 5), torch.arange(16) % 3)), id="wrong-width"),
    pytest.param(
        "unscaled-inputs",
        lambda: make_case(batch=(torch.randint(256, (16, 4)).float(), torch.arange(16) % 3)),
        id="pixels-to-255",
    ),
    pytest.param(
        "constant-inputs", lambda: make_case(batch=(torch.full((16, 4), 0.5), torch.arange(16) % 3)), id="one-number"
    ),
    pytest.param(
        "constant-inputs",
        lambda: make_case(batch=(torch.randn(4).expand(16, 4), torch.arange(16) % 3)),
        id="one-sample-again-and-again",
    ),
    pytest.param("nonfinite-inputs", lambda: spoil(float("nan")), id="nan-in-batch"),
    pytest.param("nonfinite-inputs", lambda: spoil(float("-inf")), id="infinity-in-batch"),
    pytest.param(
        "labels-out-of-range", lambda: make_case(batch=(torch.randn(16, 4), torch.arange(16) % 3 + 1)), id="from-one-on"
    ),
    pytest.param(
        "labels-out-of-range",
        lambda: make_case(
            make_model(outputs=1), F.binary_cross_entropy_with_logits, (torch.randn(16, 4), 2 * binary_batch()[1])
        ),
        id="targets-0-and-2",
    ),
    pytest.param(
        "ids-out-of-range",
        lambda: make_case(
            nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(8, 3)),
            batch=(torch.randint(20, (16, 2)) + 5, torch.arange(16) % 3),
        ),
        id="ids-beyond-vocabulary",
    ),
    pytest.param(
        "one-class", lambda: make_case(batch=(torch.randn(16, 4), torch.ones(16, dtype=torch.long))), id="one-class"
    ),
    pytest.param(
        "one-class", lambda: make_case(batch=(torch.randn(16, 4), torch.full((16,), -100))), id="all-labels-ignored"
    ),
    pytest.param("dropout-in-eval", lambda: make_case(make_model(Drop())), id="dropout-not-gated"),
    pytest.param("dropout-in-eval", lambda: make_case(make_model(Attend())), id="attention-dropout-not-gated"),
    pytest.param("batch-norm-momentum", lambda: set_momentum(0.99), id="momentum-of-another-framework"),
    pytest.param("batch-norm-momentum", lambda: set_momentum(1e-4), id="momentum-too-small"),
    pytest.param(
        "too-few-samples",
        lambda: make_case(
            nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(4, 3)),
            batch=(torch.randn(1, 1, 4), torch.tensor([1])),
        ),
        id="batch-of-one-with-batchnorm",
    ),
    pytest.param("workers-share-generator", lambda: make_case(loader=DataLoader(Noisy(), num_workers=2)), id="own-rng"),
    pytest.param(
        "workers-share-seed",
        lambda: make_case(loader=DataLoader(Noisy(), num_workers=2, worker_init_fn=seed_alike)),
        id="workers-seeded-alike",
    ),
    pytest.param("lost-bfloat16-updates", use_bfloat16, id="bfloat16-at-1e-5"),
    pytest.param("float16-without-scaler", use_float16, id="float16-autocast"),
    pytest.param(
        "aggressive-scaler",
        lambda: make_case(scaler=torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=100)),
        id="scale-doubles-every-100",
    ),
    pytest.param("tied-weights", repeat_layer, id="list-times-three"),
    pytest.param("tied-weights", share_memory, id="two-parameters-one-memory"),
    pytest.param("tied-weights", untie_words, id="words-untied"),
    pytest.param("non-contiguous-parameters", transpose_weight, id="transposed-weight"),
    pytest.param("identical-weights", lambda: fill(0.5, 0), id="all-one-half"),
    pytest.param("identical-weights", lambda: fill(0.0, 0, 2), id="all-zero"),
    pytest.param("unused-parameters", lambda: make_case(Unused()), id="layer-never-called"),
    pytest.param("unused-under-ddp", lambda: make_case(wrap(Unused())), id="layer-never-called-under-ddp"),
    pytest.param("accumulated-not-divided", lambda: make_case(loop=SUMMED), id="accumulated"),
    pytest.param("clip-before-unscale", lambda: make_case(loop=CLIPPED), id="clipped-while-scaled"),
]


BY_EPOCH = """
scheduler = OneCycleLR(optimizer, 0.1, epochs=3, steps_per_epoch=len(loader))
for epoch in range(3):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    scheduler.step()
"""

BY_STEP = BY_EPOCH.replace("    scheduler.step()", "        scheduler.step()")

TOO_OFTEN = """
def train(model, steps, optimizer, scheduler):
    for micro_batches in steps:
        optimizer.zero_grad()
        for x, y in micro_batches:
            (loss_fn(model(x), y) / 4).backward()
            scheduler.step()
        optimizer.step()
"""

TOO_EARLY = """
def train(model, loader, optimizer, scheduler):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        scheduler.step()
        optimizer.step()
"""

NEVER = BY_EPOCH.replace("    scheduler.step()\n", "")

SCHEDULED: list[Any] = [
    pytest.param("schedule-per-epoch", lambda: make_case(loop=BY_EPOCH), id="one-cycle-per-epoch"),
    pytest.param(
        "schedule-per-epoch",
        lambda: make_case(
            loop="schedule = four_phase(optimizer, 900)\nfor epoch in range(9):\n    run()\n    schedule.step()"
        ),
        id="batches-in-a-function",
    ),
    pytest.param("schedule-too-often", lambda: make_case(loop=TOO_OFTEN), id="at-each-micro-batch"),
    pytest.param(
        "schedule-too-often",
        lambda: make_case(loop=BY_STEP.replace("optimizer.step()", "optimizer.step()\n        scheduler.step()")),
        id="twice-a-step",
    ),
    pytest.param(
        "schedule-too-often",
        lambda: make_case(
            loop=SUMMED.replace("loss.backward()", "(loss / 4).backward()") + "        scheduler.step()\n"
        ),
        id="at-each-accumulated-batch",
    ),
    pytest.param("schedule-before-step", lambda: make_case(loop=TOO_EARLY), id="before-the-optimizer"),
    pytest.param("schedule-never-stepped", lambda: make_case(loop=NEVER), id="never"),
]
BROKEN += SCHEDULED


def decay(kind: Any, weight_decay: float, **more: Any) -> Case:
    model = make_model()
    return make_case(model, optimizer=kind(model.parameters(), lr=1e-3, weight_decay=weight_decay, **more))


BROKEN += [
    pytest.param("l2-in-adam", lambda: decay(torch.optim.Adam, 1e-4), id="adam-with-decay"),
    pytest.param("weight-decay-size", lambda: decay(torch.optim.SGD, 1e-2), id="sgd-with-the-decay-of-adamw"),
    pytest.param("weight-decay-size", lambda: decay(torch.optim.AdamW, 1e-4), id="adamw-with-the-decay-of-sgd"),
    pytest.param(
        "weight-decay-size",
        lambda: decay(torch.optim.NAdam, 1e-4, decoupled_weight_decay=True),
        id="decoupled-nadam-with-the-decay-of-sgd",
    ),
]
