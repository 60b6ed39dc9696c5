"""`TabularEmbedder`: the rows of a table as vectors, with the manners of scikit-learn."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import InputError
from trimtab.tabular.inference import shorten
from trimtab.tabular.reading import read_table

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as missing:
    raise InputError(f"the embedder needs scikit-learn ({missing}); pip install 'trimtab[tabular]'") from missing

if TYPE_CHECKING:
    from typing import Self

    from trimtab.tabular.inference import ColumnType
    from trimtab.tabular.network import Joint, TableModel
    from trimtab.tabular.training import Settings, Trained

FORMAT = 1
"""The version of what `save` writes."""

WEIGHTS, DESCRIPTION = "model.safetensors", "embedder.json"
"""The files of a saved embedder."""


class TabularEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Learns vectors of the rows of any table, without labels: rows that are alike lie close together.

        embedder = TabularEmbedder().fit("data.csv")
        vectors = embedder.transform("data.csv")       # shape (rows, dimensions), each of length 1

    Tables are whatever `trimtab.tabular.reading.read_table` reads. What columns are is inferred, see `types_`; values
    may be missing, and of columns that are missing altogether see `transform_partial`. It is trained by `trimtab.fit`,
    under a supervisor and a guard of representations.

    Args:
        dimensions: numbers of a vector.
        hidden: units of a hidden layer.
        joint: `mlp`, or `transformer`, which is slower and looks at pairs of columns.
        epochs: epochs; None for as many as make about 3,000 steps, within 4 to 60.
        batch_size: rows of a batch.
        learning_rate: of AdamW, at its highest.
        columns: by the names of columns, what they are to be taken for, such as `{"zip_code": "categorical"}`.
        ignore: names of columns that are left out.
        patience: validations without an improvement after which the run has stalled.
        random_state: a whole number; the same one gives the same vectors on the same machine.
        run: the run folder, in which the training goes on where it was stopped; None for none.
        progress: whether to show a progress bar; None for where standard error is a terminal.

    Attributes:
        model_: the model, a `torch.nn.Module`.
        types_: by the name of each column what it was taken for, with the reason.
        trained_: how the training went; None of an embedder that was loaded.
        n_features_in_, feature_names_in_: as in scikit-learn.
    """

    def __init__(
        self,
        *,
        dimensions: int = 256,
        hidden: int = 256,
        joint: Joint = "mlp",
        epochs: int | None = None,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        columns: Mapping[str, str] | None = None,
        ignore: Sequence[str] | None = None,
        patience: int = 10,
        random_state: int = 0,
        run: str | Path | None = None,
        progress: bool | None = False,
    ) -> None:
        self.dimensions = dimensions
        self.hidden = hidden
        self.joint = joint
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.columns = columns
        self.ignore = ignore
        self.patience = patience
        self.random_state = random_state
        self.run = run
        self.progress = progress

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002, N803  # as in scikit-learn
        """Learn from a table.

        Args:
            X: the table.
            y: not looked at.

        Raises:
            InputError: if there is nothing to learn from, or a setting cannot be.
        """
        from trimtab.tabular.inference import infer_types
        from trimtab.tabular.training import train

        table = read_table(self._check(X, reset=True))
        types = infer_types(table, kinds=self.columns, ignore=self.ignore or ())
        trained = train(table, types=types, settings=self.settings, run=self.run, progress=self.progress)
        return self._finish(trained.model, trained.types, trained)

    @property
    def settings(self) -> Settings:
        """How it is trained."""
        from trimtab.tabular.network import Shape
        from trimtab.tabular.training import Settings

        return Settings(
            shape=Shape(self.joint, self.hidden, self.dimensions),
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            patience=self.patience,
            seed=self.random_state,
        )

    def transform(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """The vectors of the rows of a table; shape (rows, dimensions), each of length 1.

        Args:
            X: a table with the columns that it was fitted on.

        Raises:
            InputError: if it has others.
        """
        check_is_fitted(self)
        return self._embed(self._check(X, reset=False))

    def transform_partial(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """The vectors of rows of which some columns are not known at all; what is not there is missing.

        Args:
            X: a table with some of the columns that it was fitted on, by name; others are not looked at.

        Raises:
            InputError: if it has none of them.
        """
        check_is_fitted(self)
        table = read_table(X)
        if not set(table.names) & set(self.model_.names):
            raise InputError(f"{table.source} has none of the columns learned, which are {shorten(self.model_.names)}")
        return self._embed(table)

    def adopt(self, trained: Trained, names: Sequence[str]) -> Self:
        """Take over what `trimtab.tabular.training.train` gave, as if it had been fitted here.

        Args:
            trained: how the training went.
            names: the columns that a table to be transformed has.
        """
        self.n_features_in_ = len(names)
        self.feature_names_in_ = np.array(list(names), dtype=object)
        return self._finish(trained.model, trained.types, trained)

    def save(self, folder: str | Path) -> Path:
        """Write it into a folder: `model.safetensors` and `embedder.json`; nothing in them is code.

        Args:
            folder: the folder, made if it is not there.

        Returns:
            The folder.
        """
        from trimtab.control.weights import write_weights
        from trimtab.journal import write_aside

        check_is_fitted(self)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(self.model_, folder / WEIGHTS)
        told = {
            "format": FORMAT,
            "params": {name: str(each) if isinstance(each, Path) else each for name, each in self.get_params().items()},
            "encodings": [each.to_dict() for each in self.model_.encodings],
            "shape": self.model_.shape.to_dict(),
            "types": [each.to_dict() for each in self.types_.values()],
            "num_features": self.n_features_in_,
            "names": [str(each) for each in getattr(self, "feature_names_in_", ())],
        }
        write_aside(folder / DESCRIPTION, json.dumps(told, indent=1, ensure_ascii=False, default=list) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Args:
            folder: the folder.

        Raises:
            InputError: if there is no embedder in it, or one that cannot be read.
        """
        from trimtab.tabular.inference import ColumnType
        from trimtab.tabular.network import Shape, TableModel
        from trimtab.tabular.preparing import Encoding

        folder = Path(folder)
        told, weights = _read(folder)
        embedder = cls(**told["params"])
        model = TableModel([Encoding.from_dict(each) for each in told["encodings"]], Shape(**told["shape"]))
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"{str(folder)!r}: the weights are of another model: {error}") from error
        embedder.n_features_in_ = told["num_features"]
        if told["names"]:
            embedder.feature_names_in_ = np.array(told["names"], dtype=object)
        types = [ColumnType(**each) for each in told["types"]]
        return embedder._finish(model, {each.name: each for each in types}, None)

    def _check(self, X: Any, *, reset: bool) -> Any:  # noqa: N803
        """A table of which scikit-learn has checked the columns, by their names where they have any."""
        if isinstance(X, (str, Path)) or not (hasattr(X, "shape") or hasattr(X, "__array__")):
            table = read_table(X)
            validate_data(self, _name_alone(table.names), reset=reset, skip_check_array=True)
            return table
        if hasattr(X, "columns"):
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X
        return validate_data(self, X, reset=reset, dtype=None, ensure_all_finite=False)

    def _embed(self, source: Any) -> NDArray[np.float32]:
        from trimtab.tabular.training import embed_rows

        return embed_rows(self.model_, read_table(source))

    def _finish(self, model: TableModel, types: Mapping[str, ColumnType], trained: Trained | None) -> Self:
        model.eval()
        self.model_, self.types_, self.trained_ = model, dict(types), trained
        self._n_features_out = model.shape.dimensions
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _name_alone(names: Sequence[str]) -> Any:
    """A data frame that has names and no rows."""
    import pandas as pd

    return pd.DataFrame(columns=list(names))


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The description and the weights of a saved embedder.

    Raises:
        InputError: if there are none that can be read.
    """
    from trimtab.state.tensors import read_tensors

    if not (folder / DESCRIPTION).is_file():
        raise InputError(
            f"{str(folder)!r} holds no embedder: it has no {DESCRIPTION}; name a folder that fit has written"
        )
    try:
        told = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        path = folder / WEIGHTS
        with path.open("rb") as file:
            weights = read_tensors(file, path.stat().st_size)
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise InputError(f"{str(folder)!r}: the embedder cannot be read: {error}") from error
    if told.get("format") != FORMAT:
        raise InputError(f"{str(folder)!r} is of format {told.get('format')!r}, and {FORMAT} can be read")
    return told, weights
