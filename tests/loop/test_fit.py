"""`fit`: the loop that people would have written, and what it does beyond it."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable, Iterator
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from tests.laws.training import list_differences
from tests.loop.runs import (
    BATCH_SIZE,
    NUM_SAMPLES,
    NUM_STEPS,
    Batch,
    NoisyNet,
    Parts,
    Samples,
    SmoothNet,
    make_loader,
    make_parts,
)
from trimtab import InputError, Policy, fit
from trimtab.loop import FitResult
from trimtab.signals import SIGNALS, Inbox, send_signal


def read_events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def raise_at(num_losses: int, *numbers: signal.Signals) -> Callable[[Parts], None]:
    """Send signals to this process while it computes its n-th loss."""

    def send(parts: Parts) -> None:
        if parts.num_losses == num_losses:
            for number in numbers:
                signal.raise_signal(number)

    return send


@pytest.mark.parametrize("clip_norm", [None, 0.1], ids=["unclipped", "clipped"])
def test_fit_is_the_loop_one_would_have_written(clip_norm: float | None) -> None:
    """Bit for bit, with a schedule, dropout, running statistics, shuffling and clipping; random numbers included."""
    whole = make_parts(NoisyNet)
    for _ in range(3):
        for batch in whole.loader:
            loss = whole.compute_loss(whole.model, batch)
            whole.optimizer.zero_grad()
            loss.backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(whole.model.parameters(), clip_norm)
            whole.optimizer.step()
            whole.scheduler.step()
    parts = make_parts(NoisyNet)
    result = parts.fit(clip_norm=clip_norm)
    assert list_differences(parts.capture(), whole.capture()) == []
    assert (result.status, result.num_steps, result.num_epochs) == ("finished", 3 * NUM_STEPS, 3)
    assert (result.best_score, result.best_step, result.reviews, result.run) == (None, None, (), None)
    assert result.is_complete


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"val_loader": make_loader(noise=0.1)}, id="validation"),
        pytest.param({"val_loader": make_loader(num_workers=1)}, id="validation-with-workers"),
        pytest.param({"val_loader": Samples()}, id="validation-on-a-data-set"),
        pytest.param({"progress": True}, id="progress-bar"),
        pytest.param({"policy": Policy.observe()}, id="policy"),
    ],
)
def test_what_looks_on_changes_nothing(options: dict[str, Any]) -> None:
    """Validation, a progress bar and a policy that only observes change not one bit of the run."""
    whole, parts = make_parts(NoisyNet), None
    whole.fit()
    parts = make_parts(NoisyNet)
    parts.fit(**options)
    assert list_differences(parts.capture(), whole.capture()) == []


@pytest.mark.parametrize("place", ["none", "folder"])
def test_a_run_folder_changes_nothing(tmp_path: Path, place: str) -> None:
    """A run that is saved is bit for bit the one that is not, and it can be read."""
    parts = make_parts(NoisyNet)
    parts.fit(run=tmp_path if place == "folder" else None, checkpoint_every=2)
    whole = make_parts(NoisyNet)
    whole.fit()
    assert list_differences(parts.capture(), whole.capture()) == []


@pytest.mark.parametrize("accumulate", [2, 4, 100])
def test_accumulated_batches_are_one_step(accumulate: int) -> None:
    """The gradient is that of one large batch within rounding, whatever the sizes of the batches in it."""
    whole = make_parts(SmoothNet, make_loader(batch_size=accumulate * BATCH_SIZE))
    expected = whole.fit()
    parts = make_parts(SmoothNet)
    result = parts.fit(accumulate=accumulate)
    assert result.num_steps == expected.num_steps == 3 * -(-NUM_SAMPLES // (accumulate * BATCH_SIZE))
    assert parts.trained == whole.trained
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)


def test_a_dict_of_losses_is_their_sum(caplog: pytest.LogCaptureFixture) -> None:
    """Parts are summed, logged now and then, and validated one by one."""
    caplog.set_level(logging.INFO, "trimtab")

    def compute(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        x, y, _ = batch
        error = model(x) - y
        return {"square": error.square().mean(), "size": 0.5 * error.abs().mean()}

    def compute_sum(model: nn.Module, batch: Batch) -> Tensor:
        return sum(compute(model, batch).values(), torch.zeros(()))

    def train(compute_loss: Any) -> FitResult:
        torch.manual_seed(0)
        model = SmoothNet()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        return fit(model, optimizer, compute_loss, make_loader(), epochs=9, val_loader=make_loader())

    result = train(compute)
    assert result.best_score == pytest.approx(train(compute_sum).best_score)
    metrics = result.reviews[-1].metrics
    assert metrics["val_square"] + metrics["val_size"] == pytest.approx(metrics["val_loss"])
    assert "step 50: square " in caplog.text


def test_validation_is_the_mean_over_samples() -> None:
    """Batches of different sizes count by their samples, in eval mode."""
    parts = make_parts(NoisyNet)
    result = parts.fit(val_loader=make_loader())
    x, y, _ = next(iter(DataLoader(Samples(), NUM_SAMPLES)))
    parts.model.eval()
    with torch.no_grad():
        expected = functional.mse_loss(parts.model(x), y)
    assert result.reviews[-1].score == pytest.approx(float(expected), rel=1e-5)
    assert [(each.epoch, each.step) for each in result.reviews] == [(n, n * NUM_STEPS) for n in (1, 2, 3)]
    assert result.best_score == min(each.score for each in result.reviews)


def test_frozen_parts_stay_in_eval_mode() -> None:
    """A model that is in training mode as a whole keeps the modules that are not."""
    parts = make_parts(NoisyNet)
    layers = parts.model.layers
    assert isinstance(layers, nn.Sequential)
    layers[1].eval()
    before = {name: buffer.clone() for name, buffer in layers[1].named_buffers()}
    parts.fit(val_loader=make_loader())
    assert all(torch.equal(buffer, before[name]) for name, buffer in layers[1].named_buffers())
    assert not layers[1].training
    assert parts.model.training


def test_mixed_precision() -> None:
    """With a scaler an overflow skips the update and leaves the schedule, as PyTorch does."""
    torch.manual_seed(0)
    model = SmoothNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = OneCycleLR(optimizer, 0.1, total_steps=50)
    scaler = GradScaler("cpu", init_scale=2.0**40)

    def compute(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            return functional.mse_loss(model(batch[0]).float(), batch[1])

    result = fit(model, optimizer, compute, make_loader(), epochs=8, scheduler=scheduler, scaler=scaler)
    num_skipped = 40 - int(torch.tensor(scaler.get_scale()).log2())
    assert 0 < num_skipped < result.num_steps
    assert scheduler.last_epoch == result.num_steps - num_skipped


def scores(*values: float) -> Callable[[nn.Module, Batch], Tensor]:
    """A loss whose validation gives these values, one a step; the weight counts the steps."""

    def compute(model: nn.Module, _: Batch) -> Tensor:
        assert isinstance(model, nn.Linear)
        return -model.weight.sum() if model.training else torch.tensor(float(values[int(model.weight.item()) - 1]))

    return compute


ONE_BATCH = [torch.zeros(1, 1)]


def make_counter() -> tuple[nn.Linear, torch.optim.Optimizer]:
    """A model whose one weight is the number of steps made."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model, torch.optim.SGD(model.parameters(), lr=1.0)


