"""The language workload: its text, its batches and its model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trimtab.bench.language import (
    BATCH_SIZE,
    CONTEXT,
    STANDARD_LIBRARY,
    build_model,
    compute_loss,
    cut_held_out,
    draw_batch,
    evaluate,
    read_text,
    split_files,
)
from trimtab.errors import InputError


def write_files(folder: Path, **contents: str) -> None:
    """Write Python files by name."""
    for name, content in contents.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_text_is_megabytes_of_many_files() -> None:
    """Every Python carries enough to train on, and about a tenth of it is held out."""
    train, held_out = split_files(STANDARD_LIBRARY)
    text = read_text()
    assert len(train) > 400
    assert 0.05 < len(held_out) / (len(train) + len(held_out)) < 0.2
    assert len(text.train) == sum(path.stat().st_size for path in train) > 5e6
    assert len(text.held_out) == sum(path.stat().st_size for path in held_out) > 5e5


def test_no_file_is_in_both_splits() -> None:
    """No path is in both splits, and no content either."""
    train, held_out = split_files(STANDARD_LIBRARY)
    assert set(train).isdisjoint(held_out)
    assert not {path.read_bytes() for path in train} & {path.read_bytes() for path in held_out}


def test_split_of_a_file_depends_on_its_path_alone(tmp_path: Path) -> None:
    """A file stays in its split when others come and go, and when the folder is elsewhere."""
    names = [f"package/module_{index}" for index in range(60)]
    for folder, kept in (("all", names), ("half", names[::2])):
        write_files(tmp_path / folder, **{name: f"# {name}" for name in kept})
    (train, held_out), (_, held_out_of_half) = split_files(tmp_path / "all"), split_files(tmp_path / "half")
    assert len(train) + len(held_out) == len(names)
    assert [path.stem for path in held_out if int(path.stem.split("_")[1]) % 2 == 0] == [
        path.stem for path in held_out_of_half
    ]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("site-packages/numpy/core", id="installed"),
        pytest.param("dist-packages/apt/core", id="installed-by-debian"),
        pytest.param("copy", id="same-content-as-another"),
        pytest.param("empty", id="empty"),
    ],
)
def test_files_left_out(tmp_path: Path, name: str) -> None:
    """What was installed beside the standard library is no part of it; copies and empty files are in neither split."""
    write_files(tmp_path, code="x = 1", **{name: {"copy": "x = 1", "empty": ""}.get(name, "y = 2")})
    train, held_out = split_files(tmp_path)
    assert [*train, *held_out] == [tmp_path / "code.py"]


def test_python_without_sources_is_refused(tmp_path: Path) -> None:
    """Where there is nothing to train on, the error names the folder and what to do."""
    with pytest.raises(InputError) as error:
        read_text(tmp_path)
    assert str(error.value) == (
        f"{str(tmp_path)!r} holds 0 Python files to train on and 0 to validate on; both are needed, so use a Python "
        "that comes with its sources"
    )


def test_batch_depends_on_seed_and_step_alone() -> None:
    """The batch of a step is the same in any order and whatever else is drawn; other steps and seeds have others."""
    text = read_text()
    keys = [(seed, step) for seed in range(3) for step in range(5)]
    batches = {key: draw_batch(text, *key) for key in keys}
    torch.rand(3)
    assert all(torch.equal(batches[key], draw_batch(text, *key)) for key in reversed(keys))
    assert len({str(batch.tolist()) for batch in batches.values()}) == len(keys)


def test_batch_is_cut_from_the_training_text() -> None:
    """A batch holds windows of the training text, one byte longer than the context."""
    text = read_text()
    batch = draw_batch(text, seed=0, step=1)
    assert batch.shape == (BATCH_SIZE, CONTEXT + 1)
    content = text.train.numpy().tobytes()
    assert all(bytes(window.tolist()) in content for window in batch)


def test_validation_set_is_fixed_and_spread() -> None:
    """The windows of the validation set are always the same, do not overlap, and reach over all held-out files."""
    text = read_text()
    windows = cut_held_out(text)
    assert torch.equal(windows, cut_held_out(text))
    content = text.held_out.numpy().tobytes()
    starts = [content.find(bytes(windows[index].tolist())) for index in (0, len(windows) // 2, -1)]
    assert starts[0] == 0
    assert starts[1] > 0.4 * len(content)
    assert starts[2] > 0.8 * len(content)
    assert windows[:, :-1].numel() * 2 < len(content)


def test_model_has_about_a_million_parameters() -> None:
    """The model is as large as it is said to be."""
    assert sum(parameter.numel() for parameter in build_model(0).parameters()) == pytest.approx(1e6, rel=0.1)


def test_model_depends_on_the_seed_alone() -> None:
    """The initial weights are the seed's, and building a model draws nothing from the global random numbers."""
    before = torch.get_rng_state()
    first, second, other = (
        torch.cat([each.flatten() for each in build_model(seed).parameters()]) for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_predictions_look_back_only() -> None:
    """A byte changes the predictions from its own position on, and none before it."""
    model = build_model(0)
    inputs = draw_batch(read_text(), seed=0, step=1)[:1, :-1]
    changed = inputs.clone()
    changed[0, 40] = (changed[0, 40] + 1) % 256
    with torch.no_grad():
        differs = (model(inputs) != model(changed)).any(-1)[0]
    assert not differs[:40].any()
    assert differs[40:].all()


def test_untrained_model_knows_nothing() -> None:
    """At the start the loss is near that of a guess among all bytes, ln 256."""
    assert evaluate(build_model(0), cut_held_out(read_text(), 64)) == pytest.approx(math.log(256), rel=0.15)


def test_evaluation_is_the_mean_over_all_windows() -> None:
    """The validation loss is that of all windows as one batch, in whatever parts it is computed."""
    model = build_model(0)
    windows = cut_held_out(read_text(), 100)
    assert evaluate(model, windows) == pytest.approx(compute_loss(model, windows).item(), rel=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("value", "is_broken"),
    [pytest.param(math.nan, math.isnan, id="nan"), pytest.param(1e30, lambda loss: not loss < 10, id="huge")],
)
def test_broken_model_shows(value: float, is_broken: Callable[[float], bool]) -> None:
    """A model with one broken weight in its head has no ordinary validation loss."""
    model = build_model(0)
    model.head.weight.detach()[ord(" "), 0] = value
    assert is_broken(evaluate(model, cut_held_out(read_text(), 64)))


def test_loss_falls() -> None:
    """A dozen steps of plain training bring the loss down by more than a nat a byte."""
    text, model = read_text(), build_model(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    windows = cut_held_out(text, 64)
    before = evaluate(model, windows)
    for step in range(12):
        optimizer.zero_grad()
        compute_loss(model, draw_batch(text, seed=0, step=step)).backward()
        optimizer.step()
    assert evaluate(model, windows) < before - 1
