"""A run that was stopped and goes on is bit for bit the run that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tests.laws.training import list_differences
from tests.loop.runs import BATCH_SIZE, NUM_SAMPLES, NUM_STEPS, Batch, NoisyNet, Parts, Samples, make_loader, make_parts
from trimtab import InputError, RunExistsError
from trimtab.signals import send_signal

ROOT = Path(__file__).parents[2]


def pause_at(num_losses: int) -> Callable[[Parts], None]:
    """Ask a run to pause while it computes its n-th loss."""

    def pause(parts: Parts) -> None:
        if parts.num_losses == num_losses:
            signal.raise_signal(signal.SIGUSR1)

    return pause


def fail_at(num_losses: int) -> Callable[[Parts], None]:
    """Raise while a run computes its n-th loss."""

    def fail(parts: Parts) -> None:
        if parts.num_losses == num_losses:
            torch.rand(3)
            raise ZeroDivisionError("a mistake in the user's code")

    return fail


class Unsized:
    """An iterable of batches without a length, shuffled by the global generator."""

    def __iter__(self) -> Iterator[Batch]:
        data = Samples()
        for indices in torch.randperm(NUM_SAMPLES).split(BATCH_SIZE):
            items = [data[int(index)] for index in indices]
            yield torch.stack([x for x, _, _ in items]), torch.stack([y for _, y, _ in items]), indices


class Stateful(Unsized):
    """The same, which knows its position and goes on from it."""

    def __init__(self) -> None:
        self.order = torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return NUM_STEPS

    def __iter__(self) -> Iterator[Batch]:
        data = Samples()
        self.order = self.order if len(self.order) else torch.randperm(NUM_SAMPLES)
        while len(self.order):
            indices, self.order = self.order[:BATCH_SIZE], self.order[BATCH_SIZE:]
            items = [data[int(index)] for index in indices]
            yield torch.stack([x for x, _, _ in items]), torch.stack([y for _, y, _ in items]), indices

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order = state["order"]


class EpochSampler(torch.utils.data.Sampler[int]):
    """A sampler that has to be told of the epoch, as a distributed one has."""

    def __init__(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(self.epoch))
        return iter(order.tolist())

    def __len__(self) -> int:
        return NUM_SAMPLES

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


LOADERS: dict[str, Callable[[], Any]] = {
    "shuffled": make_loader,
    "augmented": lambda: make_loader(noise=0.1),
    "own-generator": lambda: make_loader(generator=torch.Generator().manual_seed(3)),
    "in-order": lambda: make_loader(shuffle=False),
    "told-of-the-epoch": lambda: make_loader(shuffle=False, sampler=EpochSampler()),
    "no-length": Unsized,
    "a-list": lambda: list(make_loader(shuffle=False)),
    "stateful": Stateful,
}

FAILING = ["augmented", "own-generator", "no-length"]

POINTS = [1, 4, NUM_STEPS, NUM_STEPS + 1, 2 * NUM_STEPS - 1]


def compare(first: Parts, second: Parts, whole: Parts) -> None:
    """Two halves are the whole: bit for bit in the end, and sample for sample on the way."""
    assert list_differences(second.capture(), whole.capture()) == []
    assert first.trained + second.trained == whole.trained
    assert first.losses + second.losses == whole.losses


@pytest.mark.parametrize("point", POINTS, ids=["first-step", "mid-epoch", "end-of-epoch", "new-epoch", "second-epoch"])
@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS.keys())
def test_a_paused_run_goes_on(tmp_path: Path, loader: Callable[[], Any], point: int) -> None:
    """Weights, optimizer, schedule, random numbers and data are those of the run that was never paused."""
    whole = make_parts(NoisyNet, loader())
    assert whole.fit(epochs=2).status == "finished"
    first = make_parts(NoisyNet, loader(), on_loss=pause_at(point))
    result = first.fit(epochs=2, run=tmp_path)
    assert (result.status, result.num_steps) == ("paused", point)
    second = make_parts(NoisyNet, loader(), seed=1)
    result = second.fit(epochs=2, run=tmp_path)
    assert (result.status, result.num_steps, result.num_epochs) == ("finished", 2 * NUM_STEPS, 2)
    compare(first, second, whole)


@pytest.mark.parametrize(
    ("options", "point"),
    [
        pytest.param({"noise": 0.1}, NUM_STEPS + 2, id="augmented"),
        pytest.param({"persistent_workers": True}, NUM_STEPS + 2, id="workers-kept-mid-epoch"),
        pytest.param({"persistent_workers": True}, NUM_STEPS, id="workers-kept-end-of-epoch"),
    ],
)
def test_a_paused_run_goes_on_with_workers(tmp_path: Path, options: dict[str, Any], point: int) -> None:
    """The workers' random numbers come again too, where they are seeded in each epoch."""

    def train(seed: int = 0, at: int = -1, **folder: Path) -> Parts:
        parts = make_parts(NoisyNet, make_loader(num_workers=2, **options), seed=seed, on_loss=pause_at(at))
        parts.fit(**folder)
        parts.loader = None  # its workers end now; in a cycle that is collected later they would be waited for
        return parts

    whole = train()
    first = train(at=point, run=tmp_path)
    second = train(seed=1, run=tmp_path)
    compare(first, second, whole)
    assert not (tmp_path / "workers.json").exists()