PATIENCE: dict[str, tuple[list[float], dict[str, Any], tuple[str, int, float]]] = {
    "stops": ([3, 2, 1, 2, 2, 0], {"patience": 2}, ("stopped-early", 5, 3)),
    "finishes": ([3, 2, 1, 2, 0, 1], {"patience": 2}, ("finished", 6, 5)),
    "best-is-last": ([6, 5, 4, 3, 2, 1], {"patience": 1}, ("finished", 6, 6)),
    "nan-is-never-best": ([2, 1, nan, inf, 3, 3], {"patience": 2}, ("stopped-early", 4, 2)),
    "too-small-a-gain": ([1, 0.99, 0.98, 0.5, 0.4, 0.3], {"patience": 2, "min_delta": 0.1}, ("stopped-early", 3, 3)),
    "last-kept": ([3, 1, 2, 2, 0, 0], {"patience": 2, "restore_best": False}, ("stopped-early", 4, 4)),
    "best-without-patience": ([3, 1, 2, 2, 2, 2], {"restore_best": True}, ("finished", 6, 2)),
}


@pytest.mark.parametrize("has_run", [False, True], ids=["in-memory", "in-a-run-folder"])
@pytest.mark.parametrize(("values", "options", "expected"), PATIENCE.values(), ids=PATIENCE.keys())
def test_early_stopping(
    tmp_path: Path, values: list[float], options: dict[str, Any], expected: tuple[str, int, float], has_run: bool
) -> None:
    """A run that has stalled is stopped, and the model is left at its best."""
    run = tmp_path / "run" if has_run else None
    model, optimizer = make_counter()
    options = {"epochs": 6, "val_loader": ONE_BATCH, "policy": Policy.observe(), "run": run, **options}
    result = fit(model, optimizer, scores(*values), ONE_BATCH, **options)
    assert (result.status, result.num_steps, model.weight.item()) == expected
    if run is not None:  # a run that has ended returns at once, with its best weights
        model, optimizer = make_counter()
        again = fit(model, optimizer, scores(*values), ONE_BATCH, **options)
        assert (again.status, again.num_steps, model.weight.item()) == expected
        assert again.best_score == result.best_score


