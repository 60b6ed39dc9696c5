"""The table of all rows, `rows.parquet`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import InputError
from trimtab.journal.rows import ROWS

CHUNK = 2**18
"""Rows handled at a time: what is held beside the tracker's own arrays stays at a few megabytes."""


def list_chunks(num_rows: int) -> Iterator[slice]:
    """All rows, `CHUNK` at a time."""
    for start in range(0, num_rows, CHUNK):
        yield slice(start, min(start + CHUNK, num_rows))


def write_table(
    folder: Path, num_rows: int, columns: Callable[[slice], Mapping[str, NDArray[Any]]], metadata: Mapping[str, str]
) -> Path:
    """Write `rows.parquet` into a folder such that it is there whole or not at all.

    Args:
        folder: the folder; it is made if it is not there.
        num_rows: how many rows there are.
        columns: gives the columns of some rows, by name.
        metadata: noted in the file, beside the columns.

    Raises:
        InputError: if pyarrow is not installed.
    """
    arrow, parquet = _import_arrow()
    folder.mkdir(parents=True, exist_ok=True)
    path, aside = folder / ROWS, folder / f"{ROWS}.new"
    schema = _make_table(arrow, columns(slice(0, 0))).schema.with_metadata(dict(metadata))
    with parquet.ParquetWriter(aside, schema, compression="zstd") as writer:
        for part in list_chunks(num_rows):
            writer.write_table(_make_table(arrow, columns(part)).cast(schema))
    aside.replace(path)
    return path


def _make_table(arrow: Any, columns: Mapping[str, NDArray[Any]]) -> Any:
    """A table in which a NaN is a missing value."""
    held = {
        name: arrow.array(each, from_pandas=np.issubdtype(each.dtype, np.floating)) for name, each in columns.items()
    }
    return arrow.table(held)


def _import_arrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{ROWS} needs pyarrow, which is not installed; pip install 'trimtab[rows]'") from error
    return pyarrow, pyarrow.parquet
