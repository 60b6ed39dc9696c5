"""From the values of columns to tokens: one encoder for all columns of a kind, with parameters by column."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.tabular.batches import Batch
from trimtab.tabular.preparing import NUM_BINS, NUM_UNKNOWN, Encoding, Part, is_time_of_day, measure_numbers

WIDTH = 64
"""Numbers of a token."""

PERIODS = (86400.0, 7 * 86400.0, 365.2425 / 12 * 86400.0, 365.2425 * 86400.0)
"""Seconds of a day, a week, a month and a year, on average."""

NUM_SHAPES = 3
"""Numbers that stand for a value beside its bins: the value, its logarithm with the sign kept, and its rank."""

CLIPPED = 8.0
"""Where a value in units of its spread is cut off; its logarithm and bins say more of it."""

EPSILON = 1e-5
"""Added to the variance of a token before it is divided by it."""


class ColumnParameters(nn.Module):
    """The parameters of one column; all columns of a kind are encoded together.

    Args:
        shape: of its weight: (features, numbers of a token), or (embeddings, numbers of a token).
        is_table: True if the weight is a table of embeddings.
    """

    def __init__(self, shape: tuple[int, int], *, is_table: bool) -> None:
        super().__init__()
        self._is_table = is_table
        self.weight = nn.Parameter(torch.empty(shape))
        self.gain = nn.Parameter(torch.empty(WIDTH))
        self.bias = nn.Parameter(torch.empty(WIDTH))
        self.missing = nn.Parameter(torch.empty(WIDTH))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw them anew."""
        if self._is_table:
            nn.init.normal_(self.weight)
        else:
            nn.init.normal_(self.weight, std=1.0)
        nn.init.ones_(self.gain)
        nn.init.zeros_(self.bias)
        nn.init.normal_(self.missing)


class NumberParameters(ColumnParameters):
    """The parameters of a column of numbers or moments, and how its numbers are scaled and binned.

    Drawn anew, it measures scale and bins anew, too, by the rows that were last encoded in eval mode: a column whose
    tokens are all the same may have been scaled wrongly.

    Args:
        num_features: what a number is told by.
        knots: the bounds of its bins.

    Attributes:
        seen: the numbers of the rows that were last encoded in eval mode; None before.
    """

    knots: Tensor
    shift: Tensor
    stretch: Tensor

    def __init__(self, num_features: int, knots: Sequence[float]) -> None:
        self.seen: Tensor | None = None
        super().__init__((num_features, WIDTH), is_table=False)
        self.register_buffer("knots", torch.tensor(knots, dtype=torch.float32))
        self.register_buffer("shift", torch.zeros((), dtype=torch.float64))
        self.register_buffer("stretch", torch.ones((), dtype=torch.float64))

    def reset_parameters(self) -> None:
        """Draw them anew, and measure scale and bins anew where rows were seen."""
        super().reset_parameters()
        if self.seen is None:
            return
        shift, stretch, knots = measure_numbers(self.seen.double().cpu().numpy())
        self.shift.fill_(shift)
        self.stretch.fill_(stretch)
        self.knots.copy_(torch.tensor(knots))