@pytest.fixture
def _looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs look for signals before every batch, not once a second."""
    monkeypatch.setattr("trimtab.loop.training.Inbox", partial(Inbox, every_seconds=0.0))


SIGNALLED: dict[str, tuple[str, str, int, int]] = {
    "abort": ("aborted", "failed: aborted", 8, 1),
    "pause": ("paused", "paused", 8, 1),
    "finish": ("finished", "finished", 2 * NUM_STEPS, 2),
    "no-stop": ("finished", "finished", 3 * NUM_STEPS, 3),
    "restart": ("finished", "finished", 3 * NUM_STEPS, 3),
    "publish": ("finished", "finished", 3 * NUM_STEPS, 3),
}


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.usefixtures("_looks_at_once")
def test_signals(tmp_path: Path, name: str) -> None:
    """Each signal does what is said of it, between two batches, and is in the run's events."""

    def send(parts: Parts) -> None:
        if parts.num_losses == 8:
            send_signal(tmp_path, name)

    parts = make_parts(on_loss=send)
    result = parts.fit(run=tmp_path)
    status, end, num_steps, num_epochs = SIGNALLED[name]
    assert (result.status, result.num_steps, result.num_epochs) == (status, num_steps, num_epochs)
    events = read_events(tmp_path)
    assert [event["name"] for event in events if event["event"] == "signal"] == [name]
    assert events[-1]["status"] == end
    assert (tmp_path / "export").exists() is (name == "publish")


def test_a_signal_sent_before_the_run_begins(tmp_path: Path) -> None:
    """What waits in the folder is acted on before the first batch."""
    make_parts().fit(run=tmp_path, epochs=1)
    send_signal(tmp_path, "pause")
    parts = make_parts()
    assert parts.fit(run=tmp_path).status == "paused"
    assert parts.num_losses == 0
    assert make_parts().fit(run=tmp_path).status == "finished"


def test_an_aborted_run_saves_nothing(tmp_path: Path) -> None:
    """Ctrl-C twice ends the run at once; it goes on from its newest checkpoint before."""
    parts = make_parts(NoisyNet, on_loss=raise_at(9, signal.SIGINT, signal.SIGINT))
    result = parts.fit(run=tmp_path, checkpoint_every=4)
    assert (result.status, result.num_steps, result.is_complete) == ("aborted", 8, False)
    assert read_events(tmp_path)[-1]["status"] == "failed: aborted"
    whole = make_parts(NoisyNet)
    whole.fit()
    second = make_parts(NoisyNet, seed=1)
    assert second.fit(run=tmp_path).status == "finished"
    assert list_differences(second.capture(), whole.capture()) == []


