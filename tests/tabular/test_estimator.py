"""scikit-learn's own checks of an estimator."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.conftest import require

require("pandas", "pyarrow", "sklearn")

CANNOT: dict[str, str] = {}
"""Checks that cannot apply, each with the reason; there is none."""


@pytest.fixture(autouse=True, scope="module")
def _few_objects() -> Iterator[None]:
    """A training collects garbage, which takes as long as there are objects: those of all tests are passed over."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_scikit_learn_checks() -> None:
    """The embedder passes all of them but the one that asks for an environment variable to be set."""
    from sklearn.utils.estimator_checks import check_estimator

    from trimtab.tabular import TabularEmbedder

    embedder = TabularEmbedder(epochs=1, dimensions=8, hidden=8)
    results = check_estimator(embedder, on_fail=None, on_skip=None, expected_failed_checks=CANNOT)
    assert not {each["check_name"]: each["exception"] for each in results if each["status"] == "failed"}
    assert [each["check_name"] for each in results if each["status"] == "skipped"] == ["check_array_api_input"]
    assert len(results) > 40
