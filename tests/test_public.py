"""The public face: few names, sorted, lazily resolved, none of them in the way of a submodule."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys

import pytest

import trimtab


def test_public_names_are_few_and_sorted() -> None:
    """`__all__` is sorted and has at most 20 names."""
    assert trimtab.__all__ == sorted(set(trimtab.__all__))
    assert len(trimtab.__all__) <= 20


def test_public_names_are_what_is_visible() -> None:
    """`dir(trimtab)` shows `__all__` and the version, and nothing else."""
    assert dir(trimtab) == sorted([*trimtab.__all__, "__version__"])


@pytest.mark.parametrize("name", trimtab.__all__)
def test_public_name_resolves_and_is_documented(name: str) -> None:
    """Every public name is there, is Trimtab's own, and has a docstring."""
    found = getattr(trimtab, name)
    assert found.__module__.startswith("trimtab.")
    assert inspect.getdoc(found)


def test_no_name_shares_a_submodules_name() -> None:
    """No public name hides a submodule, whichever of them is imported first."""
    assert not {module.name for module in pkgutil.iter_modules(trimtab.__path__)}.intersection(trimtab.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    """A name that is not there is an error in Python's own words."""
    with pytest.raises(AttributeError, match=r"^module 'trimtab' has no attribute 'Supervizor'$"):
        _ = trimtab.Supervizor


@pytest.mark.parametrize(
    ("code", "imported"),
    [
        pytest.param("import trimtab; dir(trimtab); trimtab.Policy.default()", False, id="import"),
        pytest.param("from trimtab import Measurement, Policy", False, id="judging-half"),
        pytest.param("from trimtab import Supervisor", True, id="supervisor"),
        pytest.param("from trimtab import *", True, id="everything"),
    ],
)
def test_torch_is_imported_with_what_needs_it(code: str, imported: bool) -> None:
    """`import trimtab` does not import torch; asking for the supervisor does."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print('torch' in sys.modules)"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout == f"{imported}\n", result.stderr
