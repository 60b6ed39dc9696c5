"""`locate_nonfinite`: what it names, what it leaves alone, and that it leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trimtab.errors import InputError
from trimtab.probes.locate import locate_nonfinite
from trimtab.probes.rerun import ComputeLoss

torch.manual_seed(0)  # the tables below hold models, made when this file is read


class Apply(nn.Module):
    """A linear layer, then any function of its output."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.linear(x))


class Attention(nn.Module):
    """Attention by hand, with a mask that is added or filled in."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, -1)
        scores = query @ key.transpose(-2, -1)
        scores = scores.masked_fill(mask, -inf) if mask.dtype == torch.bool else scores + mask
        output: Tensor = torch.softmax(scores, -1) @ value
        return output


class Residual(nn.Module):
    """A block whose inner layer is `inner`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.inner(self.norm(x))
        return output


class Pair(nn.Module):
    """A module with two outputs, the second of which is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(x)
        return y, torch.log(y * 0)


class Damped(torch.autograd.Function):
    """An operation of the user's own, whose backward pass divides by zero."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Tensor:
        return grads[0] / 0


class Wrapped(nn.Module):
    """Modules by name, called in turn."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


def fill(module: nn.Module, value: float) -> nn.Module:
    """The same module with every parameter at a value."""
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


@torch.no_grad()
def opposed_gru() -> nn.Module:
    """A GRU whose candidate state is ∞ from the input and −∞ from the state before."""
    gru = fill(nn.GRU(4, 4), 0.0)
    gru.get_parameter("weight_ih_l0")[8:] = 3e38
    gru.get_parameter("weight_hh_l0")[8:] = -3e38
    return gru


def x(*shape: int) -> Tensor:
    return torch.randn(*(shape or (8, 4)), generator=torch.Generator().manual_seed(1))


def mean(model: nn.Module, batch: Tensor) -> Tensor:
    output: Tensor = model(batch)
    return output.float().mean()


def on(function: Callable[[Tensor], Tensor]) -> ComputeLoss:
    """A loss that is a function of the output."""
    return lambda model, batch: function(model(batch))


def pool(model: nn.Module, batch: Tensor) -> Tensor:
    output: Tensor = model(batch)[0]
    return output.mean()


def classify(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def attend(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    output: Tensor = model(*batch)
    return output.square().mean()


def attend_multi(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    sequence, mask = batch
    output: Tensor = model(sequence, sequence, sequence, attn_mask=mask)[0]
    return output.square().mean()


def attend_fused(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    sequence, mask = batch
    y = model(sequence)
    return F.scaled_dot_product_attention(y, y, y, attn_mask=mask).square().mean()


def mask_row(row: int = 1) -> Tensor:
    """A mask that lets nothing through in one row."""
    mask = torch.zeros(3, 3)
    mask[row] = -inf
    return mask


def zero_variance(model: nn.Module) -> nn.Module:
    """The same module in evaluation mode, with running variances of 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d) and module.running_var is not None:
            module.running_var.zero_()
    return model.eval()


def causal(length: int = 3) -> Tensor:
    return nn.Transformer.generate_square_subsequent_mask(length)


def in_place(y: Tensor) -> Tensor:
    y = y * 1
    y[0].div_(torch.zeros(4))
    return y


def blow_up_row(y: Tensor) -> Tensor:
    """A loss whose gradient is 3e38 at every token, so that a row used twice overflows."""
    return ((y - y.detach()) * 3e38).sum()


CLASS_WEIGHTS = torch.tensor([1.0, nan, 1.0, 1.0])


def weighted(y: Tensor) -> Tensor:
    return F.cross_entropy(y, torch.arange(8) % 4, weight=CLASS_WEIGHTS)


def missing(model: nn.Module, batch: Tensor) -> Tensor:
    """The loss leaves missing values out, too late for the gradient."""
    return torch.where(batch.isnan(), 0.0, model(batch) * batch).mean()


def damage(model: nn.Module, name: str, value: float = nan) -> nn.Module:
    with torch.no_grad():
        dict([*model.named_parameters(), *model.named_buffers()])[name].view(-1)[0] = value
    return model


