"""The embedder: scikit-learn's manners, what is saved, and files that are hard to learn from."""

from __future__ import annotations

import gc
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from tests.tabular.nasty import GOOD, REFUSED
from trimtab.errors import InputError
from trimtab.tabular import TabularEmbedder, find_nearest

SMALL: dict[str, Any] = {"epochs": 1, "dimensions": 8, "hidden": 8}


@pytest.fixture(autouse=True, scope="module")
def _few_objects() -> Iterator[None]:
    """A training collects garbage, which takes as long as there are objects: those of all tests are passed over."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def make_frame(num: int = 90) -> pd.DataFrame:
    """A table in which two columns say the same."""
    generator = np.random.default_rng(0)
    kind = generator.choice(["red", "green", "blue"], num)
    size = generator.normal(size=num) + 3 * (kind == "red")
    return pd.DataFrame({"kind": kind, "size": size, "day": pd.date_range("2020-01-01", periods=num), "id": range(num)})


def test_columns_are_inferred_and_rows_have_length_one() -> None:
    """What columns are is said with the reason, and embeddings are vectors of length 1."""
    frame = make_frame()
    embedder = TabularEmbedder(**SMALL).fit(frame)
    assert {name: each.kind for name, each in embedder.types_.items()} == {
        "kind": "categorical",
        "size": "scalar",
        "day": "timestamp",
        "id": "identifier",
    }
    vectors = embedder.transform(frame)
    assert vectors.shape == (90, 8)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_same_seed_gives_the_same_vectors() -> None:
    """Two embedders of one seed are equal bit for bit, and torch's own random numbers stay as they were."""
    frame, before = make_frame(), torch.get_rng_state()
    first, second, third = (TabularEmbedder(**SMALL, random_state=each).fit_transform(frame) for each in (0, 0, 1))
    assert (first == second).all()
    assert (first != third).any()
    assert torch.equal(before, torch.get_rng_state())


def test_kinds_are_overruled() -> None:
    """What columns are can be said, and columns be left out, as parameters."""
    embedder = TabularEmbedder(**SMALL, columns={"id": "scalar"}, ignore=["day"]).fit(make_frame())
    assert embedder.model_.names == ("size", "id", "kind")
    assert embedder.types_["day"].reason == "left out, as was asked for"


def test_it_goes_into_pipelines_and_frames() -> None:
    """It is cloned, put before a classifier, and gives frames with names where asked to."""
    frame = make_frame()
    embedder = clone(TabularEmbedder(**SMALL)).set_output(transform="pandas")
    found = embedder.fit_transform(frame[["size", "day"]])
    assert (
        list(found.columns)
        == [f"tabularembedder{place}" for place in range(8)]
        == list(embedder.get_feature_names_out())
    )
    model = make_pipeline(TabularEmbedder(**SMALL), KNeighborsClassifier()).fit(frame[["size", "day"]], frame["kind"])
    assert model.predict(frame[["size", "day"]]).shape == (90,)


def test_a_file_is_a_table(tmp_path: Path) -> None:
    """A path to a CSV file does for fit and for transform, and gives what its frame gives."""
    frame = make_frame()
    frame.to_csv(tmp_path / "data.csv", index=False)
    embedder = TabularEmbedder(**SMALL).fit(tmp_path / "data.csv")
    assert np.allclose(embedder.transform(tmp_path / "data.csv"), embedder.transform(frame), atol=1e-6)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    """A saved embedder gives the same vectors bit for bit; nothing in its files is code."""
    frame = make_frame()
    embedder = TabularEmbedder(**SMALL, ignore=["day"]).fit(frame)
    folder = embedder.save(tmp_path / "model")
    assert sorted(each.name for each in folder.iterdir()) == ["embedder.json", "model.safetensors"]
    json.loads((folder / "embedder.json").read_text())
    loaded = TabularEmbedder.load(folder)
    assert (loaded.transform(frame) == embedder.transform(frame)).all()
    assert loaded.get_params() == embedder.get_params()
    assert loaded.types_ == embedder.types_
    assert (pickle.loads(pickle.dumps(embedder)).transform(frame) == embedder.transform(frame)).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda folder: (folder / "embedder.json").unlink(), "holds no embedder", id="no-description"),
        pytest.param(lambda folder: (folder / "embedder.json").write_text("{"), "cannot be read", id="cut-short"),
        pytest.param(lambda folder: (folder / "model.safetensors").write_text("x"), "cannot be read", id="no-weights"),
        pytest.param(lambda folder: (folder / "embedder.json").write_text('{"format": 9}'), "of format 9", id="newer"),
    ],
)
def test_what_cannot_be_loaded_gets_one_sentence(spoil: Any, message: str, tmp_path: Path) -> None:
    """A folder without an embedder, or with a damaged one, is named."""
    folder = TabularEmbedder(**SMALL).fit(make_frame()).save(tmp_path)
    spoil(folder)
    with pytest.raises(InputError, match=message):
        TabularEmbedder.load(folder)