def test_finish_is_remembered_and_forgotten(tmp_path: Path) -> None:
    """An epoch that was paused after `finish` is completed and ends the run, which may then be given more."""
    make_parts(on_loss=raise_at(2, signal.SIGUSR1)).fit(run=tmp_path)
    send_signal(tmp_path, "finish")
    assert make_parts(on_loss=raise_at(2, signal.SIGUSR1)).fit(run=tmp_path).status == "paused"
    result = make_parts().fit(run=tmp_path)
    assert (result.status, result.num_steps, result.reason) == (
        "finished",
        NUM_STEPS,
        "the epoch is complete, as was signalled",
    )
    assert make_parts().fit(run=tmp_path).num_steps == 3 * NUM_STEPS


def test_no_stop_is_remembered(tmp_path: Path) -> None:
    """Early stopping that was turned off stays so when the run goes on."""
    options: dict[str, Any] = {"val_loader": ONE_BATCH, "policy": Policy.observe(), "run": tmp_path, "patience": 1}
    model, optimizer = make_counter()
    fit(model, optimizer, scores(1, 2, 2, 2), ONE_BATCH, epochs=1, **options)
    send_signal(tmp_path, "no-stop")
    model, optimizer = make_counter()
    fit(model, optimizer, scores(1, 2, 2, 2), ONE_BATCH, epochs=2, **options)
    model, optimizer = make_counter()
    assert fit(model, optimizer, scores(1, 2, 2, 2), ONE_BATCH, epochs=4, **options).num_epochs == 4


@pytest.mark.usefixtures("_looks_at_once")
def test_publication(tmp_path: Path) -> None:
    """The export is the best model, with a card of its data, steps, metrics and interventions."""
    run = tmp_path / "mine"

    def spoil(parts: Parts) -> None:
        if parts.num_losses == 3:
            send_signal(run, "publish")
            parts.loader.dataset.x[5] = nan  # one sample that is not finite from now on

    parts = make_parts(on_loss=spoil)
    result = parts.fit(run=run, val_loader=make_loader(), patience=5)
    card = (run / "export" / "README.md").read_text()
    for told in (
        "# mine",
        "trained with `trimtab.fit`",
        f"The weights are those of the best validation, at step {result.best_step}",
        "A `DataLoader` over a `Samples`, 44 samples, batches of 8, 6 batches an epoch.",
        f"| steps | {result.num_steps} |",
        "| epoch | step | val_loss | learning_rate |",
        "| skip |",
    ):
        assert told in card
    from safetensors.torch import load_model

    exported = SmoothNet()
    load_model(exported, run / "export" / "model.safetensors")
    assert all(
        torch.equal(left, right) for left, right in zip(exported.parameters(), parts.model.parameters(), strict=True)
    )


