"""Methods of other people's objects, called through ours for as long as a training is supervised."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial, wraps
from typing import Any


class Wrapping(ExitStack):
    """The methods that are wrapped; `close` sets all of them back."""

    def wrap(self, owner: object, name: str, around: Callable[..., Any]) -> None:
        """Have a method of one object called through a function, which is given it as its first argument."""
        method, is_own = getattr(owner, name), name in vars(owner)
        setattr(owner, name, wraps(method)(partial(around, method)))
        self.callback(*((setattr, owner, name, method) if is_own else (delattr, owner, name)))
