"""Lines that training loops print: the numbers in them, and the lines that only look like it."""

from __future__ import annotations

from math import inf, nan
from pathlib import Path

import pytest

from tests.readers.logs import column, is_same, read
from trimtab.diagnosis import diagnose
from trimtab.readers import Log

MEGATRON = (
    " iteration      {step}/    5000 | consumed samples:        25600 | elapsed time per iteration (ms): 1250.0 | "
    "learning rate: 1.000E-04 | global batch size:   256 | lm loss: {loss} | loss scale: 4096.0 | grad norm: 0.600 | "
    "number of skipped iterations:   0 | number of nan iterations:   0 |"
)


@pytest.mark.parametrize(
    ("line", "step", "expected"),
    [
        pytest.param("step 120 loss 3.21 lr 1e-4", 120, {"loss": 3.21, "learning_rate": 1e-4}, id="bare"),
        pytest.param(
            "[2026-01-01 12:00:00] iter 100: loss=2.31, grad_norm=1.2",
            100,
            {"loss": 2.31, "grad_norm": 1.2},
            id="stamped",
        ),
        pytest.param(
            "2026-01-01 10:10:10,123 - INFO - trainer - step: 1,200 | train/loss: 3.14 | lr-AdamW: 1e-3",
            1200,
            {"loss": 3.14, "learning_rate": 1e-3},
            id="logging",
        ),
        pytest.param("INFO:root:Step 10 loss nan", 10, {"loss": nan}, id="nan"),
        pytest.param("step 5 loss inf grad_norm -inf", 5, {"loss": inf, "grad_norm": -inf}, id="infinite"),
        pytest.param(
            "iter 10: loss 4.2000, time 250.00ms, mfu -100.00%",
            10,
            {"loss": 4.2, "step_seconds": 0.25, "mfu": -100.0},
            id="nanogpt",
        ),
        pytest.param(
            MEGATRON.format(step=100, loss="2.1E+00"),
            100,
            {"loss": 2.1, "step_seconds": 1.25, "learning_rate": 1e-4, "loss_scale": 4096.0, "grad_norm": 0.6},
            id="megatron",
        ),
        pytest.param("Epoch [3/10], Step [100/600], Loss: 2.3", 100, {"epoch": 3.0, "loss": 2.3}, id="tutorial"),
        pytest.param("loss=tensor(2.5, device='cuda:0') step=3", 3, {"loss": 2.5}, id="tensor"),
        pytest.param("\x1b[32mstep\x1b[0m 3 \x1b[1mloss\x1b[0m 2.5", 3, {"loss": 2.5}, id="colours"),
        pytest.param("[Rank 0] step=7 loss=3.0", 7, {"loss": 3.0}, id="rank"),
        pytest.param("100/1000 [00:10<01:30, 10.00it/s, loss=2.31]", 100, {"loss": 2.31}, id="progress-bar"),
    ],
)
def test_reads_line(tmp_path: Path, line: str, step: int, expected: dict[str, float]) -> None:
    """The step and the metrics of a line are found, whatever the line looks like."""
    log = read(tmp_path, "train.log", f"starting up\n{line}\n")
    assert log.format == "text"
    for metric, value in expected.items():
        assert is_same(column(log, metric), {step: value}), metric


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("Validation: loss 2.5", {"val_loss": 2.5}, id="heading"),
        pytest.param("[val] epoch 3 loss=2.5", {"val_loss": 2.5}, id="bracket"),
        pytest.param("Eval step 9 loss 2.5", {"val_loss": 2.5}, id="word-before-step"),
        pytest.param("step 9: train loss 3.5, val loss 2.5", {"val_loss": 2.5}, id="nanogpt"),
        pytest.param("Test set: Average loss: 0.05, Accuracy: 9835/10000 (98%)", {"test_loss": 0.05}, id="test-set"),
    ],
)
def test_reads_review(tmp_path: Path, line: str, expected: dict[str, float]) -> None:
    """What a line says of held-out data is a review, at the step that the lines before have reached."""
    log = read(tmp_path, "train.log", f"step 9 loss 3\n{line}\n")
    for metric, value in expected.items():
        assert column(log, metric, "review") == {9: value}
    assert column(log, "loss") == {9: 3.0}


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("best loss 2.5 at step 100", id="best-so-far"),
        pytest.param("Loaded 124 tensors in 3 seconds", id="prose"),
        pytest.param("saved checkpoint at step 40", id="checkpoint"),
        pytest.param("loss: cross entropy", id="setting"),
        pytest.param("version 2.5.1 of lossless 3", id="version"),
    ],
)
def test_passes_over(tmp_path: Path, line: str) -> None:
    """A line that only looks like a measurement adds nothing."""
    log = read(tmp_path, "train.log", f"step 1 loss 3\n{line}\nstep 2 loss 2\n")
    assert [(each.step, each.values) for each in log.measurements] == [(1, {"loss": 3.0}), (2, {"loss": 2.0})]


