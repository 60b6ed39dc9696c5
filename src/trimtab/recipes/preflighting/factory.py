"""What a factory hands over, and where it is found."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimtab.errors import InputError
from trimtab.ranks import is_distributed
from trimtab.recipes.linting import require_numbers
from trimtab.recipes.preflighting.flight import Flight

FACTORY = "make"
"""The name of a factory where none is given."""

NEEDED = ("model", "optimizer", "compute_loss", "train_loader")
"""What a factory hands over at least, in the order of `trimtab.fit`."""

OPTIONAL = ("val_loader", "scheduler", "scaler", "clip_norm", "accuracy", "floor", "ladder")
"""What it may hand over besides."""


def make_flight(given: Any, who: str, **more: Any) -> Flight:
    """What a factory has returned: a mapping with the words of `trimtab.fit`, or the first four in their order.

    Args:
        given: what it has returned.
        who: what it is called in messages.
        more: what else a flight is to have.

    Raises:
        InputError: if it is nothing of the kind.
    """
    if isinstance(given, (list, tuple)):
        given = dict(zip(NEEDED, given, strict=False))
    if not isinstance(given, Mapping) or not set(NEEDED) <= set(given):
        have = ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise InputError(f"preflight: {who} gave {have}; it has to give a mapping with {', '.join(NEEDED)}")
    unknown = sorted(set(given) - {*NEEDED, *OPTIONAL})
    if unknown:
        raise InputError(
            f"preflight: {who} gave {', '.join(unknown)}, which is not known; beside {', '.join(NEEDED)} there may be "
            f"{', '.join(OPTIONAL)}"
        )
    validate(given)
    kept = {name: each for name, each in given.items() if each is not None}
    flight = Flight(**kept, **more)
    assert {*NEEDED, *OPTIONAL} <= {each.name for each in fields(flight)}
    return flight


def validate(given: Mapping[str, Any]) -> None:
    """See that what is tried can be.

    Raises:
        InputError: if it cannot.
    """
    if is_distributed():
        raise InputError("preflight: it trains in one process; go through it before the ranks are started")
    kinds = {"model": (nn.Module, "a torch.nn.Module"), "optimizer": (torch.optim.Optimizer, "a torch.optim.Optimizer")}
    for name, (kind, wanted) in kinds.items():
        if not isinstance(given[name], kind):
            raise InputError(f"preflight: {name} is a {type(given[name]).__name__!r}; it has to be {wanted}")
    if not callable(given["compute_loss"]):
        raise InputError("preflight: compute_loss has to be a function compute_loss(model, batch)")
    for name in ("train_loader", "val_loader"):
        loader = given.get(name)
        if loader is not None and (not isinstance(loader, Iterable) or isinstance(loader, Iterator)):
            raise InputError(
                f"preflight: {name} is a {type(loader).__name__!r}; it has to be an iterable that gives its batches "
                "anew each time, such as a DataLoader or a list"
            )
    require_numbers("preflight", given["model"])


def load_factory(place: str) -> tuple[Callable[[], Any], str]:
    """The factory of `FILE.py` or `FILE.py:FACTORY`, and the source of the file.

    The file is run as an import runs it, with its own folder to import from.

    Raises:
        InputError: if there is no such file or factory.
    """
    name, _, factory = place.partition(".py:")
    path = Path(f"{name}.py" if factory else place)
    factory = factory or FACTORY
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"preflight: there is no file {str(path)!r}; give one as FILE.py or FILE.py:FACTORY")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # workers and pickles look there for what the file defines
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        if before is not None:
            sys.modules[path.stem] = before
        raise
    found = getattr(module, factory, None)
    if not callable(found):
        raise InputError(
            f"preflight: {str(path)!r} has no function {factory!r}; write one that returns a mapping with "
            "model, optimizer, compute_loss and train_loader, or name another: FILE.py:FACTORY"
        )
    return found, path.read_text(encoding="utf-8")