class Biased(nn.Module):
    """A module with a buffer that is added."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("bias", torch.tensor(values))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x) + self.bias
        return output


def spoil(*where: int, value: float = nan) -> Tensor:
    batch = x()
    batch[where] = value
    return batch


ones = torch.ones(8, 4)
labels = torch.arange(8) % 4

ORIGINS = [
    # model, batch, loss, options, kind, where, operation, in the reason
    pytest.param(
        Wrapped(a=nn.Linear(4, 4), b=fill(nn.Linear(4, 4), 1e30)),
        x(),
        on(lambda y: y.square().mean()),
        {},
        ("loss", "loss", "square", "overflows float32"),
        id="square-of-a-huge-output",
    ),
    pytest.param(
        Wrapped(a=fill(nn.Linear(4, 4), 1e30), b=fill(nn.Linear(4, 4), 1e30)),
        x(),
        mean,
        {},
        ("forward", "b", "Linear", "weight lies in [1e+30, 1e+30]"),
        id="linear-with-huge-weight",
    ),
    pytest.param(
        Wrapped(c=fill(nn.Conv1d(4, 4, 1), 1e30), d=fill(nn.Conv1d(4, 4, 1), 1e30)),
        x(2, 4, 5),
        mean,
        {},
        ("forward", "d", "Conv1d", "finite but huge"),
        id="conv-with-huge-weight",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4), n=nn.LayerNorm(4, eps=0.0)),
        torch.zeros(8, 4),
        on(lambda y: y.square().mean()),
        {},
        None,
        id="healthy-in-spite-of-eps-0",
    ),
    pytest.param(
        Wrapped(n=nn.LayerNorm(4, eps=0.0), a=nn.Linear(4, 4)),
        ones,
        mean,
        {},
        ("forward", "n", "LayerNorm", "variance"),
        id="layer-norm-of-a-constant",
    ),
    pytest.param(
        zero_variance(Wrapped(n=nn.BatchNorm1d(4, eps=0.0), a=nn.Linear(4, 4))),
        ones,
        mean,
        {},
        ("forward", "n", "BatchNorm1d", "variance"),
        id="batch-norm-without-variance",
    ),
    pytest.param(
        Wrapped(e=nn.Embedding(5, 4)),
        torch.tensor([1, 1, 2]),
        on(blow_up_row),
        {},
        ("gradient", "e", "Embedding", "row that occurs several times"),
        id="embedding-row-with-infinite-gradient",
    ),
    pytest.param(
        Wrapped(e=nn.Embedding(5, 4, sparse=True)),
        torch.tensor([1, 2]),
        on(lambda y: (y * 0).square().sum().sqrt()),
        {},
        ("gradient", "loss", "sqrt", "slope of a root"),
        id="sparse-embedding",
    ),
    pytest.param(
        Wrapped(a=fill(nn.Linear(4, 4), 1e38)),
        x(),
        on(lambda y: y.clamp(-1, 1).sum()),
        {},
        None,
        id="healthy-overflow-that-is-clamped",
    ),
    pytest.param(
        fill(nn.RNN(4, 4, nonlinearity="relu"), 1e20),
        x(6, 4).abs(),
        pool,
        {},
        ("forward", "(model)", "RNN", "finite but huge"),
        id="rnn",
    ),
    pytest.param(
        opposed_gru(),
        torch.ones(6, 2, 4),
        pool,
        {},
        ("forward", "(model)", "GRU", "finite but huge"),
        id="gru",
    ),
    pytest.param(
        Attention(),
        (x(3, 4), mask_row()),
        attend,
        {},
        ("forward", "(model)", "softmax", "fully masked"),
        id="softmax-of-an-added-mask",
    ),
    pytest.param(
        Attention(),
        (x(3, 4), mask_row() < 0),
        attend,
        {},
        ("forward", "(model)", "softmax", "fully masked"),
        id="softmax-of-a-filled-mask",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        x(),
        on(lambda y: torch.softmax(y + torch.log(torch.zeros(4)), -1).mean()),
        {},
        ("loss", "loss", "softmax", "fully masked"),
        id="softmax-of-the-log-of-a-mask",
    ),
    pytest.param(
        nn.MultiheadAttention(4, 2),
        (x(3, 1, 4), mask_row()),
        attend_multi,
        {},
        ("forward", "(model)", "multi_head_attention_forward", "fully masked"),
        id="multi-head-attention",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        x(),
        on(lambda y: -torch.log(torch.relu(-y.abs())).mean()),
        {},
        ("loss", "loss", "log", "logarithm of 0"),
        id="log-of-zero",
    ),
    pytest.param(
        Apply(lambda y: torch.log(torch.softmax(y * 1e4, -1))),
        x(),
        mean,
        {},
        ("forward", "(model)", "log", "logarithm of 0"),
        id="log-of-a-softmax",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        x(),
        on(lambda y: torch.log(-y.abs() - 1).mean()),
        {},
        ("loss", "loss", "log", "negative number"),
        id="log-of-a-negative-number",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        x(),
        on(lambda y: (y * 0).sum() / (y * 0).sum()),
        {},
        ("loss", "loss", "div", "0/0"),
        id="zero-by-zero",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        x(),
        on(lambda y: y.sum() / torch.zeros((), dtype=torch.int64)),
        {},
        ("loss", "loss", "div", "divides by zero"),
        id="division-by-an-integer-zero",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        x(),
        on(lambda y: y.sum() / 0),
        {},
        ("loss", "loss", "div", "zero"),
        id="division-by-the-number-zero",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        x(),
        on(lambda y: 1 / (y * 0).sum()),
        {},
        ("loss", "loss", "div", "divides by zero"),
        id="reciprocal-of-zero",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        x(),
        on(lambda y: y[y > 1e9].mean()),
        {},
        ("loss", "loss", "mean", "mean of no values"),
        id="mean-of-nothing",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        (x(), torch.full((8,), -100)),
        classify,
        {},
        ("loss", "loss", "cross_entropy", "ignore_index"),
        id="every-target-ignored",
    ),
    pytest.param(
        Apply(lambda y: y.masked_fill(torch.arange(4) == 2, -inf)),
        (x(), labels),
        classify,
        {},
        ("loss", "loss", "cross_entropy", "masked out"),
        id="target-on-a-masked-class",
    ),
    pytest.param(
        Apply(lambda y: y.masked_fill(torch.arange(4) == 2, -inf)),
        x(),
        mean,
        {},
        ("forward", "(model)", "masked_fill", "written as a mask reached the loss"),
        id="mask-that-reaches-the-loss",
    ),
    pytest.param(
        Apply(lambda y: y.masked_fill(torch.arange(4) == 2, -inf) * (torch.arange(4) != 2)),
        x(),
        mean,
        {},
        ("forward", "(model)", "mul", "0 · ∞"),
        id="mask-that-is-multiplied-away",
    ),
    pytest.param(
        Apply(lambda y: torch.sqrt(y * 0)),
        x(),
        mean,
        {},
        ("gradient", "(model)", "sqrt", "finite, but the slope"),
        id="sqrt-at-zero-backward",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        x(),
        on(lambda y: ((y * 0) ** 2).sum() ** 0.5),
        {},
        ("gradient", "loss", "pow", "slope of a root"),
        id="norm-by-hand-at-zero-backward",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        x(),
        on(lambda y: (y * 0).std()),
        {},
        None,
        id="healthy-std-at-zero",
    ),
    pytest.param(
        Apply(lambda y: torch.where(y > 1e9, torch.log(y * 0), y)),
        x(),
        mean,
        {},
        ("gradient", "(model)", "log", "0 · ∞ is NaN"),
        id="log-that-is-masked-too-late",
    ),
    pytest.param(
        Apply(lambda y: torch.where(y > 1e9, torch.exp(y * 0 + 1000), y)),
        x(),
        mean,
        {},
        ("gradient", "(model)", "exp", "exp overflows float32 beyond 88.72"),
        id="exp-that-is-masked-too-late",
    ),
    pytest.param(
        Wrapped(h=Apply(lambda y: torch.exp(y * 0 + 100)), a=nn.Linear(4, 4)),
        x(),
        mean,
        {},
        ("forward", "h", "exp", "argument reaches 100"),
        id="exp-overflow",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4), b=nn.Linear(4, 4)),
        x() * 1e6,
        mean,
        {"autocast": torch.float16},
        ("forward", "a", "Linear", "65504"),
        id="float16-input-overflow",
    ),
    pytest.param(
        Wrapped(a=fill(nn.Linear(4, 4), 200.0), b=fill(nn.Linear(4, 4), 200.0)),
        ones,
        mean,
        {"autocast": torch.float16},
        ("forward", "b", "Linear", "an activation passes 65504"),
        id="float16-activation-overflow",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        x(),
        on(lambda y: y.float().sum()),
        {"autocast": torch.float16, "scale": 2.0**17},
        ("gradient", "loss", "float", "multiplied by 131072"),
        id="float16-gradient-overflow",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        {"x": spoil(2, 3), "y": labels},
        lambda model, batch: mean(model, batch["x"]),
        {},
        ("data", "batch['x']", "", "before the model saw it"),
        id="nan-in-the-data",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        (spoil(2, 3, value=-inf), labels),
        classify,
        {},
        ("data", "batch[0]", "", "before the model saw it"),
        id="minus-infinity-in-the-features",
    ),
    pytest.param(
        Wrapped(a=fill(nn.Linear(4, 4), 1.0)),
        (spoil(2, 3, value=-inf), labels),
        classify,
        {},
        ("data", "batch[0]", "", "before the model saw it"),
        id="minus-infinity-that-fills-a-row",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        x(),
        on(lambda y: (y - y.detach()).sum() * 2e38 + (y - y.detach()).sum() * 2e38),
        {},
        ("gradient", "a", "Linear", "overflows"),
        id="sum-of-two-gradients",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        spoil(2, 3),
        missing,
        {},
        ("data", "batch", "", "masking an output leaves NaN"),
        id="nan-in-the-data-that-is-masked-too-late",
    ),
    pytest.param(
        damage(Wrapped(a=nn.Linear(4, 4), b=nn.Linear(4, 4)), "b.weight"),
        x(),
        mean,
        {},
        ("parameter", "b.weight", "", "snapshot or checkpoint"),
        id="parameter",
    ),
    pytest.param(
        damage(Wrapped(e=nn.Embedding(5, 4)), "e.weight", inf),
        torch.tensor([3]),
        mean,
        {},
        ("parameter", "e.weight", "", "snapshot or checkpoint"),
        id="parameter-that-the-batch-does-not-use",
    ),
    pytest.param(
        damage(Wrapped(n=nn.BatchNorm1d(4), a=nn.Linear(4, 4)), "n.running_var"),
        x(),
        mean,
        {},
        ("buffer", "n.running_var", "", "not finite before the forward pass"),
        id="buffer",
    ),
    pytest.param(
        Biased(0.0, inf, 0.0, 0.0),
        x(),
        mean,
        {},
        ("buffer", "bias", "", "not finite before the forward pass"),
        id="infinite-buffer",
    ),
    pytest.param(
        nn.Sequential(Residual(nn.Identity()), Residual(Wrapped(up=nn.Linear(4, 4), deep=Apply(lambda y: y / 0)))),
        x(),
        mean,
        {},
        ("forward", "1.inner.deep", "div", "zero"),
        id="residual-network",
    ),
    pytest.param(
        Wrapped(a=Apply(in_place), b=nn.Linear(4, 4)),
        x(),
        mean,
        {},
        ("forward", "a", "div", "divides by zero"),
        id="in-place",
    ),
    pytest.param(
        Pair(),
        x(),
        lambda model, batch: sum(each.mean() for each in model(batch)),
        {},
        ("forward", "(model)", "log", "logarithm of 0"),
        id="second-of-two-outputs",
    ),
    pytest.param(
        Apply(Damped.apply),
        x(),
        mean,
        {},
        ("gradient", "(model)", "Damped", "gradient"),
        id="custom-function",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        x(),
        on(weighted),
        {},
        ("loss", "loss", "cross_entropy", "captures from outside"),
        id="tensor-from-outside",
    ),
    pytest.param(
        Wrapped(a=nn.Linear(4, 4)),
        x(),
        lambda model, batch: {"fit": mean(model, batch), "penalty": torch.log(model(batch).sum() * 0)},
        {},
        ("loss", "loss", "log", "logarithm of 0"),
        id="one-of-several-losses",
    ),
    pytest.param(
        Apply(lambda y: checkpoint(lambda z: torch.sqrt(z * 0), y, use_reentrant=False)),
        x(),
        mean,
        {},
        ("gradient", "(model)", "sqrt", "slope of a root"),
        id="checkpointed",
    ),
]


@pytest.mark.parametrize(("model", "batch", "compute_loss", "options", "expected"), ORIGINS)
def test_first_origin_is_named(
    model: nn.Module, batch: Any, compute_loss: ComputeLoss, options: dict[str, Any], expected: tuple[str, ...] | None
) -> None:
    """The origin is named by kind, place and operation, with the reason that fits."""
    origin = locate_nonfinite(model, batch, compute_loss, **options)
    if expected is None:
        assert origin is None
        return
    assert origin is not None
    assert (origin.kind, origin.where, origin.operation) == expected[:3], origin
    assert expected[3] in f"{origin.reason}; {origin.fix}"
    assert origin.num_bad > 0


def with_gradient(*shape: int) -> Tensor:
    return x(*shape).requires_grad_()


class Transformer(nn.Module):
    """A small language model with a causal mask, of −inf or of booleans."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.embed = nn.Embedding(7, 8)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 7)
        self.register_buffer("mask", mask)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(self.embed(tokens), mask=self.mask))
        return logits