def list_steps(log: Log, clock: str = "step") -> list[int]:
    return [each.step for each in log.measurements if each.clock == clock]


def test_hugging_face_beside_progress_bars(tmp_path: Path) -> None:
    """The bar that goes on with the epoch says the step of the Trainer's dictionaries, not that of an evaluation."""
    parts = ["Map: 100%|██████████| 25000/25000 [00:05<00:00, 4712.11 examples/s]\n"]
    for step in range(1, 201):
        bar = f"{step // 2:3d}%|███   | {step}/200 [00:{step % 60:02d}<00:30,  5.00it/s]\r"
        parts.append(bar)
        if step % 10 == 0:
            parts.append(f"{{'loss': {3 - step / 100}, 'learning_rate': 5e-05, 'epoch': {step / 100:.2f}}}\n{bar}")
        if step % 100 == 0:
            parts += [f"{4 * num:3d}%|██  | {num}/25 [00:01<00:02, 11.00it/s]\x1b[A\r" for num in range(0, 26, 5)]
            parts.append(f"{{'eval_loss': 2.0, 'eval_runtime': 2.5, 'epoch': {step / 100:.1f}}}\n")
    log = read(tmp_path, "train.log", "".join(parts))
    assert list_steps(log) == [*range(10, 201, 10)]
    assert list_steps(log, "review") == [100, 200]
    assert "there is no step; it is read from the progress bar that counts to 200" in log.notes


@pytest.mark.parametrize(
    ("line", "positions", "epochs", "length"),
    [
        pytest.param(
            "Train Epoch: {epoch} [{at}/60000 ({at}%)]\tLoss: {loss}", (0, 640, 59520), (1, 2, 3), 60000, id="samples"
        ),
        pytest.param(
            "Epoch: [{epoch}][{at:4d}/501]\tTime  0.312 ( 0.401)\tLoss {loss}e+00 (1.0e+00)",
            (0, 10, 500),
            (0, 1, 2),
            501,
            id="batches-from-epoch-0",
        ),
        pytest.param("Epoch {epoch}/3, Batch {at}/938, Loss: {loss}", (0, 50, 900), (1, 2, 3), 938, id="batches"),
        pytest.param("[{epoch}, {at:5d}] loss: {loss}", (1000, 2000), (1, 2, 3), 2000, id="pairs"),
        pytest.param(
            "Epoch {epoch}:  5%|█  | {at}/100 [00:05<00:10, 10.00it/s, loss={loss}]",
            (5, 50, 100),
            (0, 1),
            100,
            id="bar",
        ),
    ],
)
def test_steps_by_epoch_and_position(
    tmp_path: Path, line: str, positions: tuple[int, ...], epochs: tuple[int, ...], length: int
) -> None:
    """Where no step is said, epoch and position in it are the step, and held-out lines take that of the line before."""
    places = [(epoch, at) for epoch in epochs for at in positions]
    lines = [line.format(epoch=epoch, at=at, loss=3 - 0.1 * row) for row, (epoch, at) in enumerate(places)]
    lines.insert(len(positions), "Validation: [10/50] loss 2.5")
    log = read(tmp_path, "train.log", "\n".join(lines) + "\n")
    assert list_steps(log) == [(epoch - epochs[0]) * length + at for epoch, at in places]
    assert list_steps(log, "review") == [positions[-1]]
    assert any("epoch and position in it are taken for it" in note for note in log.notes)


