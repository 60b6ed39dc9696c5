"""The ranks of a distributed run: `python -m tests.laws.ranks FOLDER SCENARIO …` writes what became of each."""

from __future__ import annotations

import math
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from tests.forks import end, fork_ranks, join_group, mark_done
from tests.laws.spoils import Failure, Fragile, FragileSchedule, toy_probe
from tests.laws.training import Event, Training, capture_optimizer, capture_weights, make_training
from trimtab import Plan, Policy
from trimtab.detectors import detector, detectors
from trimtab.errors import RanksError, TrimtabError
from trimtab.history import History
from trimtab.probes import Reading, Values
from trimtab.probes.subject import Moment
from trimtab.signals import READ_EVERY_SECONDS, send_signal
from trimtab.state.checkpoints import Checkpoints
from trimtab.types import Breach

NUM_RANKS = 2

LAST_RANK = NUM_RANKS - 1

NUM_STEPS = 24

BAD_STEP = 20

PROVING_STEP = 18
"""The step that ends the probation of the snapshot of step 16."""

SAVED_EVERY = 10

SAMPLED_STEP = 2

SECONDS = 20
"""How long a rank waits for another before it gives up: a hang is a failure, not a wait for ever."""


def make_run(**fields: Any) -> Training:
    """A run whose ranks have data and random numbers of their own."""
    training = make_training("adamw", **fields)
    training.model = DistributedDataParallel(training.model)
    training.batches.seed = 1000 * distributed.get_rank()
    torch.manual_seed(distributed.get_rank())
    return training


def is_last_rank() -> bool:
    """True on the last rank."""
    return distributed.get_rank() == LAST_RANK


def on_last_rank(training: Training) -> bool:
    """True on the last rank at the bad step."""
    return training.batches.position == BAD_STEP and is_last_rank()


def run_healthy(_: Path) -> Training:
    """Nothing happens, and nobody looks."""
    return make_run().run(NUM_STEPS)


def run_left_out(_: Path) -> Training:
    """One step is left out on all ranks, and nobody looks."""

    def leave_out(training: Training) -> None:
        if training.batches.position == BAD_STEP:
            training.optimizer.zero_grad()

    return make_run(after_backward=leave_out).run(NUM_STEPS)


def run_clipped(_: Path) -> Training:
    """Gradients are clipped by PyTorch."""
    return make_run(clip_norm=0.5).run(NUM_STEPS)


def run_watched(folder: Path) -> Training:
    """A supervisor looks on and clips."""
    return make_run(clip_norm=0.5).supervise(run=folder / "watched", strict=True).run(NUM_STEPS)