def predict(model: nn.Module, batch: Tensor) -> Tensor:
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def use_first(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return mean(model, batch[0])


def penalize_gradient(model: nn.Module, batch: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(model(batch).square().sum(), batch, create_graph=True)
    return slope.square().mean()


def select(model: nn.Module, batch: Tensor) -> Tensor:
    known = ~batch.isnan()
    errors: Tensor = model(batch.nan_to_num()) - batch
    return errors[known].square().mean()


def scratch(y: Tensor) -> Tensor:
    """Fill memory that held anything, row by row."""
    rows = torch.empty(8, 4).fill_(nan)
    rows = torch.empty_like(rows)
    for row in range(8):
        rows[row] = y[row]
    return rows


tokens = torch.randint(0, 7, (3, 6), generator=torch.Generator().manual_seed(0))

HEALTHY = [
    pytest.param(Wrapped(a=nn.Linear(4, 4)), x(), mean, {}, id="linear"),
    pytest.param(Transformer(causal(5)), tokens, predict, {}, id="causal-mask-of-minus-infinity"),
    pytest.param(Transformer(causal(5) < 0), tokens, predict, {}, id="causal-mask-of-booleans"),
    pytest.param(Transformer(causal(5)).eval(), tokens, predict, {}, id="in-evaluation-mode"),
    pytest.param(Transformer(causal(5)), tokens, predict, {"autocast": torch.bfloat16}, id="bfloat16"),
    pytest.param(Transformer(causal(5)), tokens, predict, {"autocast": torch.float16, "scale": 1024.0}, id="float16"),
    pytest.param(Attention(), (x(3, 4), causal()), attend, {}, id="mask-in-the-batch"),
    pytest.param(Attention(), (x(3, 4), causal() < 0), attend, {}, id="masked-fill"),
    pytest.param(nn.MultiheadAttention(4, 2), (x(3, 1, 4), causal()), attend_multi, {}, id="multi-head-attention"),
    pytest.param(nn.Linear(4, 4), (x(1, 1, 3, 4), causal()), attend_fused, {}, id="fused-attention"),
    pytest.param(nn.Linear(4, 4), x(), on(lambda y: torch.logsumexp(y + torch.tensor([0.0, -inf, 0, 0]), -1).sum()), {},
        id="masked-logsumexp"),
    pytest.param(nn.Linear(4, 4), x(), on(lambda y: y.clamp(min=-inf, max=inf).mean()), {}, id="infinite-bounds"),
    pytest.param(nn.Linear(4, 4), x(), on(lambda y: torch.minimum(y, torch.full((4,), inf)).mean()), {},
        id="minimum-with-infinity"),
    pytest.param(nn.Linear(4, 4), spoil(1, 1), select, {}, id="missing-values-taken-out"),
    pytest.param(nn.Linear(4, 4), (x(), spoil(0)), use_first, {}, id="nan-in-the-batch-that-is-not-used"),
    pytest.param(Pair(), x(), pool, {}, id="output-that-is-not-used"),
    pytest.param(nn.Linear(4, 4), x(), on(lambda y: scratch(y).mean()), {}, id="memory-not-written-to"),
    pytest.param(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)), x(), mean, {}, id="dropout"),
    pytest.param(nn.LSTM(4, 4), x(5, 2, 4), pool, {}, id="lstm"),
    pytest.param(nn.Embedding(7, 4, sparse=True), tokens, mean, {}, id="sparse-gradient"),
    pytest.param(nn.Linear(4, 4), with_gradient(8, 4), penalize_gradient, {}, id="gradient-penalty"),
    pytest.param(nn.Linear(4, 4), x(), on(lambda _: torch.zeros(())), {}, id="loss-without-graph"),
    pytest.param(nn.Identity(), x(), mean, {}, id="no-parameters"),
    pytest.param(nn.Linear(4, 4), torch.empty(0, 4), on(torch.sum), {}, id="empty-batch"),
    pytest.param(nn.Linear(4, 4, dtype=torch.complex64), x().to(torch.complex64), on(lambda y: y.abs().mean()), {},
        id="complex"),
    pytest.param(nn.Linear(4, 4), x(), on(lambda y: torch.linalg.vector_norm(y * 0)), {}, id="norm-at-zero"),
    pytest.param(nn.Linear(4, 4), x(), lambda model, batch: {"a": mean(model, batch), "b": mean(model, batch)}, {},
        id="several-losses"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "batch", "compute_loss", "options"), HEALTHY)