def test_a_halted_run_is_a_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run that the supervisor ends is no traceback: the decision is in the result, the log and the run folder."""
    policy = Policy.from_dict({"detectors": {"nonfinite": {"ladder": ["halt"]}}})

    def compute(model: nn.Module, batch: Batch) -> Tensor:
        return model(batch[0]).sum() * nan  # type: ignore[no-any-return]

    model = SmoothNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    result = fit(model, optimizer, compute, make_loader(), run=tmp_path, policy=policy)
    assert (result.status, result.num_steps, result.is_complete) == ("halted", 0, False)
    assert result.decision is not None
    assert result.reason == result.decision.reason
    assert result.reason in caplog.text
    assert read_events(tmp_path)[-1]["status"] == "halted"


def test_a_batch_found_bad_is_computed_again(tmp_path: Path) -> None:
    """The supervisor is given batch and loss, so that it can tell what kind of fault it was."""

    def spoil(parts: Parts) -> None:
        if parts.num_losses == 4:
            parts.loader.dataset.x[:] = nan

    make_parts(on_loss=spoil).fit(run=tmp_path, epochs=1)
    notes = [event["action"].get("note", "") for event in read_events(tmp_path) if event["event"] == "decision"]
    assert any("structural" in note for note in notes)


def once() -> Iterator[Tensor]:
    yield torch.zeros(2, 6)


MODEL = SmoothNet()
OPTIMIZER = torch.optim.SGD(MODEL.parameters(), lr=0.1)
GOOD: dict[str, Any] = {
    "model": MODEL,
    "optimizer": OPTIMIZER,
    "compute_loss": lambda model, batch: model(batch).sum(),
    "train_loader": [torch.zeros(2, 6)],
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no-model": ({"model": print}, "model is a 'builtin_function_or_method'; it has to be a torch.nn.Module"),
    "no-optimizer": ({"optimizer": 0.1}, "optimizer is a 'float'; it has to be a torch.optim.Optimizer"),
    "no-loss": ({"compute_loss": 3}, "compute_loss is 3; it has to be a function"),
    "no-loader": ({"train_loader": 3}, "train_loader is a 'int'; it has to be an iterable of batches"),
    "no-scheduler": ({"scheduler": 3}, "scheduler is a 'int', which has no method step"),
    "no-epoch": ({"epochs": 0}, "epochs is 0; it has to be a whole number above 0"),
    "half-an-epoch": ({"epochs": 0.5}, "epochs is 0.5; it has to be a whole number above 0"),
    "accumulate": ({"accumulate": 0}, "accumulate is 0"),
    "micro-batch": ({"micro_batch": -1}, "micro_batch is -1"),
    "checkpoint-every": ({"checkpoint_every": True}, "checkpoint_every is True"),
    "resume": ({"resume": "yes"}, "resume is 'yes'; it has to be True, False or 'auto'"),
    "patience-alone": ({"patience": 3}, "patience needs a validation loss to judge by; pass val_loader= too"),
    "best-alone": ({"restore_best": True}, "restore_best needs a validation loss"),
    "plateau-alone": ({"scheduler": ReduceLROnPlateau(OPTIMIZER)}, "a ReduceLROnPlateau needs a validation loss"),
    "no-batch": ({"train_loader": []}, "train_loader gave no batch in epoch 1"),
    "only-once": (
        {"train_loader": once(), "epochs": 2},
        "train_loader gave no batch in epoch 2; it has to give some each",
    ),
    "no-validation-batch": ({"val_loader": []}, "val_loader gave no batch"),
    "a-number": ({"compute_loss": lambda *_: 0.5}, "compute_loss returned 0.5; it has to return a 0-d tensor"),
    "a-vector": (
        {"compute_loss": lambda model, batch: model(batch)},
        r"compute_loss returned a tensor of shape \(2,\); it has to return a 0-d tensor, or a dict",
    ),
    "an-empty-dict": ({"compute_loss": lambda *_: {}}, "compute_loss returned {}"),
    "no-gradient": (
        {"compute_loss": lambda *_: torch.tensor(1.0)},
        "the loss that compute_loss returned has no gradient",
    ),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_used_is_one_sentence(options: dict[str, Any], message: str) -> None:
    """Every mistake that can be told is an `InputError` of one sentence that begins with who complains."""
    with pytest.raises(InputError, match=message) as caught:
        fit(**{**GOOD, **options})
    assert str(caught.value).startswith("fit: ")
    assert "\n" not in str(caught.value)


def test_the_supervisor_can_be_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `TRIMTAB=off` the loop trains and saves as ever."""
    monkeypatch.setenv("TRIMTAB", "off")
    whole = make_parts(NoisyNet)
    whole.fit()
    first = make_parts(NoisyNet, on_loss=raise_at(8, signal.SIGUSR1))
    assert first.fit(run=tmp_path).status == "paused"
    second = make_parts(NoisyNet, seed=1)
    assert second.fit(run=tmp_path).num_steps == 3 * NUM_STEPS
    assert list_differences(second.capture(), whole.capture()) == []


def test_handlers_are_put_back() -> None:
    """After `fit`, whether it ended well or not, signals are what they were."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    make_parts().fit(epochs=1)
    with pytest.raises(InputError):
        fit(**{**GOOD, "train_loader": []})
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before


def test_batches_of_tensors_from_a_data_set() -> None:
    """The example of the documentation trains."""
    torch.manual_seed(0)
    x = torch.randn(256, 6)
    model = nn.Linear(6, 1)
    result = fit(
        model,
        torch.optim.Adam(model.parameters(), lr=0.05),
        lambda model, batch: functional.mse_loss(model(batch[0])[:, 0], batch[1]),
        DataLoader(TensorDataset(x, x.sum(1)), 32, shuffle=True),
        val_loader=TensorDataset(x[:64], x[:64].sum(1)),
        epochs=12,
    )
    assert result.best_score is not None
    assert result.best_score < 0.1
