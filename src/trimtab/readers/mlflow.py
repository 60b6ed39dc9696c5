"""MLflow: a run in a local store, or an export of its metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from trimtab.errors import InputError
from trimtab.readers import Log, reader
from trimtab.readers.building import build_log
from trimtab.readers.cells import parse_number
from trimtab.readers.delimited import find_delimiter, is_delimited, parse_delimited
from trimtab.readers.gathering import Entry
from trimtab.readers.objects import is_lines, is_object, parse_lines, parse_object
from trimtab.readers.sources import list_some, note_unreadable, read_head, read_source

METRICS, PARAMS = "metrics", "params"

SQLITE = b"SQLite format 3\0"
"""What a database of SQLite begins with."""

STEP_KEY = "global_step"
"""The column that the steps are given."""

PARAM_OF = {"learning_rate": "learning_rate", "lr": "learning_rate", "precision": "dtype", "torch_dtype": "dtype"}
"""Parameters that say what is worth knowing of a run."""

REGIMES = {"fp16": "float16", "bf16": "bfloat16"}
"""Parameters that are true where the run was in this dtype."""

Point: TypeAlias = tuple[float, float, str, Any]
"""A number in the store: time, step, name, number."""

KEYS = re.compile(r'"(key|value|step)"')


def is_store(path: Path) -> bool:
    """True for a run's folder, for a store with such below, for an export of metrics or runs, and for a database."""
    if path.is_dir():
        return bool(_find_runs(path))
    if is_database(path):
        return True
    head = read_head(path)
    if is_delimited(path):
        names = _split_header(head)
        return {"key", "value", "step"} <= names or _is_table_of_runs(names)
    return len(set(KEYS.findall(head))) == 3 and (is_lines(path) or is_object(path))


def is_database(path: Path) -> bool:
    """True for a file of SQLite."""
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE)) == SQLITE
    except OSError:
        return False


@reader("mlflow", recognizes=is_store)
def read_mlflow(path: Path, names: Mapping[str, str]) -> Log:
    """A run of MLflow: its folder in a local store, or what `get_metric_history` gave, as CSV or JSON.

    A table from `search_runs` has one line for each run, and no history; it is refused.
    """
    if is_database(path):
        raise InputError(
            f"log: {str(path)!r} is a database, as MLflow keeps runs in, and is not read; name the run's folder in a "
            "file store, or write what `MlflowClient().get_metric_history(run_id, key)` gives into a CSV file"
        )
    notes: list[str] = []
    if path.is_dir():
        runs = _find_runs(path)
        if len(runs) != 1:
            shown = list_some(each.relative_to(path) for each in runs)
            raise InputError(f"log: {str(path)!r} holds {len(runs)} runs; name the folder of one of {shown}")
        points = list(_read_metrics(runs[0] / METRICS, notes))
        info = _read_params(runs[0] / PARAMS)
    else:
        points, info = list(_read_points(path, notes)), {}
    points.sort(key=lambda point: point[:2])
    entries = ((place, {STEP_KEY: step, key: value}) for place, (_, step, key, value) in enumerate(points, 1))
    return build_log(path, "mlflow", entries, names, notes=notes, info={"tool": "MLflow", **info})


def _find_runs(path: Path) -> list[Path]:
    """The folders of runs: this one, or those up to two levels below."""
    patterns = ("meta.yaml", "*/meta.yaml", "*/*/meta.yaml")
    found = [each.parent for pattern in patterns for each in sorted(path.glob(pattern))]
    return [each for each in found if (each / METRICS).is_dir()]


def _read_metrics(folder: Path, notes: list[str]) -> Iterator[Point]:
    """The points of a run, each metric in a file of lines such as `1700000000000 2.31 120`."""
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        key = file.relative_to(folder).as_posix()
        if not file.stat().st_size:
            continue
        unreadable: list[int] = []
        for number, line in read_source(file).lines:
            cells = [parse_number(cell) for cell in line.split()]
            if len(cells) < 2 or cells[0] is None or cells[1] is None:
                unreadable.append(number)
                continue
            step = cells[2] if len(cells) > 2 and cells[2] is not None else float(number - 1)
            yield cells[0], step, key, cells[1]
        notes += [f"{key}: {note}" for note in note_unreadable(unreadable, "no points")]


def _read_params(folder: Path) -> dict[str, Any]:
    info: dict[str, Any] = {}
    for name, ours in PARAM_OF.items():
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8", errors="replace").strip()
            number = parse_number(text)
            info[ours] = text if number is None or ours == "dtype" else number
    for name, dtype in REGIMES.items():
        if (folder / name).is_file() and (folder / name).read_text(errors="replace").strip().lower() == "true":
            info["dtype"] = dtype
    return info


def _read_points(path: Path, notes: list[str]) -> Iterator[Point]:
    """The points of an export; those of the first run where it has several."""
    entries, said = _parse(path)
    runs: list[Any] = []
    for line, cells in entries:
        if cells.get("run_id") not in runs:
            runs.append(cells.get("run_id"))
        step, time = parse_number(cells.get("step")), parse_number(cells.get("timestamp"))
        if cells.get("run_id") == runs[0] and "key" in cells and "value" in cells:
            number = float(line) if step is None else step
            yield (0.0 if time is None else time), number, str(cells["key"]), cells["value"]
    notes += said
    if len(runs) > 1:
        notes.append(f"the export has {len(runs)} runs; {runs[0]!r} is read")


def _parse(path: Path) -> tuple[Iterable[Entry], list[str]]:
    if is_lines(path):
        return parse_lines(path)
    if is_object(path):
        return parse_object(path)
    if _is_table_of_runs(_split_header(read_head(path))):
        raise InputError(
            f"log: {str(path)!r} has one line for each run, and no history; export what get_metric_history gives"
        )
    table = parse_delimited(path)
    return table.entries, table.notes


def _split_header(head: str) -> set[str]:
    first = head.partition("\n")[0]
    return {name.strip(' "') for name in first.split(find_delimiter(first))}


def _is_table_of_runs(names: set[str]) -> bool:
    return "run_id" in names and any(name.startswith("metrics.") for name in names)