def test_healthy_computation_is_left_alone(
    model: nn.Module, batch: Any, compute_loss: ComputeLoss, options: dict[str, Any]
) -> None:
    """Where loss and gradients are finite nothing is named, whatever is infinite or NaN on the way."""
    assert locate_nonfinite(model, batch, compute_loss, **options) is None


def test_fused_attention_is_judged_by_what_it_gives() -> None:
    """Fused attention with a fully masked row is blamed if this PyTorch makes NaN of it, and only then."""
    model, batch = nn.Linear(4, 4), (x(1, 1, 3, 4), mask_row())
    origin = locate_nonfinite(model, batch, attend_fused)
    if bool(attend_fused(model, batch).detach().isfinite()):
        assert origin is None
    else:
        assert origin is not None
        assert "fully masked" in origin.reason


def test_active_autocast_stays_active() -> None:
    """The forward pass runs under the autocast that is on when it is called."""
    model = Wrapped(a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    with torch.autocast("cpu", dtype=torch.float16):
        origin = locate_nonfinite(model, x() * 1e6, mean)
    assert origin is not None
    assert (origin.where, origin.dtype) == ("a", "float16")
    assert locate_nonfinite(model, x() * 1e6, mean) is None


def test_origin_reads_well() -> None:
    """The text has the message, the ranges of inputs and parameters, the reason and the fix."""
    model = Wrapped(a=nn.Linear(4, 4), b=fill(nn.Linear(4, 4), 3e38))
    origin = locate_nonfinite(model, ones * 100, mean)
    assert origin is not None
    lines = str(origin).splitlines()
    assert lines[0].startswith("b: Linear (in addmm) gives ")
    assert any(line.startswith("  input: mat1 float32[8, 4] in [") for line in lines)
    assert "  parameter: weight float32[4, 4] in [3e+38, 3e+38]" in lines
    assert lines[-2].startswith("  reason: ")
    assert lines[-1].startswith("  fix: ")


def test_data_is_counted() -> None:
    """The message tells how many values of a batch are not finite, and where the first one is."""
    batch = x()
    batch[2, 3] = batch[5, 0] = nan
    origin = locate_nonfinite(nn.Linear(4, 4), [batch], lambda model, batch: mean(model, batch[0]))
    assert origin is not None
    assert (origin.where, origin.num_bad, origin.first_index, origin.shape) == ("batch[0]", 2, (2, 3), (8, 4))
    assert origin.message == "data batch[0] has 2 of 32 values not finite, the first at (2, 3), before anything ran"


class Noisy(nn.Module):
    """A module that changes all it can: buffers, flags, gradients and random numbers."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.norm(self.linear(x))) + random.random() + np.random.random()  # noqa: NPY002
        self.count = self.count + 1
        self.register_buffer("late", torch.ones(1))
        self.drop.eval()
        self.frozen.requires_grad_(True)
        self.frozen.weight.grad = torch.ones(4, 4)
        output: Tensor = self.frozen(y)
        return output


def capture(model: nn.Module) -> dict[str, Any]:
    """All that may not change, with the identity of every tensor."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    numpy_state = np.random.get_state()  # noqa: NPY002
    return {
        **{name: (id(each), each.detach().numpy().tobytes(), each.requires_grad) for name, each in tensors.items()},
        **{f"{name}.grad": (id(p.grad), str(p.grad)) for name, p in model.named_parameters()},
        **{f"{name}.training": each.training for name, each in model.named_modules()},
        **{f"{name}.hooks": (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()},
        "python": random.getstate(),
        "numpy": [each.tolist() if isinstance(each, np.ndarray) else each for each in numpy_state],
        "torch": torch.get_rng_state().tolist(),
        "grad": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }  # fmt: skip


def fail(model: nn.Module, batch: Tensor) -> Tensor:
    model(batch)
    raise KeyError("the user's own")


@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    ("compute_loss", "fault"),
    [
        pytest.param(mean, None, id="healthy"),
        pytest.param(on(lambda y: torch.log(y * 0).mean()), None, id="forward"),
        pytest.param(on(lambda y: torch.sqrt(y * 0).mean()), None, id="backward"),
        pytest.param(fail, KeyError, id="raises"),
        pytest.param(on(lambda y: y), InputError, id="wrong-loss"),
    ],
)
def test_nothing_is_changed(compute_loss: ComputeLoss, fault: type[Exception] | None, is_training: bool) -> None:
    """Every tensor, gradient, flag, hook and generator is as before, bit for bit, also if the loss raises."""
    model = Noisy().train(is_training)
    model.linear.weight.grad = x(4, 4)
    weight, grad = model.linear.weight, model.linear.weight.grad
    before = capture(model)
    with torch.no_grad():
        if fault is None:
            locate_nonfinite(model, x(), compute_loss, autocast=torch.bfloat16)
        else:
            with pytest.raises(fault):
                locate_nonfinite(model, x(), compute_loss)
    assert capture(model) == before
    assert weight.grad is grad


def test_hooks_that_step_are_not_called() -> None:
    """A hook that updates a parameter once its gradient is there does not run."""
    model = nn.Linear(4, 4)
    model.weight.register_post_accumulate_grad_hook(lambda _: pytest.fail("the parameter was stepped"))
    assert locate_nonfinite(model, x(), mean) is None


@pytest.mark.parametrize(
    ("model", "compute_loss", "options", "message"),
    [
        pytest.param(3, mean, {}, "model is a 'int'", id="no-model"),
        pytest.param(nn.Linear(4, 4), on(lambda y: y), {}, r"the loss has shape \(8, 4\)", id="loss-of-many-numbers"),
        pytest.param(nn.Linear(4, 4), lambda *_: 1.0, {}, "the loss is a 'float'", id="loss-without-tensor"),
        pytest.param(nn.Linear(4, 4), mean, {"autocast": torch.float32}, "autocast is torch.float32", id="autocast"),
        pytest.param(nn.Linear(4, 4), mean, {"scale": 0.0}, "scale is 0.0", id="scale-of-zero"),
        pytest.param(nn.Linear(4, 4), mean, {"scale": inf}, "scale is inf", id="infinite-scale"),
    ],
)
def test_wrong_input_is_refused(model: Any, compute_loss: ComputeLoss, options: dict[str, Any], message: str) -> None:
    """What cannot be used is refused in one sentence that says what it has to be."""
    with pytest.raises(InputError, match=f"^locate_nonfinite: {message}; it has to be "):
        locate_nonfinite(model, x(), compute_loss, **options)
