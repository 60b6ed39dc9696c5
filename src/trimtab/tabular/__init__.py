"""A table in, an embedding model and a full record out; built on the rooms above alone.

    from trimtab.tabular import TabularEmbedder

    vectors = TabularEmbedder().fit_transform("data.csv")

It needs `pip install 'trimtab[tabular]'`: pandas, pyarrow and scikit-learn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.tabular.embedder import TabularEmbedder
    from trimtab.tabular.inference import infer_types
    from trimtab.tabular.pipeline import fit_table
    from trimtab.tabular.reading import read_table
    from trimtab.tabular.searching import find_nearest

__all__ = ["TabularEmbedder", "find_nearest", "fit_table", "infer_types", "read_table"]

_LAZY = {
    "TabularEmbedder": "trimtab.tabular.embedder",
    "find_nearest": "trimtab.tabular.searching",
    "fit_table": "trimtab.tabular.pipeline",
    "infer_types": "trimtab.tabular.inference",
    "read_table": "trimtab.tabular.reading",
}
"""What needs torch or scikit-learn is imported when it is first asked for."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'trimtab.tabular' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