OPTIONS: dict[str, dict[str, Any]] = {
    "accumulation": {"accumulate": 2},
    "micro-batches": {"micro_batch": 3},
    "validation": {"val_loader": make_loader(generator=torch.Generator().manual_seed(5))},
    "validation-on-a-data-set": {"val_loader": Samples(20)},
    "clipping": {"clip_norm": 0.1},
    "checkpoints-on-the-way": {"checkpoint_every": 2},
    "best-restored": {"val_loader": make_loader(), "patience": 5},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_paused_run_goes_on_with_options(tmp_path: Path, options: dict[str, Any]) -> None:
    """Whatever a run is asked for, it is the same after a pause."""
    whole = make_parts(NoisyNet)
    expected = whole.fit(run=tmp_path / "whole", **options)
    first = make_parts(NoisyNet, on_loss=pause_at(10))
    assert first.fit(run=tmp_path / "run", **options).status == "paused"
    second = make_parts(NoisyNet, seed=1)
    result = second.fit(run=tmp_path / "run", **options)
    compare(first, second, whole)
    assert (result.reviews, result.best_score) == (expected.reviews, expected.best_score)


def test_a_schedule_by_validation_goes_on(tmp_path: Path) -> None:
    """A `ReduceLROnPlateau` is stepped once per validation, before and after a pause."""

    def make(seed: int = 0, at: int = -1) -> Parts:
        parts = make_parts(NoisyNet, seed=seed, on_loss=pause_at(at))
        parts.scheduler = ReduceLROnPlateau(parts.optimizer, patience=0, threshold=0.5)
        return parts

    whole = make()
    result = whole.fit(val_loader=make_loader(), epochs=4)
    assert result.reviews[-1].metrics["learning_rate"] < result.reviews[0].metrics["learning_rate"]
    first = make(at=10)
    first.fit(val_loader=make_loader(), epochs=4, run=tmp_path)
    second = make(seed=1)
    second.fit(val_loader=make_loader(), epochs=4, run=tmp_path)
    compare(first, second, whole)


@pytest.mark.parametrize("loader", [LOADERS[name] for name in FAILING], ids=FAILING)
@pytest.mark.parametrize("point", [2, NUM_STEPS, NUM_STEPS + 1, NUM_STEPS + 3])
def test_a_failed_run_goes_on(tmp_path: Path, point: int, loader: Callable[[], Any]) -> None:
    """An exception in the user's code is raised again, and costs no more than the step it was raised in."""
    whole = make_parts(NoisyNet, loader())
    whole.fit()
    first = make_parts(NoisyNet, loader(), on_loss=fail_at(point))
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        first.fit(run=tmp_path)
    assert '"status": "failed: ZeroDivisionError"' in (tmp_path / "events.jsonl").read_text()
    second = make_parts(NoisyNet, loader(), seed=1)
    second.fit(run=tmp_path)
    compare(first, second, whole)


def test_a_run_that_failed_at_once_begins_anew(tmp_path: Path) -> None:
    """Where no step was made there is nothing to go on from."""
    with pytest.raises(ZeroDivisionError):
        make_parts(on_loss=fail_at(1)).fit(run=tmp_path)
    whole = make_parts()
    whole.fit()
    second = make_parts()
    second.fit(run=tmp_path)
    assert list_differences(second.capture(), whole.capture()) == []


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS.keys())
def test_more_epochs(tmp_path: Path, loader: Callable[[], Any]) -> None:
    """A finished run goes on with more epochs, and returns at once without."""
    whole = make_parts(NoisyNet, loader())
    whole.fit(epochs=3)
    first = make_parts(NoisyNet, loader())
    assert first.fit(run=tmp_path, epochs=1).num_steps == NUM_STEPS
    after_first = first.capture()
    again = make_parts(NoisyNet, loader(), seed=1)
    result = again.fit(run=tmp_path, epochs=1)
    assert (result.status, result.num_steps, again.num_losses) == ("finished", NUM_STEPS, 0)
    assert list_differences(again.capture(), after_first) == []
    more = make_parts(NoisyNet, loader(), seed=2)
    assert more.fit(run=tmp_path, epochs=3).num_steps == 3 * NUM_STEPS
    compare(first, more, whole)


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a-run-that-is-there": ({"resume": False}, RunExistsError, "already holds a run"),
    "another-loader": (
        {"loader": make_loader(batch_size=22)},
        InputError,
        "the run was trained on other data, which was: ",
    ),
}