def run_nan(folder: Path) -> Training:
    """The last rank has a NaN batch."""

    def distort(training: Training, _: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs * math.nan if on_last_rank(training) else inputs, targets

    return make_run(distort=distort).supervise(run=folder / "nan", strict=True).run(NUM_STEPS)


def run_nan_loss(_: Path) -> Training:
    """The last rank reports a NaN loss; its gradients are finite."""
    training = make_run()
    training.report = lambda loss: loss * math.nan if on_last_rank(training) else loss
    return training.supervise(strict=True).run(NUM_STEPS)


def run_spike(_: Path) -> Training:
    """The last rank has a batch whose loss is far above the others."""

    def distort(training: Training, _: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, targets * 100 if on_last_rank(training) else targets

    return make_run(distort=distort).supervise(strict=True).run(NUM_STEPS)


def run_ruined(_: Path) -> Training:
    """The last rank's weights are ruined."""

    training = make_run(after_update=ruin_weights(BAD_STEP, LAST_RANK))
    return training.supervise(data=training.batches, strict=True).run(NUM_STEPS)


def run_faulty_probe(folder: Path) -> Training:
    """A probe fails on the last rank."""

    def fail_on_last_rank(_: Moment) -> Reading:
        if is_last_rank():
            raise Failure("a toy probe failed")
        yield torch.ones(1)
        return {}

    with toy_probe(fail_on_last_rank, size=lambda _: 1):
        return make_run(clip_norm=0.5).supervise(run=folder / "faulty_probe", strict=False).run(NUM_STEPS)


def ruin_weights(step: int, *ranks: int) -> Event:
    """Make the first weights of some ranks NaN after the update of a step, once."""

    def ruin(training: Training) -> None:
        is_due = training.batches.position == step and "rollback" not in training.verdicts
        if is_due and distributed.get_rank() in ranks:
            with torch.no_grad():
                next(training.model.parameters()).fill_(math.nan)

    return ruin


def run_faulty_snapshot(_: Path) -> Training:
    """The last rank cannot complete its third snapshot, that of step 16, and is ruined later on."""
    return (
        make_run(after_update=ruin_weights(BAD_STEP, LAST_RANK))
        .supervise(Fragile(3, breaks=is_last_rank), strict=False)
        .run(NUM_STEPS)
    )


def run_faulty_schedule(_: Path) -> Training:
    """The last rank cannot even take its third snapshot, and is ruined later on."""
    return (
        make_run(after_update=ruin_weights(BAD_STEP, LAST_RANK))
        .supervise(FragileSchedule(3, breaks=is_last_rank), strict=False)
        .run(NUM_STEPS)
    )


def run_faulty_start(_: Path) -> Training:
    """The last rank cannot take its first snapshot, and all are ruined before there is another."""
    return (
        make_run(after_update=ruin_weights(4, *range(NUM_RANKS)))
        .supervise(Fragile(1, breaks=is_last_rank), strict=False)
        .run(NUM_STEPS)
    )


def run_faulty_restore(_: Path) -> Training:
    """The last rank is ruined, and cannot set its partner back."""
    training = make_run(after_update=ruin_weights(BAD_STEP, LAST_RANK))
    return training.supervise(Fragile(loads=False, breaks=is_last_rank), strict=False).run(NUM_STEPS)


def run_unsized_probe(_: Path) -> Training:
    """A probe that yields other than it says fails on the last rank."""

    def fail_on_last_rank(_: Moment) -> Values:
        if is_last_rank():
            raise Failure("a toy probe failed")
        return {}

    with toy_probe(fail_on_last_rank, size=lambda _: 1):
        return make_run(clip_norm=0.5).supervise(strict=False).run(NUM_STEPS)


def run_faulty_rerun(_: Path) -> Training:
    """The last rank has a NaN batch, and fails to compute its loss once more."""

    def fail_on_last_rank(*_: object) -> Tensor:
        if is_last_rank():
            raise Failure("a toy loss failed")
        return torch.zeros(())

    def distort(training: Training, _: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs * math.nan if on_last_rank(training) else inputs, targets

    return make_run(distort=distort).supervise(compute_loss=fail_on_last_rank, strict=False).run(NUM_STEPS)


def run_faulty_detector(_: Path) -> Training:
    """On the last rank a detector fails at the very step that proves a snapshot elsewhere; later all are ruined."""

    @detector("toy", severity="low")
    def fail_on_last_rank(history: History) -> Iterator[Breach]:
        if is_last_rank() and history.newest.step == PROVING_STEP:
            raise Failure("a toy detector failed")
        yield from ()

    policy = Policy({**Policy.default().plans, "toy": Plan()})
    try:
        training = make_run(after_update=ruin_weights(NUM_STEPS - 2, *range(NUM_RANKS)))
        return training.supervise(policy=policy, strict=False).run(NUM_STEPS)
    finally:
        del detectors["toy"]


class FragileData:
    """A data position that cannot be told at one step; elsewhere than on the last rank it can."""

    def __init__(self, training: Training, bad_step: int) -> None:
        self._training, self._bad_step = training, bad_step

    def state_dict(self) -> dict[str, Any]:
        if is_last_rank() and self._training.batches.position == self._bad_step:
            raise Failure("a toy data position failed")
        return self._training.batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._training.batches.load_state_dict(state)


def save_along(training: Training, folder: Path, **options: Any) -> Training:
    """Offer a checkpoint at the end of every step; which there are in the end is told."""

    def save(training: Training) -> None:
        assert training.supervisor is not None
        is_asked = training.batches.position == training.told.get("now")
        training.supervisor.checkpoint(now=is_asked)

    training.after_update = save
    training.supervise(run=folder, checkpoint_every=SAVED_EVERY, strict=False, **options)
    training.run(NUM_STEPS)
    assert training.supervisor is not None
    training.supervisor.finish()
    training.told["saved"] = [stamp.step for _, stamp in Checkpoints(folder / "checkpoints").list()]
    return training


def run_faulty_copy(folder: Path) -> Training:
    """The last rank cannot copy what the first checkpoint of all is to hold."""
    training = make_run()
    return save_along(training, folder / "faulty_copy", data=FragileData(training, SAVED_EVERY))


def run_faulty_proof(folder: Path) -> Training:
    """The last rank cannot judge the step that proves a checkpoint, and right after it the next one is asked for."""
    proving = SAVED_EVERY + Policy.default().probation

    @detector("toy", severity="low")
    def fail_on_last_rank(history: History) -> Iterator[Breach]:
        if is_last_rank() and history.newest.step == proving:
            raise Failure("a toy detector failed")
        yield from ()

    training = make_run()
    training.told["now"] = proving
    try:
        policy = Policy({**Policy.default().plans, "toy": Plan()})
        return save_along(training, folder / "faulty_proof", policy=policy)
    finally:
        del detectors["toy"]


def run_faulty_tidying(folder: Path) -> Training:
    """The first rank cannot remove what a killed write seems to have left."""
    if not is_last_rank():
        (folder / "faulty_tidying" / "checkpoints").mkdir(parents=True)
        (folder / "faulty_tidying" / "checkpoints" / ".step-000001.partial").touch()
    return save_along(make_run(), folder / "faulty_tidying", resume=True)


def run_faulty_signals(folder: Path) -> Training:
    """The last rank cannot read its signals at a sampled step, at which more is measured than at others."""
    training = make_run(clip_norm=0.5).supervise(run=folder / "faulty_signals", signals=True, strict=False)
    assert training.supervisor is not None
    inbox = training.supervisor._inbox
    assert inbox is not None

    class Fragile(type(inbox)):  # type: ignore[misc]
        def read(self) -> Any:
            if training.batches.position == SAMPLED_STEP and is_last_rank():
                raise Failure("a toy inbox failed")
            return super().read()

    inbox.__class__ = Fragile
    return training.run(NUM_STEPS)


def run_lossless(_: Path) -> Training:
    """The last rank has no loss to tell; that of the first is far above what it was, at one step."""
    training = make_run()
    measured: list[Any] = []
    notes: list[str] = []

    def report(loss: Tensor) -> Any:
        own = loss * 100 if training.batches.position == BAD_STEP else loss
        distributed.broadcast(own, 0)  # for the test alone, so that all ranks know what there is to measure
        training.told.setdefault("own", []).append(float(own))
        return None if is_last_rank() else own

    def note(training: Training) -> None:
        assert training.supervisor is not None
        record = training.supervisor.record
        assert record is not None
        measured.append(record.measurement.values["loss"])
        notes.append(record.action.note)

    training.report, training.after_check = report, note
    training.supervise(strict=True).run(NUM_STEPS)
    training.told |= {"losses": measured, "note": notes[BAD_STEP - 1]}
    return training


def run_lossless_nan(_: Path) -> Training:
    """The last rank has no loss to tell, and that of the first is once NaN."""
    training = make_run()

    def report(loss: Tensor) -> Any:
        factor = math.nan if training.batches.position == BAD_STEP else 1.0
        return None if is_last_rank() else loss * factor

    training.report = report
    return training.supervise(strict=True).run(NUM_STEPS)


def run_other_parts(_: Path) -> Training:
    """The last rank tells of no parts of its loss."""
    training = make_run().supervise(strict=False)
    assert training.supervisor is not None
    try:
        training.supervisor.check(1.0, parts={} if is_last_rank() else {"main": 1.0})
    except TrimtabError as error:
        training.told["error"] = f"{type(error).__name__}: {error}"
    return training


def run_diverged(folder: Path) -> Training:
    """One number of the last rank's weights is another than on all other ranks, after the first update."""

    def part(training: Training) -> None:
        if training.batches.position == 1 and is_last_rank():
            with torch.no_grad():
                next(training.model.parameters())[0, 0] += 1e-6

    training = make_run(after_update=part).supervise(run=folder / "diverged", strict=True)
    return training.run(4)


def run_signalled(folder: Path) -> Training:
    """A signal is sent to the run folder, and later the system sends one to the last rank."""
    training = make_run().supervise(run=folder / "signalled", signals=True, strict=True)
    assert training.supervisor is not None
    came_in: dict[int, tuple[str, ...]] = {}

    def note(training: Training) -> None:
        assert training.supervisor is not None
        if training.supervisor.signals:
            came_in[training.batches.position] = training.supervisor.signals

    def send(training: Training) -> None:
        if training.batches.position == 4 and not is_last_rank():
            send_signal(folder / "signalled", "finish")
            time.sleep(1.1 * READ_EVERY_SECONDS)
        if training.batches.position == 8 and is_last_rank():
            os.kill(os.getpid(), signal.SIGUSR1)

    training.after_check, training.after_update = note, send
    training.told["came_in"] = came_in
    return training.run(12)


def run_refused(**options: Any) -> Callable[[Path], Training]:
    """The last rank is set up as no other; what each of them is told."""

    def run(_: Path) -> Training:
        training = make_run().supervise(strict=False, **(options if is_last_rank() else {}))
        try:
            training.run(2)
        except TrimtabError as error:
            training.told["error"] = f"{type(error).__name__}: {error}"
        return training

    return run


def run_out_of_step(_: Path) -> Training:
    """The last rank has counted a step more."""
    training = make_run().supervise(strict=False).run(3)
    assert training.supervisor is not None
    training.supervisor.step += int(is_last_rank())
    try:
        training.run(5)
    except RanksError as error:
        training.told["error"] = str(error)
    return training


def run_dead(folder: Path) -> Training:
    """The last rank ends between two steps; nothing but the supervisor asks it for anything."""
    training = make_training("adamw").supervise(strict=False).run(3)
    if is_last_rank():
        mark_done(folder, LAST_RANK)
        os._exit(0)
    try:
        training.run(5)
    except RanksError as error:
        training.told["error"] = str(error)
    return training


SCENARIOS: Mapping[str, Callable[[Path], Training]] = {
    "healthy": run_healthy,
    "left-out": run_left_out,
    "clipped": run_clipped,
    "watched": run_watched,
    "nan": run_nan,
    "nan-loss": run_nan_loss,
    "spike": run_spike,
    "ruined": run_ruined,
    "faulty-probe": run_faulty_probe,
    "faulty-snapshot": run_faulty_snapshot,
    "faulty-schedule": run_faulty_schedule,
    "faulty-start": run_faulty_start,
    "faulty-restore": run_faulty_restore,
    "unsized-probe": run_unsized_probe,
    "faulty-rerun": run_faulty_rerun,
    "faulty-detector": run_faulty_detector,
    "faulty-copy": run_faulty_copy,
    "faulty-proof": run_faulty_proof,
    "faulty-tidying": run_faulty_tidying,
    "faulty-signals": run_faulty_signals,
    "lossless": run_lossless,
    "lossless-nan": run_lossless_nan,
    "diverged": run_diverged,
    "signalled": run_signalled,
    "other-clipping": run_refused(clip_norm=1.0),
    "other-groups": run_refused(groups={"all": ["inner", "norm", "outer"]}),
    "other-parts": run_other_parts,
    "out-of-step": run_out_of_step,
    "dead": run_dead,
}


def main(folder: Path, *names: str, scenarios: Mapping[str, Callable[[Path], Training]] = SCENARIOS) -> None:
    """Let all ranks take part in some scenarios, one after the other."""
    end(fork_ranks(NUM_RANKS, lambda rank: run_all(folder, rank, [(name, scenarios[name]) for name in names]), folder))


def run_all(folder: Path, rank: int, scenarios: Sequence[tuple[str, Callable[[Path], Training]]]) -> None:
    """Take part in some scenarios as a rank."""
    join_group(folder / "store", rank, NUM_RANKS, SECONDS)
    for name, run in scenarios:
        training = run(folder)
        if training.supervisor is not None:
            training.supervisor.finish()
        result = {
            "state": {**capture_weights(training), **capture_optimizer(training)},
            "decisions": [asdict(decision) for decision in training.decisions],
            "told": training.told,
        }
        (folder / f"{name}-{rank}.pickle").write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
