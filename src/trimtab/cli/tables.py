"""The commands for tables: a CSV file in, an embedding model out; rows to embeddings; the nearest rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.doors import AsJson, console, say_errors, split_pair

if TYPE_CHECKING:
    from rich.table import Table

DATA = typer.Argument(metavar="DATA", help="A CSV or Parquet file; a packed one will do.")
RUN = typer.Argument(metavar="RUN", help="A folder that `trimtab fit` has written.")


def fit(
    data: Annotated[Path, DATA],
    target: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="A column that the embedding is not shown, to be told by it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; runs/NAME if left out.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=KIND", help="What a column is, where it is not told right; several times."),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A column to leave out; several times.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs; about 3,000 steps if left out.", min=1)] = None,
    dimensions: Annotated[int, typer.Option(help="Numbers of an embedding.", min=2)] = 256,
    joint: Annotated[str, typer.Option(help="mlp or transformer.")] = "mlp",
    seed: Annotated[int, typer.Option(help="The seed of weights, order and hidden cells.")] = 0,
    dry: Annotated[bool, typer.Option("--dry", help="Only say what each column would be taken for.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train an embedding of a table, unattended: the model, the embeddings of its rows, and a card of the run.

    Called again, a run that was stopped goes on where it was.
    """
    with say_errors():
        kinds = dict(split_pair("--column", each) for each in column or [])
        if dry:
            _say_columns(data, kinds, ignore or [], as_json=as_json)
            return
        from trimtab.tabular.pipeline import fit_table

        folder = Path("runs") / data.name.split(".")[0] if out is None else out
        fitted = fit_table(
            data,
            folder,
            target=target,
            columns=kinds,
            ignore=ignore or [],
            epochs=epochs,
            dimensions=dimensions,
            joint=joint,
            random_state=seed,
            progress=None,
        )
    if as_json:
        print(json.dumps(fitted.card))
    else:
        _say_card(fitted.card, fitted.folder)
    if not fitted.trained.result.is_complete:
        raise typer.Exit(1)


def embed(
    run: Annotated[Path, RUN],
    data: Annotated[Path, DATA],
    out: Annotated[Path, typer.Option("--out", "-o", help="The Parquet file to write.")],
) -> None:
    """Turn the rows of a table into embeddings, with a model that `trimtab fit` has trained.

    Columns that the table lacks count as missing, and it says so.
    """
    from trimtab.errors import InputError

    with say_errors():
        from trimtab.tabular.embedder import TabularEmbedder
        from trimtab.tabular.pipeline import write_embeddings
        from trimtab.tabular.reading import read_table
        from trimtab.tabular.training import list_missing

        embedder = TabularEmbedder.load(run)
        table = read_table(data)
        if not out.parent.is_dir():
            raise InputError(f"embed: there is no folder {str(out.parent)!r}; make it first")
        write_embeddings(out, embedder.transform_partial(table))
    missing = list_missing(embedder.model_, table.names)
    lacks = f"; it lacks {', '.join(missing)}, which count as missing" if missing else ""
    console.print(f"{table.num_rows:,} rows: {out}{lacks}", soft_wrap=True, markup=False, highlight=False)


def nearest(
    run: Annotated[Path, RUN],
    data: Annotated[Path, DATA],
    row: Annotated[int, typer.Option(help="The row to find the nearest of, counted from 0.", min=0)] = 0,
    num: Annotated[int, typer.Option(help="How many rows to find.", min=1)] = 5,
    as_json: AsJson = False,
) -> None:
    """Find the rows of a table that are nearest to one of them."""
    from trimtab.errors import InputError

    with say_errors():
        import numpy as np

        from trimtab.tabular.embedder import TabularEmbedder
        from trimtab.tabular.reading import read_table
        from trimtab.tabular.searching import find_nearest

        embedder = TabularEmbedder.load(run)
        table = read_table(data)
        if row >= table.num_rows:
            raise InputError(f"nearest: there is no row {row}; {table.source} has {table.num_rows:,}, counted from 0")
        vectors = embedder.transform_partial(table)
        found, cosines = find_nearest(vectors, vectors[[row]], num, own=np.array([row]))
        held = table.take(np.array([row, *found[0]]))
        texts = {each.name: each.list_texts() for each in held.columns}
    rows = [
        {"row": int(number), "cosine": round(float(cosine), 4), **{name: each[place] for name, each in texts.items()}}
        for place, (number, cosine) in enumerate(zip([row, *found[0]], [1.0, *cosines[0]], strict=True))
    ]
    if as_json:
        print(json.dumps(rows))
    else:
        console.print(_build_table(rows))


def _say_columns(data: Path, kinds: dict[str, str], ignore: list[str], *, as_json: bool) -> None:
    from trimtab.tabular.inference import infer_types
    from trimtab.tabular.reading import read_table

    table = read_table(data)
    types = [each.to_dict() for each in infer_types(table, kinds=kinds, ignore=ignore).values()]
    if as_json:
        print(json.dumps({"notes": list(table.notes), "columns": types}))
        return
    for note in table.notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    shown = [{"column": each["name"], "kind": each["kind"], "why": each["reason"]} for each in types]
    console.print(_build_table(shown))


def _say_card(card: dict[str, Any] | Any, folder: Path) -> None:
    """What was read, learned and written, in a few lines."""
    counts: dict[str, int] = {}
    for each in card["columns"]:
        counts[each["kind"]] = counts.get(each["kind"], 0) + 1
    learned, quality, target = card["learned"], card["quality"], card["target"] or {}
    lines = [
        f"{card['read']['source']}: {card['read']['rows']:,} rows; columns: "
        + ", ".join(f"{num} {kind}" for kind, num in counts.items()),
        *card["read"]["notes"],
        f"{learned['status']} after {learned['steps']:,} steps and {learned['epochs']} epochs: {learned['reason']}",
        *card["changed"],
        "quality: " + ", ".join(f"{name} {value:.4g}" for name, value in quality.items()),
    ]
    if target:
        told = ", ".join(f"{name} {each:.4g}" for name, each in target.items() if isinstance(each, float))
        lines.append(f"target {target['target']}: {told}")
    for each in [*lines, f"Look at it: {folder / 'card.html'}"]:
        console.print(each, soft_wrap=True, markup=False, highlight=False)


def _build_table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for name in rows[0]:
        table.add_column(Text(name))
    for each in rows:
        table.add_row(*(Text("" if value is None else str(value)[:60]) for value in each.values()))
    return table
