"""The `trainer_state.json` that the Hugging Face Trainer writes into each checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.errors import InputError
from trimtab.readers import Log, reader
from trimtab.readers.building import build_log
from trimtab.readers.objects import flatten
from trimtab.readers.sources import read_source, strip_name

NAME = "trainer_state.json"

KEPT = ("max_steps", "num_train_epochs", "train_batch_size", "logging_steps", "eval_steps", "global_step")
"""What the file says of the run, and is worth knowing."""


def holds_state(path: Path) -> bool:
    """True for the file itself, and for a checkpoint or output folder that holds one."""
    return strip_name(path) == NAME if path.is_file() else find_state(path) is not None


@reader("trainer-state", recognizes=holds_state)
def read_trainer_state(path: Path, names: Mapping[str, str]) -> Log:
    """The log history of the Hugging Face Trainer: the file, a checkpoint folder, or the output folder.

    Of several checkpoints the newest is read: its history holds that of the others.
    """
    file = path if path.is_file() else find_state(path)
    if file is None:
        raise InputError(f"log: {str(path)!r} holds no {NAME}")
    source = read_source(file)
    try:
        state = json.loads(source.text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"log: {str(file)!r} is damaged JSON: {error}") from error
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list) or not history:
        raise InputError(f"log: {str(file)!r} has no log_history; the Trainer had logged nothing yet")
    entries = [(place, flatten(each)) for place, each in enumerate(history, 1) if isinstance(each, dict)]
    notes = [*source.notes, *([] if file == path else [f"read from {file.relative_to(path)}"])]
    info = {"tool": "Hugging Face Trainer", **{name: state[name] for name in KEPT if state.get(name)}}
    return build_log(path, "trainer-state", entries, names, notes=notes, info={**info, **_read_dtype(file.parent)})


def find_state(folder: Path) -> Path | None:
    """The newest state in an output folder: its own, or that of the checkpoint with the highest step."""
    if (folder / NAME).is_file():
        return folder / NAME
    found = [each for each in folder.glob(f"checkpoint-*/{NAME}") if re.search(r"-\d+$", each.parent.name)]
    return max(found, key=lambda each: int(each.parent.name.rpartition("-")[2]), default=None)


def _read_dtype(folder: Path) -> dict[str, Any]:
    """The dtype of the weights, from the configuration beside; the training arguments are a pickle and stay shut.

    Weights in half precision tell that of the training; those in float32 do not, since autocast leaves them so.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    dtype = config.get("dtype", config.get("torch_dtype")) if isinstance(config, dict) else None
    if not isinstance(dtype, str):
        return {}
    return {"dtype": dtype} if dtype in ("float16", "bfloat16") else {"weight_dtype": dtype}