@pytest.mark.parametrize(("options", "kind", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_go_on_is_refused(
    tmp_path: Path, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    """A run is not overwritten, and not gone on with on other data."""
    make_parts(on_loss=pause_at(4)).fit(run=tmp_path)
    options = dict(options)
    parts = make_parts(loader=options.pop("loader", None))
    with pytest.raises(kind, match=message):
        parts.fit(run=tmp_path, **options)


def test_a_run_that_has_to_be_there_is_missed(tmp_path: Path) -> None:
    """`resume=True` insists on a run."""
    with pytest.raises(InputError, match="resume is True, but there is no run in"):
        make_parts().fit(run=tmp_path / "none", resume=True)
    with pytest.raises(InputError, match="resume is True, but no run folder was given"):
        make_parts().fit(resume=True)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGTERM, "paused", id="SIGTERM"),
        pytest.param(signal.SIGUSR1, "paused", id="SIGUSR1"),
        pytest.param(signal.SIGINT, "paused", id="Ctrl-C"),
        pytest.param(None, "paused", id="file"),
        pytest.param(signal.SIGKILL, None, id="SIGKILL"),
    ],
)
def test_a_process_that_is_stopped_goes_on(tmp_path: Path, number: signal.Signals | None, status: str | None) -> None:
    """A real process is stopped by a real signal; another goes on from it, bit for bit."""
    code = f"from pathlib import Path\nfrom tests.loop.runs import train_slowly\ntrain_slowly(Path({str(tmp_path)!r}))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "training\n"
        while not list(tmp_path.glob("checkpoints/step-*")):
            time.sleep(0.01)
        if number is None:
            send_signal(tmp_path, "pause")
        else:
            child.send_signal(number)
        told = child.communicate(timeout=30)[0].split()
    assert told[:1] == ([] if status is None else [status])
    num_epochs = int(told[1]) // NUM_STEPS + 2 if told else 4
    whole = make_parts(NoisyNet)
    whole.fit(epochs=num_epochs)
    second = make_parts(NoisyNet, seed=1)
    second.fit(epochs=num_epochs, run=tmp_path)
    assert 0 < second.num_losses < whole.num_losses
    assert list_differences(second.capture(), whole.capture()) == []
