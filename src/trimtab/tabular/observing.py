"""What is shown to the guard of representations: a fixed sample of rows, whole, in parts, and column by column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.probes.embeddings import Column
from trimtab.tabular.batches import Batch, Rows
from trimtab.tabular.network import TableModel
from trimtab.tabular.objective import EVALUATION_SEED, draw_hidden

NUM_SAMPLE = 512
"""Rows of the sample."""

NUM_WATCHED = 256
"""Columns whose tokens are measured one by one, the first of them."""

VIEW_KINDS = {
    "scalar": "scalar",
    "timestamp": "timestamp",
    "categorical": "category",
    "boolean": "category",
    "text": "text",
}
"""By the kind of a column, the view that shows it: a category and a boolean are one."""


class Observer:
    """Gives what a model makes of a fixed sample, for `fit(embed=…)`.

    Args:
        rows: the rows that are held out.
    """

    def __init__(self, rows: Rows) -> None:
        self.sample: Batch = rows.__getitems__(list(range(min(len(rows), NUM_SAMPLE))))

    def __call__(self, model: nn.Module) -> Mapping[str, Any]:
        """Embeddings of whole rows and of views of them, and the tokens of each column.

        In the joint view some cells are hidden, in that of a kind of column all others are.
        """
        if not isinstance(model, TableModel):
            raise TypeError(f"the model is a {type(model).__name__}; it has to be a TableModel")
        device = model.mask.device
        cells = model.encode({name: each.to(device) for name, each in self.sample.items()})
        kinds = [VIEW_KINDS[each.kind] for each in model.encodings]
        hidden = draw_hidden(cells.missing.shape, torch.Generator().manual_seed(EVALUATION_SEED)).to(device)
        views = {"joint": model.embed(cells, hidden)}
        if len(set(kinds)) > 1:
            views |= {
                kind: model.embed(cells, _hide_all_but(kind, kinds, cells.missing)) for kind in sorted(set(kinds))
            }
        keys = cells.keys.masked_fill(cells.missing, torch.nan)
        columns = {
            name: Column(keys[:, place], cells.tokens[:, place], kinds[place])
            for place, name in enumerate(model.names[:NUM_WATCHED])
        }
        return {"embeddings": model.embed(cells), "views": views, "columns": columns}


def _hide_all_but(kind: str, kinds: list[str], missing: Tensor) -> Tensor:
    hidden = torch.tensor([each != kind for each in kinds], device=missing.device)
    return hidden.expand(missing.shape)
