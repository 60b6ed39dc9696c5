"""What a model of a table is trained for: to tell rows and cells from parts of the row, and to stay alive."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.losses import compute_coverage, compute_diversity, compute_spread, normalize_rows
from trimtab.tabular.batches import Batch
from trimtab.tabular.network import Cells, Places, TableModel

WEIGHTS: Mapping[str, float] = {
    "joint": 1.0,
    "marginal": 1.0,
    "spread": 0.25,
    "diversity": 0.1,
    "coverage": 0.5,
    "temperature": 0.1,
    "diversity_temperature": 0.1,
}
"""The knobs of the loss as a training begins."""

FINAL: Mapping[str, float] = {"marginal": 0.0, "diversity": 0.0, "coverage": 0.0}
"""Where knobs go in a finalization: what is left are the joint loss and the spread."""

HIDDEN = 0.3
"""The share of cells that a view lacks."""

NUM_COLUMNS = 32
"""Columns whose cells are guessed at in a step, drawn anew in each where there are more: the cost stays bounded."""

NUM_TOLD = 64
"""Rows of a batch of which the tokens of a column have to differ."""

EVALUATION_SEED = 5
"""In eval mode the same cells are hidden every time, so that one validation can be compared with the next."""


class TableLoss:
    """The loss of a batch of rows, by its parts.

    `joint`: of two views of each row, with other cells hidden in each, one is found among those of the batch by the
    other (InfoNCE, van den Oord et al., arXiv 1807.03748, both ways as in CLIP); rows that are the same are no rivals.
    `marginal`: each hidden cell is recognized among the distinct values of its column in the batch, in units of
    guessing. `spread`, `diversity` and `coverage`: see `trimtab.losses`.

    Args:
        weights: the knobs; `WEIGHTS` if None. A dict is read at every step, and moved by the guard of representations.
        by_row: give the joint loss of each row, as a `RowTracker` needs it.

    Attributes:
        weights: the same. In eval mode those of the beginning count, so that one validation can be compared with the
            next.
        final_weights: where some of them go in a finalization.
        columns: the parts of a model that encode a column, for the guard of representations.
    """

    def __init__(self, weights: Mapping[str, float] | None = None, *, by_row: bool = False) -> None:
        self.weights: Mapping[str, float] = dict(WEIGHTS) if weights is None else weights
        self.final_weights: Mapping[str, float] = FINAL
        self.columns: Mapping[str, nn.Module] = {}
        self._first = dict(self.weights)
        self._by_row = by_row

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss, whose sum it is."""
        if not isinstance(model, TableModel):
            raise TypeError(f"the model is a {type(model).__name__}; it has to be a TableModel")
        device = batch["row_keys"].device
        generator = None if model.training else torch.Generator().manual_seed(EVALUATION_SEED)
        with _autocast(device):
            cells = model.encode(batch)
            hidden = [draw_hidden(cells.missing.shape, generator).to(device) for _ in range(2)]
            views = [model.embed(cells, each) for each in hidden]
            return self._list_parts(model, cells, batch, hidden, views, generator)

    def _list_parts(
        self,
        model: TableModel,
        cells: Cells,
        batch: Batch,
        hidden: list[Tensor],
        views: list[Tensor],
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        knobs = self.weights if model.training else self._first
        joint = contrast(*views, keys=batch["row_keys"], temperature=knobs["temperature"])
        columns = choose_columns(len(model.names), generator)
        told = slice(0, NUM_TOLD)
        tokens, keys = cells.tokens[told, columns], cells.keys[told, columns]
        parts = {
            "joint": joint if self._by_row else joint.mean(),
            "marginal": guess_cells(model, cells, views[0], hidden[0], columns, knobs["temperature"]),
            "spread": compute_spread(views[0]),
            "diversity": compute_diversity(
                tokens.float(),
                keys.masked_fill(cells.missing[told, columns], -torch.inf),
                temperature=knobs["diversity_temperature"],
            ),
            "coverage": compute_coverage(views[0], generator=_on(joint.device, generator)),
        }
        return {name: knobs[name] * each for name, each in parts.items()}


def draw_hidden(shape: torch.Size, generator: torch.Generator | None = None, share: float = HIDDEN) -> Tensor:
    """Which cells a view lacks: a share of them, and of no row all.

    Args:
        shape: (rows, columns).
        generator: what draws; PyTorch's own if None.
        share: the share of cells.
    """
    drawn = torch.rand(shape, generator=generator)
    return (drawn < share) & (drawn < drawn.amax(1, keepdim=True))


def contrast(first: Tensor, second: Tensor, *, keys: Tensor, temperature: float) -> Tensor:
    """The symmetric InfoNCE of pairs of views, for each row; shape (rows,).

    Args:
        first: embeddings of one view; shape (rows, dimensions), each of length 1.
        second: those of the other.
        keys: the same number for rows that are the same, which are no rivals; shape (rows,).
        temperature: what similarities are divided by.
    """
    logits = first.float() @ second.float().mT / temperature
    places = torch.arange(len(keys), device=keys.device)
    is_double = (keys[:, None] == keys[None, :]) & (places[:, None] != places[None, :])
    logits = logits.masked_fill(is_double, -torch.inf)
    both = (F.cross_entropy(each, places, reduction="none") for each in (logits, logits.mT))
    return sum(both, torch.zeros_like(logits[0])) / 2


def guess_cells(
    model: TableModel, cells: Cells, embeddings: Tensor, hidden: Tensor, columns: Places, temperature: float
) -> Tensor:
    """How hard it is to recognize hidden cells among the distinct values of their column: 1 for guessing; 0-d.

    Of each column as many hidden cells are asked for as are hidden on average.

    Args:
        model: the model.
        cells: the encoded cells.
        embeddings: of the view in which they are hidden; shape (rows, dimensions).
        hidden: the cells that are; shape (rows, columns).
        columns: the places of the columns that are looked at.
        temperature: what similarities are divided by.
    """
    missing = cells.missing[:, columns].mT
    keys = cells.keys[:, columns].mT.masked_fill(missing, torch.nan)  # which is the same as nothing, itself included
    firsts = (keys[:, :, None] == keys[:, None, :]).to(torch.uint8).argmax(2)  # the first row of the same value
    is_rival = (firsts == torch.arange(keys.shape[1], device=keys.device)) & ~missing
    num_rivals = is_rival.sum(1)
    is_open = hidden[:, columns].mT & ~missing & (num_rivals > 1)[:, None]
    num_asked = max(int(HIDDEN * keys.shape[1]), 1)
    is_asked, rows = is_open.to(torch.uint8).topk(num_asked, dim=1)  # shape (columns, cells), as all that follows
    guesses = normalize_rows(model.recognize(embeddings[rows], columns))
    tokens = normalize_rows(cells.tokens[:, columns]).transpose(0, 1)
    logits = (guesses @ tokens.mT / temperature).masked_fill(~is_rival[:, None, :], -torch.inf)
    safe = torch.where(is_asked[..., None] > 0, logits, 0.0)
    losses = F.cross_entropy(safe.flatten(0, 1), firsts.gather(1, rows).flatten(), reduction="none")
    units = num_rivals.clamp_min(2).log().to(losses.dtype)
    weighted = losses.unflatten(0, rows.shape) * is_asked / units[:, None]
    mean: Tensor = weighted.sum() / is_asked.sum().clamp_min(1)
    return mean


def choose_columns(num_columns: int, generator: torch.Generator | None = None) -> Places:
    """The places of the columns that are looked at in a step; all of them where there are not many."""
    if num_columns <= NUM_COLUMNS:
        return slice(None)
    return torch.randperm(num_columns, generator=generator)[:NUM_COLUMNS].sort().values


def _on(device: torch.device, generator: torch.Generator | None) -> torch.Generator | None:
    """A generator like another one on a device."""
    return None if generator is None else torch.Generator(device).manual_seed(EVALUATION_SEED)


def _autocast(device: torch.device) -> Any:
    """bfloat16 where the hardware is fast with it: what has no tensor cores computes it no faster."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()
