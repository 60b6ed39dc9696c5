"""Reading a table: CSV and its like, Parquet, a data frame of pandas or Polars, or an array."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import InputError
from trimtab.tabular.columns import Table, make_column, name_columns

PARQUET = (".parquet", ".pq")
"""Endings of files that are read as Parquet; all others are read as text."""

MOST_DIMENSIONS = 2
"""Dimensions of an array that is a table."""


def read_table(source: Any) -> Table:
    """Read a table.

    Args:
        source: the path of a CSV file (also `.tsv`, `.csv.gz`, `.csv.zip`) or of a Parquet file; or a data frame of
            pandas or Polars, a table of Arrow, a dict of columns, or an array of two dimensions.

    Raises:
        InputError: if it is nothing of the kind, has no column or no row, or pandas or pyarrow is not installed.
    """
    require_packages()
    if isinstance(source, Table):
        return source
    if isinstance(source, (str, Path)):
        return _read_file(Path(source))
    table = _from_frame(_to_frame(source))
    if not table.num_rows:
        raise InputError("the table has no rows; a table has a row for each thing that is to be embedded")
    return table


def require_packages() -> None:
    """See that what tables are read with is installed.

    Raises:
        InputError: if it is not.
    """
    try:
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"tables are read with pandas and pyarrow ({error}); pip install 'trimtab[tabular]'"
        ) from error


def _read_file(path: Path) -> Table:
    from trimtab.tabular.delimited import read_delimited

    shown = repr(str(path))
    if not path.is_file():
        raise InputError(f"there is no file {shown}; pass the path of a CSV or a Parquet file")
    if path.suffix.lower() in PARQUET:
        from pyarrow import ArrowInvalid, parquet

        try:
            table = _from_frame(parquet.read_table(path).to_pandas(), shown)
        except (ArrowInvalid, OSError) as error:
            raise InputError(f"{shown} cannot be read as Parquet: {' '.join(str(error).split())}") from error
        if not table.num_rows:
            raise InputError(f"{shown} has no rows; a table has a row for each thing that is to be embedded")
        return table
    return read_delimited(_unpack(path, shown), shown)


def _unpack(path: Path, shown: str) -> bytes:
    data = path.read_bytes()
    try:
        if data.startswith(b"\x1f\x8b"):
            return gzip.decompress(data)
        if data.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                names = [each for each in packed.namelist() if not each.startswith(("__MACOSX", "."))]
                if len(names) != 1:
                    raise InputError(f"{shown} holds {len(names)} files; pack the one table, or unpack it")
                return packed.read(names[0])
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{shown} cannot be unpacked: {error}") from error
    return data


def _to_frame(source: Any) -> Any:
    """A data frame of pandas of whatever is a table.

    Raises:
        InputError: if it is none.
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        return source
    if hasattr(source, "to_pandas"):  # Polars and Arrow
        return source.to_pandas()
    if isinstance(source, dict):
        try:
            return pd.DataFrame(source)
        except ValueError as error:
            raise InputError(f"the table is a dict of columns that do not go together: {error}") from error
    array = np.asarray(source)
    if array.ndim != MOST_DIMENSIONS:
        raise InputError(
            f"the table is a {type(source).__name__!r} of {array.ndim} dimensions; it has to be the path of a CSV or "
            "Parquet file, a data frame of pandas or Polars, or an array of two dimensions"
        )
    return pd.DataFrame(array, columns=[f"x{index}" for index in range(array.shape[1])])


def _from_frame(frame: Any, source: str = "the table") -> Table:
    names = name_columns(list(frame.columns))
    if not names:
        raise InputError(f"{source} has no columns; a table has at least one")
    columns = tuple(make_column(name, frame.iloc[:, place]) for place, name in enumerate(names))
    given = [str(each) for each in frame.columns]
    notes = (
        () if names == given else ("some columns had no name, or that of another one: they are named by their place",)
    )
    return Table(columns, source, notes)