class Tokens(nn.Module):
    """Encodes the columns of all kinds.

    Args:
        encodings: how columns become numbers, ordered by kind.

    Attributes:
        columns: the parameters of each column, in the order of the encodings.
    """

    centers: Tensor
    scales: Tensor
    is_clock: Tensor
    offsets: Tensor
    bucket_offsets: Tensor

    def __init__(self, encodings: Sequence[Encoding]) -> None:
        super().__init__()
        self.columns = nn.ModuleList(_make_parameters(each) for each in encodings)
        by_part: dict[Part, list[int]] = {part: [] for part in ("numbers", "moments", "categories", "texts")}
        for place, each in enumerate(encodings):
            by_part[each.part].append(place)
        self._places = by_part
        _, moments, categories, texts = ([encodings[each] for each in places] for places in by_part.values())
        constants: dict[str, Any] = {
            "centers": torch.tensor([each.center for each in moments], dtype=torch.float64),
            "scales": torch.tensor([each.scale for each in moments], dtype=torch.float64),
            "is_clock": torch.tensor([is_time_of_day(each) for each in moments], dtype=torch.bool),
            "offsets": _add_up([len(each.categories) + NUM_UNKNOWN for each in categories]),
            "bucket_offsets": _add_up([each.num_buckets for each in texts]),
        }
        for name, each in constants.items():
            self.register_buffer(name, each, persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the cells of some rows.

        Returns:
            Tokens, shape (rows, columns, `WIDTH`); whether each cell is missing, shape (rows, columns); and keys of
            the values, of that shape, float64, the same for the same value of a column.
        """
        found = [self._encode(part, batch) for part, places in self._places.items() if places]
        contents, missing, keys = (torch.cat([each[place] for each in found], 1) for place in range(3))
        gains, biases, empty = (torch.stack(self._list(name)) for name in ("gain", "bias", "missing"))
        tokens = F.layer_norm(torch.where(missing[..., None], empty, contents), (WIDTH,), eps=EPSILON)
        return tokens * gains + biases, missing, keys

    def _encode(self, part: Part, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        values = batch[part]
        if part in ("numbers", "moments"):
            filled = torch.nan_to_num(values)
            features = self._describe(part, values if part == "numbers" else (values - self.centers) / self.scales)
            if part == "moments":
                features = torch.cat([features, self._describe_phases(filled)], -1)
            return self._project(part, features), torch.isnan(values), filled.double()
        missing = values < 0
        return self._look_up(part, batch, missing), missing, values.double()

    def _project(self, part: Part, features: Tensor) -> Tensor:
        weights = torch.stack(self._list("weight", part))
        return torch.einsum("rcf,cfd->rcd", features, weights)

    def _describe(self, part: Part, values: Tensor) -> Tensor:
        """What numbers are told by, each column by its own scale and bins."""
        knots, shift, stretch = (torch.stack(self._list(name, part)) for name in ("knots", "shift", "stretch"))
        if not self.training:
            self._show(part, values)
        return describe_numbers(torch.nan_to_num((values - shift) / stretch).float(), knots)

    def _show(self, part: Part, values: Tensor) -> None:
        """Let each column see its numbers, by which it would be scaled anew."""
        for column, place in enumerate(self._places[part]):
            parameters = self.columns[place]
            assert isinstance(parameters, NumberParameters)
            parameters.seen = values[:, column].detach().clone()

    def _describe_phases(self, seconds: Tensor) -> Tensor:
        """Sine and cosine of each period; times of a day have those of the day alone."""
        phases = torch.stack([(seconds / period).frac() for period in PERIODS], -1).float() * (2 * pi)
        phases = torch.where(self.is_clock[:, None] & (torch.arange(len(PERIODS), device=phases.device) > 0), 0, phases)
        return torch.cat([phases.sin(), phases.cos()], -1)

    def _look_up(self, part: Part, batch: Batch, missing: Tensor) -> Tensor:
        weights = torch.cat(self._list("weight", part))
        if part == "categories":
            return F.embedding(batch[part].masked_fill(missing, 0) + self.offsets, weights)
        words = batch["words"]
        is_word = words >= 0
        placed = (words.clamp_min(0) + self.bucket_offsets[:, None]).flatten(0, 1)
        shares = is_word / is_word.sum(-1, keepdim=True).clamp_min(1)
        bags: Tensor = F.embedding_bag(
            placed, weights, mode="sum", per_sample_weights=shares.flatten(0, 1).to(weights.dtype)
        )
        unflattened: Tensor = bags.unflatten(0, missing.shape)
        return unflattened

    def _list(self, name: str, part: Part | None = None) -> list[Tensor]:
        """A parameter of each column, or of those of one kind of encoder."""
        places = range(len(self.columns)) if part is None else self._places[part]
        return [getattr(self.columns[place], name) for place in places]


def describe_numbers(values: Tensor, knots: Tensor) -> Tensor:
    """Numbers as what a linear layer can tell them by.

    Args:
        values: shape (rows, columns): less the median, divided by the spread.
        knots: the bounds of the bins of each column; shape (columns, bins + 1).

    Returns:
        Shape (rows, columns, features): the value, cut off; its logarithm with the sign kept; its rank, from -1 to 1;
        and how far it is through each bin, from 0 to 1.
    """
    lower, upper = knots[:, :-1], knots[:, 1:]
    widths = upper - lower
    place = values[..., None]
    through = torch.where(widths > 0, (place - lower) / widths.clamp_min(1e-12), (place >= upper).to(values.dtype))
    bins = through.clamp(0, 1)
    shapes = [
        values.clamp(-CLIPPED, CLIPPED) / 2,
        values.sign() * values.abs().log1p() / 2,
        2 * bins.mean(-1) - 1,
    ]
    return torch.cat([torch.stack(shapes, -1), bins], -1)


def _make_parameters(encoding: Encoding) -> ColumnParameters:
    num_features = NUM_SHAPES + NUM_BINS
    if encoding.part == "numbers":
        return NumberParameters(num_features, encoding.knots)
    if encoding.part == "moments":
        return NumberParameters(num_features + 2 * len(PERIODS), encoding.knots)
    if encoding.part == "texts":
        return ColumnParameters((encoding.num_buckets, WIDTH), is_table=True)
    return ColumnParameters((len(encoding.categories) + NUM_UNKNOWN, WIDTH), is_table=True)


def _add_up(sizes: Sequence[int]) -> Tensor:
    """Where each of several tables begins, once they are one."""
    return torch.tensor([sum(sizes[:place]) for place in range(len(sizes))], dtype=torch.int64)