def test_samples_are_no_steps(tmp_path: Path) -> None:
    """Positions with a percentage count samples, so that 12 records far apart are not taken for a long run."""
    text = "".join(f"Train Epoch: 1 [{640 * row}/60000 ({row}%)] Loss: 2.3\n" for row in range(12))
    log = read(tmp_path, "train.log", text)
    assert log.info["step_unit"] == "sample"
    assert diagnose(log).verdict == "healthy"


def test_bar_that_starts_anew(tmp_path: Path) -> None:
    """A progress bar of each epoch that says no epoch is counted on."""
    text = "".join(f"{at}/100 [00:0{at % 10}<00:10, 10.00it/s, loss={e}.{at}]\n" for e in (3, 2, 1) for at in (50, 100))
    log = read(tmp_path, "train.log", text)
    assert list_steps(log) == [50, 100, 150, 200, 250, 300]


def test_console_of_hugging_face(tmp_path: Path) -> None:
    """The Trainer's dictionaries carry no step; they are counted, reviews take the step before, and a note says so."""
    lines = [
        "{'loss': 2.5, 'grad_norm': 1.5, 'learning_rate': 5e-05, 'epoch': 0.1}",
        "{'loss': '2.25', 'grad_norm': nan, 'learning_rate': '4e-05', 'epoch': '0.2'}",
        "{'eval_loss': 2.0, 'eval_runtime': 3.5, 'epoch': 0.2}",
    ]
    log = read(tmp_path, "train.log", "\n".join(lines) + "\n")
    assert column(log, "loss") == {1: 2.5, 2: 2.25}
    assert is_same(column(log, "grad_norm"), {1: 1.5, 2: nan})
    assert column(log, "val_loss", "review") == {2: 2.0}
    assert "there is no step; the entries are counted from 1" in log.notes


def test_keras_epochs(tmp_path: Path) -> None:
    """Keras says the epoch on a line of its own; it is the step."""
    text = "".join(
        f"Epoch {epoch}/3\n100/100 [====] - 1s 5ms/step - loss: {3 - epoch}.5 - val_loss: {4 - epoch}.5\n"
        for epoch in (1, 2, 3)
    )
    log = read(tmp_path, "train.log", text)
    assert column(log, "loss") == {1: 2.5, 2: 1.5, 3: 0.5}
    assert column(log, "val_loss", "review") == {1: 3.5, 2: 2.5, 3: 1.5}


def test_steps_within_epochs(tmp_path: Path) -> None:
    """A step that starts anew with each epoch is counted on, and a note says so."""
    text = "".join(f"Epoch [{e}/3], Step [{s}/300], Loss: {e}.{s}\n" for e in (1, 2, 3) for s in (100, 200, 300))
    log = read(tmp_path, "train.log", text)
    assert list(column(log, "loss")) == [100, 200, 300, 400, 500, 600, 700, 800, 900]
    assert any("starts anew with each epoch" in note for note in log.notes)


def test_mapping_of_text(tmp_path: Path) -> None:
    """A name of one's own can be mapped, as it is printed."""
    log = read(tmp_path, "train.log", "step 1 loss 1\nstep 2 loss 2 My Wonder: 7\n", {"My Wonder": "probe_loss"})
    assert column(log, "probe_loss") == {2: 7.0}