def test_rows_are_known_by_a_part_of_them() -> None:
    """Of rows of which some columns are not known, the vectors are near those of the whole rows."""
    frame = make_frame(300)
    embedder = TabularEmbedder(epochs=40, dimensions=32, hidden=32).fit(frame)
    whole, parts = embedder.transform(frame), embedder.transform_partial(frame[["size", "day"]])
    own = (whole * parts).sum(1).mean()
    others = (whole @ parts.T).mean()
    assert own > others + 0.3
    found, _ = find_nearest(whole, parts, 10)
    assert np.mean((frame["kind"].to_numpy()[found] == frame["kind"].to_numpy()[:, None]).all(1)) < 1
    assert np.mean([each in row for each, row in enumerate(found)]) > 0.5


def test_other_columns_are_refused() -> None:
    """A table without a column is refused by transform, and one with none of them by the other."""
    embedder = TabularEmbedder(**SMALL).fit(make_frame())
    with pytest.raises(ValueError, match="feature names"):
        embedder.transform(make_frame()[["size"]])
    with pytest.raises(InputError, match="has none of the columns learned, which are size"):
        embedder.transform_partial(pd.DataFrame({"x": [1.5, 2.5]}))


@pytest.mark.parametrize("name", GOOD)
def test_nasty_file_is_learned_from(name: str, tmp_path: Path) -> None:
    """Training ends, and every vector is finite."""
    (tmp_path / "data.csv").write_bytes(GOOD[name])
    embedder = TabularEmbedder(**SMALL).fit(tmp_path / "data.csv")
    assert embedder.trained_ is not None
    assert embedder.trained_.result.is_complete
    vectors = embedder.transform(tmp_path / "data.csv")
    assert np.isfinite(vectors).all()
    assert np.isfinite(embedder.transform_partial(pd.DataFrame({embedder.model_.names[0]: ["never seen"]}))).all()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_learned_gets_one_sentence(name: str, tmp_path: Path) -> None:
    """The sentence names the file and says what is wrong with it."""
    data, said = REFUSED[name]
    path = tmp_path / ("data.parquet" if "parquet" in name else "data.csv")
    path.write_bytes(data)
    with pytest.raises(InputError, match=said) as caught:
        TabularEmbedder(**SMALL).fit(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"joint": "lstm"}, "joint is 'lstm'; it has to be 'mlp' or 'transformer'"),
        ({"dimensions": 1}, "dimensions is 1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"patience": 0}, "patience is 0"),
        ({"columns": {"zap": "scalar"}}, "has no column 'zap'"),
        ({"ignore": ["kind", "size", "day"]}, "no column that says anything"),
    ],
)
def test_settings_that_cannot_be_get_one_sentence(params: dict[str, Any], message: str) -> None:
    """A setting that is none is named, with what is allowed."""
    with pytest.raises(InputError, match=message):
        TabularEmbedder(**{**SMALL, **params}).fit(make_frame())


def test_a_transformer_is_to_be_had() -> None:
    """The other joint encoder trains and embeds, too."""
    frame = make_frame()
    vectors = TabularEmbedder(**SMALL, joint="transformer").fit_transform(frame)
    assert vectors.shape == (90, 8)
    assert np.isfinite(vectors).all()


def test_the_nearest_are_the_nearest() -> None:
    """Found are the rows of the highest cosine, in their order, without the row itself where it is one of them."""
    vectors = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]] + np.float32(0.1) * np.arange(4, dtype=np.float32)[:, None]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows, cosines = find_nearest(vectors, vectors[[0, 2]], 2)
    assert rows.tolist() == [[0, 3], [2, 3]]
    assert cosines[:, 0] == pytest.approx(1.0)
    rows, _ = find_nearest(vectors, vectors[[0]], 9, own=np.array([0]))
    assert (rows[0, 0], rows.shape) == (3, (1, 3))
    with pytest.raises(InputError, match="num is 0"):
        find_nearest(vectors, vectors, 0)
    with pytest.raises(InputError, match="have to be"):
        find_nearest(vectors, vectors[:, :2])
