"""A registry: a dictionary of named functions that is also the decorator which fills it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


class Registry(dict[str, Entry], Generic[Entry]):
    """Named entries of one open set, such as the detectors.

    A package that holds an open set makes one registry, each of its modules adds its entry, and `load` imports
    every module of the package: adding a member touches one file, and nothing is listed by hand.

    Args:
        kind: what an entry is called in messages, such as `"detector"`.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def add(self, name: str, entry: Entry) -> Entry:
        """Add an entry under a name that is still free.

        Raises:
            ValueError: if the name is taken.
        """
        if name in self:
            raise ValueError(f"{self.kind} {name!r} is registered already; choose another name")
        self[name] = entry
        return entry

    def load(self, package: str, path: Iterable[str]) -> None:
        """Import every module of a package, so that each can add its entries.

        Args:
            package: the package's name, its `__name__`.
            path: the package's `__path__`.
        """
        for module in sorted(module.name for module in pkgutil.iter_modules(path)):
            importlib.import_module(f"{package}.{module}")
