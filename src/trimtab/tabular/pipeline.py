"""`trimtab fit DATA.csv`: from a file to a model, its embeddings and a card, unattended."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import InputError
from trimtab.journal import MANIFEST, write_aside
from trimtab.tabular.card import describe_card, write_card
from trimtab.tabular.columns import Table
from trimtab.tabular.embedder import TabularEmbedder
from trimtab.tabular.head import measure_head, read_target, split_rows
from trimtab.tabular.inference import ColumnType, infer_type, infer_types
from trimtab.tabular.leaks import find_leaks
from trimtab.tabular.reading import read_table
from trimtab.tabular.training import Trained, embed_rows, train

EMBEDDINGS, COLUMNS = "embeddings.parquet", "columns.json"
"""The files of the embeddings, and of what a run was begun with."""

CHUNK_ROWS = 50_000
"""Rows that are written at a time."""

logger = logging.getLogger("trimtab")


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What `fit_table` gives."""

    folder: Path
    """Where everything was written."""

    run: Path
    """The run folder in it."""

    embedder: TabularEmbedder
    """The embedder, fitted."""

    trained: Trained
    """How the training went."""

    card: Mapping[str, Any]
    """The card."""


def fit_table(
    source: str | Path,
    out: str | Path,
    *,
    target: str | None = None,
    columns: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    progress: bool | None = None,
    **params: Any,
) -> Fitted:
    """Train an embedding of a table, and write the model, the embeddings of all rows and a card.

    A run that was stopped goes on where it was, if table, columns and settings are what they were; else one is begun
    anew beside it, and the log and the card say why.

    Args:
        source: the table, as `read_table` takes it.
        out: the folder to write into, made if it is not there.
        target: a column that is not shown to the model, and which a head on the embeddings is to tell.
        columns: by the names of columns, what they are to be taken for.
        ignore: names of columns that are left out.
        progress: whether to show a progress bar; None for where standard error is a terminal.
        **params: further parameters of `TabularEmbedder`.

    Raises:
        InputError: if the table cannot be read, there is nothing to learn from, or a setting cannot be.
    """
    table = read_table(source)
    given = dict(columns or {})
    hidden = [*ignore, *([] if target is None else [target])]
    types = infer_types(table, kinds={name: each for name, each in given.items() if name != target}, ignore=hidden)
    aim, rows, held_out = None, None, np.empty(0, np.int64)
    if target is not None:
        told = infer_types(table, kinds=given)[target] if target in given else infer_type(_require(table, target))
        types[target] = ColumnType(target, "dropped", f"the target, which the model is not shown: {told.kind}")
        aim = read_target(table, told)
        rows, held_out = split_rows(aim, table.num_rows, int(params.get("random_state", 0)))
        for name, share in find_leaks(table, types, aim, rows).items():
            if name not in given:
                reason = f"it tells the target alone ({share:.1%} of what guessing gets wrong); --column keeps it"
                types[name] = replace(types[name], kind="dropped", reason=reason)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    embedder = TabularEmbedder(columns=given or None, ignore=list(ignore) or None, progress=progress, **params)
    run, note = choose_run(folder, table, types, embedder)
    trained = train(table, types=types, settings=embedder.settings, run=run, rows=rows, progress=progress)
    embedder.adopt(trained, [each for each in table.names if each not in hidden])
    embedder.save(folder)
    vectors = embed_rows(trained.model, table)
    write_embeddings(folder / EMBEDDINGS, vectors)
    head = None if aim is None or rows is None else measure_head(vectors, aim, rows, held_out)
    card = describe_card(table.source, table.num_rows, trained, read_metrics(run, trained), head)
    card["read"]["notes"] += [note] if note else []
    write_card(folder, card, run)
    return Fitted(folder, run, embedder, trained, card)


def _require(table: Table, name: str) -> Any:
    column = table.find(name)
    if column is None:
        raise InputError(f"{table.source} has no column {name!r}; it has {', '.join(table.names)}")
    return column


def choose_run(
    folder: Path, table: Table, types: Mapping[str, ColumnType], embedder: TabularEmbedder
) -> tuple[Path, str]:
    """The run folder to go on with, or a new one; and why it is new, where there is one already.

    Args:
        folder: where everything is written.
        table: the table.
        types: what its columns are.
        embedder: with the settings.
    """
    told = {
        "columns": {each.name: f"{each.kind} {each.form}".strip() for each in types.values()},
        "rows": table.num_rows,
        "settings": embedder.settings.to_dict(),
    }
    path, note = folder / COLUMNS, ""
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        note = _compare({**before, "settings": before["settings"]}, json.loads(json.dumps(told)))
        if not note:
            return folder / before["run"], ""
        note = f"the run in {str(folder / before['run'])!r} is not gone on with, and one is begun anew: {note}"
        logger.warning("%s", note)
    taken = {each.name for each in folder.glob("run*") if (each / MANIFEST).exists()}
    name = next(each for each in ("run", *(f"run-{number}" for number in range(2, 10_000))) if each not in taken)
    write_aside(path, json.dumps({"run": name, **told}, indent=1, ensure_ascii=False) + "\n")
    return folder / name, note


def _compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In what a run differs from another one; empty if in nothing."""
    old, new = before["columns"], now["columns"]
    gone, come = [each for each in old if each not in new], [each for each in new if each not in old]
    changed = [each for each in new if each in old and old[each] != new[each]]
    parts = [
        f"columns that are gone: {', '.join(gone)}" if gone else "",
        f"columns that are new: {', '.join(come)}" if come else "",
        f"columns that are something else now: {', '.join(changed)}" if changed else "",
        "the columns are in another order" if not gone and not come and list(old) != list(new) else "",
        f"{now['rows']:,} rows in place of {before['rows']:,}" if before["rows"] != now["rows"] else "",
        "the settings are others" if before["settings"] != now["settings"] else "",
    ]
    return "; ".join(filter(None, parts))


def read_metrics(run: Path, trained: Trained) -> dict[str, float]:
    """The numbers of the review whose weights a model has, from the run folder.

    Args:
        run: the run folder.
        trained: how the training went.
    """
    from trimtab.journal import read_run

    restored = trained.result.restored or (trained.result.reviews[-1] if trained.result.reviews else None)
    if restored is None:
        return {}
    found: dict[str, float] = dict(restored.metrics)
    for measured in read_run(run).measurements:
        if measured.clock == "review" and measured.step == restored.step:
            found |= {name: each for name, each in measured.values.items() if isinstance(each, float)}
    return found


def write_embeddings(path: Path, vectors: NDArray[np.float32]) -> None:
    """Write embeddings as Parquet: `row`, counted from 0, and `embedding`, a list of numbers.

    Args:
        path: the file.
        vectors: shape (rows, dimensions).
    """
    import pyarrow as pa
    from pyarrow import parquet

    width = vectors.shape[1]
    schema = pa.schema([("row", pa.int64()), ("embedding", pa.list_(pa.float32(), width))])
    aside = path.with_name(f"{path.name}.new")
    with parquet.ParquetWriter(aside, schema, compression="zstd", use_dictionary=False) as writer:
        for begin in range(0, len(vectors), CHUNK_ROWS):
            part = vectors[begin : begin + CHUNK_ROWS]
            flat = pa.array(np.ascontiguousarray(part).reshape(-1))
            lists = pa.FixedSizeListArray.from_arrays(flat, width)
            writer.write_table(pa.table([pa.array(np.arange(begin, begin + len(part))), lists], schema=schema))
    aside.replace(path)
