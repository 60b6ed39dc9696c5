"""The model of a table: tokens of cells, a joint encoder over them, and embeddings of length 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from trimtab.errors import InputError
from trimtab.losses import normalize_rows
from trimtab.tabular.batches import Batch
from trimtab.tabular.encoders import WIDTH, Tokens
from trimtab.tabular.preparing import Encoding

Joint = Literal["mlp", "transformer"]
"""What looks at the tokens of a row together: two layers over all of them side by side, or attention among them."""

NUM_HEADS, NUM_LAYERS = 4, 2
"""Of the transformer."""


Places: TypeAlias = Tensor | slice
"""The places of some columns."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a model."""

    joint: Joint = "mlp"
    """What looks at the tokens of a row together."""

    hidden: int = 256
    """Units of a hidden layer."""

    dimensions: int = 256
    """Numbers of an embedding."""

    def validate(self) -> None:
        """See that it can be built.

        Raises:
            InputError: if it cannot.
        """
        if self.joint not in ("mlp", "transformer"):
            raise InputError(f"tabular: joint is {self.joint!r}; it has to be 'mlp' or 'transformer'")
        for name in ("hidden", "dimensions"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 2:
                raise InputError(f"tabular: {name} is {value!r}; it has to be a whole number above 1")

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The cells of some rows, encoded."""

    tokens: Tensor
    """Shape (rows, columns, `WIDTH`)."""

    missing: Tensor
    """Whether each is missing; shape (rows, columns)."""

    keys: Tensor
    """The same number for the same value of a column, float64; shape (rows, columns)."""


class TableModel(nn.Module):
    """Embeds the rows of a table.

    Args:
        encodings: how its columns become numbers, as `trimtab.tabular.preparing.prepare` gives them.
        shape: the shape of the model.

    Attributes:
        encodings: the same.
        shape: the same.
        tokens: the encoders of the columns.
        names: the columns, in the order of the tokens.
    """

    def __init__(self, encodings: Sequence[Encoding], shape: Shape | None = None) -> None:
        super().__init__()
        self.shape = Shape() if shape is None else shape
        self.shape.validate()
        self.encodings = tuple(encodings)
        self.names = tuple(each.name for each in encodings)
        self.tokens = Tokens(encodings)
        self.places = nn.Parameter(torch.randn(len(self.names), WIDTH))
        self.mask = nn.Parameter(torch.randn(WIDTH))
        build = MLP if self.shape.joint == "mlp" else Transformer
        self.joint = build(len(self.names), self.shape.hidden, self.shape.dimensions)
        self.decoder = nn.Parameter(torch.randn(len(self.names), self.shape.dimensions, WIDTH) / WIDTH**0.5)

    def forward(self, batch: Batch) -> Tensor:
        """The embeddings of rows of which everything is shown; shape (rows, dimensions), each of length 1."""
        return self.embed(self.encode(batch))

    def encode(self, batch: Batch) -> Cells:
        """Encode the cells of rows."""
        return Cells(*self.tokens(batch))

    def embed(self, cells: Cells, hidden: Tensor | None = None) -> Tensor:
        """The embeddings of rows of which some cells are hidden.

        Args:
            cells: the encoded cells.
            hidden: the cells that are; shape (rows, columns). None for none.

        Returns:
            Shape (rows, dimensions), each of length 1.
        """
        shown = cells.tokens if hidden is None else torch.where(hidden[..., None], self.mask, cells.tokens)
        return normalize_rows(self.joint(shown + self.places))

    def recognize(self, embeddings: Tensor, columns: Places) -> Tensor:
        """What embeddings say of a cell of a column, to be compared with its tokens.

        Args:
            embeddings: shape (columns, rows, dimensions).
            columns: the places of the columns.

        Returns:
            Shape (columns, rows, `WIDTH`).
        """
        return embeddings @ self.decoder[columns]

    def list_groups(self) -> dict[str, list[str]]:
        """The groups of parameters that are measured one by one: each column under its name, and the rest."""
        groups = {self._free_name(name): [f"tokens.columns.{place}"] for place, name in enumerate(self.names)}
        return {**groups, "(joint)": ["joint", "places", "mask"], "(decoder)": ["decoder"]}

    def list_columns(self) -> dict[str, nn.Module]:
        """The encoder of each column, by its name."""
        return dict(zip(self.names, self.tokens.columns, strict=True))

    @staticmethod
    def _free_name(name: str) -> str:
        return f"{name} (column)" if name in ("(joint)", "(decoder)") else name


class MLP(nn.Module):
    """Two hidden layers over the tokens side by side, the second beside a bypass.

    Args:
        num_columns: tokens of a row.
        hidden: units of a hidden layer.
        dimensions: numbers of an embedding.
    """

    def __init__(self, num_columns: int, hidden: int, dimensions: int) -> None:
        super().__init__()
        self.first = nn.Linear(num_columns * WIDTH, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.second = nn.Linear(hidden, hidden)
        self.final_norm = nn.LayerNorm(hidden)
        self.projection = nn.Linear(hidden, dimensions)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of rows to vectors: shape (rows, columns, width) to (rows, dimensions)."""
        state = nn.functional.gelu(self.norm(self.first(tokens.flatten(1))))
        state = state + nn.functional.gelu(self.second(state))
        out: Tensor = self.projection(self.final_norm(state))
        return out


class Transformer(nn.Module):
    """Two pre-norm layers of attention among the tokens, whose mean is projected.

    Args:
        num_columns: tokens of a row.
        hidden: units of the layers between.
        dimensions: numbers of an embedding.
    """

    def __init__(self, num_columns: int, hidden: int, dimensions: int) -> None:  # noqa: ARG002  # as of the MLP
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, NUM_HEADS, hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, NUM_LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.projection = nn.Linear(WIDTH, dimensions)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of rows to vectors: shape (rows, columns, width) to (rows, dimensions)."""
        out: Tensor = self.projection(self.norm(self.layers(tokens).mean(1)))
        return out
