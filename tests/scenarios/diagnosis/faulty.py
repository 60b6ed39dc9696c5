"""Logs of runs in which something went wrong, by the cause that is to be named first."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np

from tests.scenarios.diagnosis.logs import (
    NUM,
    Draft,
    Make,
    Numbers,
    Rng,
    cosine,
    fall,
    healthy,
    noise,
    norms,
    rest,
    with_reviews,
)

HALF = NUM // 2


def spoil(name: str, where: slice | int, value: float, **manifest: object) -> Make:
    """A healthy run with a column overwritten in one place."""

    def make(rng: Rng) -> Draft:
        draft = healthy(rng)
        draft.columns[name][where] = value
        draft.manifest = manifest
        return draft

    return make


def nan_from(step: int, **manifest: object) -> Make:
    """Loss and gradient not a number from a step to the end."""

    def make(rng: Rng) -> Draft:
        draft = healthy(rng)
        draft.columns["loss"][step:] = np.nan
        draft.columns["grad_norm"][step:] = np.nan
        draft.manifest = manifest
        return draft

    return make


def gradient_first(rng: Rng) -> Draft:
    """The gradient not finite, the loss one step later and for good, in float32."""
    draft = nan_from(HALF + 1, dtype="float32")(rng)
    draft.columns["grad_norm"][HALF] = np.inf
    return draft


def weights_first(rng: Rng) -> Draft:
    """A weight norm not finite together with the loss, to the end."""
    draft = nan_from(HALF, dtype="float32")(rng)
    draft.columns["weight_norm"] = 20 * noise(rng, NUM, 0.001)
    draft.columns["weight_norm"][HALF:] = np.inf
    return draft


def explode_to_nan(rng: Rng) -> Draft:
    """A loss that grows by a third each step, then is not a number."""
    draft = nan_from(HALF + 25, dtype="float32")(rng)
    growth = 1.35 ** np.arange(25)
    draft.columns["loss"][HALF : HALF + 25] *= growth
    draft.columns["grad_norm"][HALF : HALF + 25] *= growth
    return draft


def explode_after_rate(rng: Rng) -> Draft:
    """A rate a hundred times as high, a loss that grows, then infinity, in float16."""
    draft = explode_to_nan(rng)
    draft.columns["learning_rate"][HALF:] *= 100
    draft.manifest = {"dtype": "float16"}
    return draft


def bad_review(rng: Rng) -> Draft:
    """A validation loss that is not a number at the later half of the reviews."""
    draft = with_reviews(healthy(rng), rng, np.linspace(2.0, 0.9, 10))
    draft.reviews["val_loss"][5:] = np.nan
    return draft


def long_tail(rng: Rng) -> Draft:
    """One batch with a loss 5 times and a gradient norm 60 times as high."""
    draft = healthy(rng)
    draft.columns["loss"][HALF] *= 5
    draft.columns["grad_norm"][HALF] *= 60
    return draft


def rate_jump(rng: Rng) -> Draft:
    """A rate 20 times as high for 5 steps, and a loss that follows and recovers."""
    draft = healthy(rng)
    draft.columns["learning_rate"][HALF : HALF + 5] *= 20
    draft.columns["loss"][HALF + 1 : HALF + 8] *= 4
    return draft


def rate_ramp(rng: Rng) -> Draft:
    """A rate that grows by 3 % a step without an end, and a spike on its way."""
    draft = healthy(rng)
    draft.columns["learning_rate"] = 1e-3 * np.exp(0.03 * np.clip(np.arange(NUM) - 100.0, 0, None))
    draft.columns["loss"][HALF + 50 : HALF + 53] *= 5
    return draft


def duplicate(rng: Rng) -> Draft:
    """A batch that comes again at once, with a higher loss."""
    draft = healthy(rng)
    prints = rng.integers(1, 2**40, NUM).astype(float)
    prints[HALF] = prints[HALF - 7]
    draft.columns["batch_fingerprint"] = prints
    draft.columns["loss"][HALF] *= 4
    return draft


def lone_spike(times: float, size: float = 0.06) -> Make:
    """One step with a higher loss and nothing else."""

    def make(rng: Rng) -> Draft:
        draft = healthy(rng)
        draft.columns["loss"] = fall(rng, size=size)
        draft.columns["loss"][HALF] *= times
        return draft

    return make


def three_spikes(rng: Rng) -> Draft:
    """Three steps with a higher loss."""
    draft = healthy(rng)
    draft.columns["loss"][[150, 230, 330]] *= np.array([4.0, 6.0, 5.0])
    return draft


def persistent(rng: Rng) -> Draft:
    """A loss that rises threefold at one step and stays."""
    draft = healthy(rng)
    draft.columns["loss"][HALF:] *= 3.5
    return draft


def gradient_spike(rng: Rng) -> Draft:
    """One step with a gradient norm 40 times as high, and a usual loss."""
    draft = healthy(rng)
    draft.columns["grad_norm"][HALF] *= 40
    return draft


def scaled(rng: Rng, scales: Numbers) -> Draft:
    draft = healthy(rng)
    draft.columns["loss_scale"] = scales
    draft.manifest = {"dtype": "float16"}
    return draft


def idle_scaler(rng: Rng) -> Draft:
    """A constant loss scale while gradients overflow now and then."""
    draft = scaled(rng, np.full(NUM, 65536.0))
    draft.columns["grad_norm"][rng.choice(NUM, 12, replace=False)] = np.inf
    return draft


def collapsed_scale(rng: Rng) -> Draft:
    """A loss scale that halves at every step to nothing, with gradients that overflow all the while."""
    scales = np.full(NUM, 65536.0)
    scales[HALF:] = 65536.0 * 0.5 ** np.minimum(np.arange(NUM - HALF), 60)
    draft = scaled(rng, scales)
    draft.columns["grad_norm"][HALF : HALF + 60] = np.inf
    return draft


def many_overflows(rng: Rng) -> Draft:
    """Gradients that overflow at every eighth step, at a scale that halves and grows again."""
    scales = np.where(np.arange(NUM) % 8 < 4, 32768.0, 65536.0)
    draft = scaled(rng, scales)
    draft.columns["grad_norm"][7::8] = np.inf
    return draft


def underflow(rng: Rng) -> Draft:
    """Most gradient numbers too small for float16 at every sample."""
    draft = scaled(rng, np.full(NUM, 1.0))
    at = np.arange(2, NUM, 100)
    draft.sampled = {"underflow_share": (at, 0.8 + 0.05 * rng.random(len(at)))}
    return draft


def rising(times: float, rate: float = 1.0, norm: float = 1.0, weight: float | None = None) -> Make:
    """A loss that falls for half of the run and rises slowly for the other, with what rises beside it."""

    def make(rng: Rng) -> Draft:
        ramp = np.clip(np.linspace(-1, 1, NUM), 0, None)
        draft = healthy(rng)
        draft.columns["loss"] = fall(rng, speed=12) * (1 + (times - 1) * ramp)
        draft.columns["learning_rate"] = np.full(NUM, 1e-3) * (1 + (rate - 1) * ramp)
        draft.columns["grad_norm"] = norms(rng) * (1 + (norm - 1) * ramp)
        if weight is not None:
            draft.columns["weight_norm"] = 20 * (1 + (weight - 1) * ramp) * noise(rng, NUM, 0.002)
        return draft

    return make


def rising_alone(rng: Rng) -> Draft:
    """A loss that rises, with nothing else recorded."""
    draft = rising(3.0)(rng)
    return Draft({"loss": draft.columns["loss"]})


def oscillating(rng: Rng) -> Draft:
    """A loss that is high and low in turns."""
    draft = healthy(rng)
    swing = np.where(np.arange(NUM) % 2, 1.6, 0.4)
    draft.columns["loss"] = rest(rng, level=0.9) * swing
    draft.columns["loss"][:20] *= np.linspace(3, 1, 20)
    return draft


def flat(level: float = 1.85, size: float = 0.03, **columns: Callable[[Rng], Numbers]) -> Make:
    """A loss that is flat from the start, with columns that say why."""

    def make(rng: Rng) -> Draft:
        made = {name: column(rng) for name, column in columns.items()}
        draft = healthy(rng, loss=rest(rng, level=level, size=size))
        return Draft({**draft.columns, **made})

    return make


def const(value: float) -> Callable[[Rng], Numbers]:
    """A column that is always the same."""
    return lambda _: np.full(NUM, value)


def flat_half(rng: Rng) -> Draft:
    """Weights in bfloat16 that do not move, with gradient and rate."""
    draft = flat(weight_norm=const(31.25))(rng)
    draft.manifest = {"dtypes": ["bfloat16"]}
    return draft


def sampled(make: Make, **values: float) -> Make:
    """The same with metrics of sampled steps."""

    def remake(rng: Rng) -> Draft:
        draft = make(rng)
        at = np.arange(2, NUM, 100)
        draft.sampled = {name: (at, np.full(len(at), value)) for name, value in values.items()}
        return draft

    return remake


def fast_schedule(rng: Rng) -> Draft:
    """A cosine that is over after a tenth of the run."""
    draft = healthy(rng, loss=fall(rng, start=3.0, end=1.8, speed=30))
    draft.columns["learning_rate"] = np.concatenate((cosine(NUM // 10, end=0.0), np.zeros(NUM - NUM // 10)))
    draft.columns["learning_rate"][NUM // 10 :] = 1e-9
    return draft


def repeating(rng: Rng) -> Draft:
    """A loader that gives five batches from the middle on, each as it comes."""
    draft = healthy(rng)
    prints = rng.integers(1, 2**40, NUM).astype(float)
    prints[HALF:] = rng.choice(prints[:5], NUM - HALF, p=[0.6, 0.1, 0.1, 0.1, 0.1])
    draft.columns["batch_fingerprint"] = prints
    return draft


def overfitting(rng: Rng) -> Draft:
    """A training loss that falls on while the evaluation loss rises from the third review on."""
    draft = healthy(rng, loss=fall(rng, end=0.15))
    return with_reviews(draft, rng, np.array([1.6, 1.1, 0.95, 0.9, 0.95, 1.03, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]))


def late_overfitting(rng: Rng) -> Draft:
    """The same later and more slowly."""
    draft = healthy(rng, loss=fall(rng, end=0.3))
    evaluated = np.concatenate((np.linspace(1.5, 0.9, 10), np.linspace(0.91, 1.12, 8)))
    return with_reviews(draft, rng, evaluated, size=0.008)


def memorizing(rng: Rng) -> Draft:
    """A training loss near zero and an evaluation loss that is flat and reasonable."""
    draft = healthy(rng, loss=fall(rng, end=0.004, speed=14))
    return with_reviews(draft, rng, 0.35 + 0.5 * np.exp(-np.arange(12.0)))


def underfitting(rng: Rng) -> Draft:
    """Training and evaluation that rest high after a short fall."""
    draft = healthy(rng, loss=fall(rng, start=2.3, end=1.95, speed=25, size=0.03))
    return with_reviews(draft, rng, np.full(10, 1.98), size=0.01)


def inconsistent(rng: Rng) -> Draft:
    """An evaluation that is bad from the first review on and never gets better."""
    draft = healthy(rng, loss=fall(rng, start=2.3, end=0.4, speed=20))
    return with_reviews(draft, rng, np.full(10, 3.4), size=0.03)


def leaking(rng: Rng) -> Draft:
    """An evaluation loss a tenth of the training loss."""
    draft = healthy(rng)
    train = 0.6 + 1.9 * np.exp(-6 * np.linspace(0.1, 1, 10))
    return with_reviews(draft, rng, 0.1 * train)


def collapsing(rng: Rng) -> Draft:
    """A contrastive loss that falls to nothing since all embeddings are the same."""
    draft = healthy(rng, loss=fall(rng, end=0.01, speed=12))
    spread = np.concatenate((np.linspace(0.8, 0.7, 4), np.full(6, 0.004)))
    return with_reviews(draft, rng, 0.02 + np.exp(-np.arange(10.0)), embedding_std=spread)


def epochs(train: Numbers, evaluated: Numbers) -> Make:
    """One record an epoch, averages with little noise, each with a review."""

    def make(rng: Rng) -> Draft:
        draft = Draft({"loss": train * noise(rng, len(train), 0.008), "learning_rate": np.full(len(train), 1e-3)})
        return with_reviews(draft, rng, evaluated, size=0.008)

    return make


TIMES = np.linspace(0, 1, 20)
FALLING = 0.2 + 1.8 * np.exp(-4 * TIMES)


def zero_from(step: int) -> Make:
    """A loss of exactly 0 from a step to the end, as where all labels are masked; the gradient goes with it."""

    def make(rng: Rng) -> Draft:
        draft = healthy(rng)
        draft.columns["loss"][step:] = 0.0
        draft.columns["grad_norm"][step:] = 0.0
        return draft

    return make


def zero_for_a_while(rng: Rng) -> Draft:
    """A loss of exactly 0 for 120 steps, then as before."""
    draft = healthy(rng)
    draft.columns["loss"][120:240] = 0.0
    return draft


def slow_overfitting(rng: Rng) -> Draft:
    """A training loss that falls on, and an evaluation loss that rises by 5 % over its last ten reviews."""
    draft = healthy(rng, loss=fall(rng, end=0.3, speed=4))
    evaluated = np.concatenate((np.linspace(1.8, 0.9, 6), np.linspace(0.902, 0.945, 10)))
    return with_reviews(draft, rng, evaluated, size=0.002)


def overwritten(loss: float) -> Make:
    """A weight whose square overflows, to the end, with a loss that is this many times as high."""

    def make(rng: Rng) -> Draft:
        draft = healthy(rng)
        draft.columns["weight_norm"] = 20 * noise(rng, NUM, 0.001)
        draft.columns["weight_norm"][HALF:] = np.inf
        draft.columns["loss"][HALF:] *= loss
        return draft

    return make


def data_bound(rng: Rng) -> Draft:
    """A loader that takes two thirds of every step."""
    draft = healthy(rng, step_seconds=0.3 * noise(rng, NUM, 0.1))
    draft.columns["data_seconds"] = draft.columns["step_seconds"] * 0.66
    return draft


def slowing(rng: Rng) -> Draft:
    """Steps that take five times as long at the end."""
    return healthy(rng, step_seconds=0.1 * np.linspace(1, 6, NUM) ** 1.3 * noise(rng, NUM, 0.1))


def hanging(rng: Rng) -> Draft:
    """Two steps that take minutes."""
    draft = healthy(rng)
    draft.columns["step_seconds"][[120, 300]] = [180.0, 240.0]
    return draft


def slow_epochs(rng: Rng) -> Draft:
    """Epochs that take three times as long as expected, on a device that is fully used."""
    draft = healthy(rng, device_utilization=0.97 + 0.01 * rng.random(NUM), data_seconds=np.full(NUM, 0.002))
    draft.manifest = {"expected_epoch_seconds": 30.0, "steps_per_epoch": 1000}
    return draft


def repeated_records(rng: Rng) -> Draft:
    """Every record twice, as two ranks write them."""
    draft = healthy(rng)
    draft.columns = {name: np.repeat(column, 2) for name, column in draft.columns.items()}
    draft.steps = np.repeat(np.arange(1, NUM + 1), 2)
    return draft


def restarted(rng: Rng) -> Draft:
    """A job that fell over four times and went back 20 steps each time."""
    draft = healthy(rng)
    order = np.concatenate([np.arange(max(0, first - 20), first + 80) for first in range(0, NUM, 80)])
    draft.columns = {name: column[order] for name, column in draft.columns.items()}
    draft.steps = order + 1
    return draft


def gappy(rng: Rng) -> Draft:
    """A log without 60 records in the middle."""
    draft = healthy(rng)
    kept = np.r_[0:150, 210:NUM]
    draft.columns = {name: column[kept] for name, column in draft.columns.items()}
    draft.steps = kept + 1
    return draft


FAULTY: dict[str, tuple[Make, str, str]] = {
    "a loss not a number to the end": (nan_from(HALF, dtype="float32"), "loss-not-finite", "failed"),
    "the same, precision unknown": (nan_from(HALF), "loss-not-finite", "failed"),
    "the same, at the second step": (nan_from(1, dtype="float32"), "loss-not-finite", "failed"),
    "one loss not a number": (spoil("loss", HALF, np.nan, dtype="float32"), "loss-not-finite", "degraded"),
    "a loss infinite in float16": (nan_from(HALF, dtype="float16"), "float16-overflow", "failed"),
    "a loss infinite in bfloat16": (nan_from(HALF, bf16=True), "bfloat16-overflow", "failed"),
    "one gradient infinite": (spoil("grad_norm", HALF, np.inf, dtype="float32"), "gradient-not-finite", "degraded"),
    "the gradient before the loss": (gradient_first, "gradient-not-finite", "failed"),
    "weights that are not finite": (weights_first, "weights-not-finite", "failed"),
    "an explosion that ends in NaN": (explode_to_nan, "explosion", "failed"),
    "a rate that ends in NaN, in float16": (explode_after_rate, "explosion", "failed"),
    "evaluations that are not finite": (bad_review, "review-not-finite", "degraded"),
    "a long-tail batch": (long_tail, "long-tail-batch", "degraded"),
    "a rate that jumps": (rate_jump, "learning-rate-jump", "degraded"),
    "a rate that grows and grows": (rate_ramp, "learning-rate-jump", "degraded"),
    "a batch that comes again": (duplicate, "duplicate-batch", "degraded"),
    "a spike of 4 times": (lone_spike(4.0), "loss-spike", "degraded"),
    "a spike of 1.3 times in a quiet loss": (lone_spike(1.3, size=0.005), "loss-spike", "degraded"),
    "three spikes": (three_spikes, "loss-spike", "degraded"),
    "a spike that stays": (persistent, "persistent-spike", "failed"),
    "a gradient spike": (gradient_spike, "gradient-spike", "degraded"),
    "a scaler that is not engaged": (idle_scaler, "scaler-not-engaged", "degraded"),
    "a loss scale that collapses": (collapsed_scale, "loss-scale-collapsed", "degraded"),
    "overflows every eighth step": (many_overflows, "gradient-overflow", "degraded"),
    "gradients that underflow": (underflow, "gradient-underflow", "degraded"),
    "a rate that ramps too far": (rising(4.0, rate=8.0, norm=3.0), "learning-rate-too-high", "failed"),
    "gradients that grow with the loss": (rising(3.0, norm=12.0), "learning-rate-too-high", "failed"),
    "weights that grow with the loss": (rising(3.0, norm=1.5, weight=3.0), "weight-growth", "failed"),
    "a loss that rises beside nothing": (rising(2.5, weight=1.0), "data-shift", "failed"),
    "a loss that rises, all that is known": (rising_alone, "silent-divergence", "failed"),
    "a loss that oscillates": (oscillating, "oscillating-loss", "degraded"),
    "a rate of zero": (flat(learning_rate=const(0.0)), "zero-learning-rate", "failed"),
    "a gradient of zero": (flat(grad_norm=const(0.0)), "zero-gradient", "failed"),
    "weights that stay": (flat(weight_norm=const(31.25)), "unmoved-weights", "failed"),
    "updates of zero": (flat(update_ratio=const(0.0)), "unmoved-weights", "failed"),
    "bfloat16 weights that stay": (flat_half, "updates-rounded-away", "failed"),
    "gradients never cleared": (sampled(flat(), stale_gradients=1.0), "no-zero-grad", "failed"),
    "a rate of 1e-9": (flat(learning_rate=const(1e-9)), "learning-rate-too-low", "failed"),
    "a rate of 50": (flat(learning_rate=const(50.0)), "learning-rate-absurd", "failed"),
    "a schedule that is over": (fast_schedule, "schedule-too-fast", "degraded"),
    "a loss at ln 10": (flat(level=log(10), size=0.02), "constant-output", "failed"),
    "a loss at ln 50257": (flat(level=log(50_257), size=0.01), "constant-output", "failed"),
    "a loss of a million": (flat(level=1e6, size=0.2), "unscaled-data", "failed"),
    "a loss that is flat": (flat(), "never-learned", "failed"),
    "a loss that is flat and noisy": (flat(size=0.1), "never-learned", "failed"),
    "a loss of 0 from the start": (zero_from(0), "zero-loss", "failed"),
    "a loss of 0 from the middle": (zero_from(HALF), "zero-loss", "failed"),
    "a loss of 0 for a while": (zero_for_a_while, "zero-loss", "degraded"),
    "a weight of 1e30 that the loss does not show": (overwritten(1.0), "corrupted-weights", "failed"),
    "a weight of 1e30 that the loss shows": (overwritten(1e12), "corrupted-weights", "failed"),
    "five batches again and again": (repeating, "repeated-batches", "degraded"),
    "overfitting": (overfitting, "overfitting", "degraded"),
    "overfitting late": (late_overfitting, "overfitting", "degraded"),
    "overfitting by a little": (slow_overfitting, "overfitting", "degraded"),
    "training data known by heart": (memorizing, "memorized-training-data", "degraded"),
    "overfitting over 20 epochs": (epochs(FALLING, 0.8 + 2 * (TIMES - 0.3) ** 2), "overfitting", "degraded"),
    "overfitting from the first review on": (
        epochs(0.02 + 0.3 * np.exp(-4 * TIMES), 1.4 + 2 * TIMES),
        "overfitting",
        "degraded",
    ),
    "flat over 20 epochs": (epochs(np.full(20, 1.7), np.full(20, 1.72)), "never-learned", "failed"),
    "rising over the last 10 of 20 epochs": (
        epochs(FALLING * np.where(TIMES > 0.5, 1 + 8 * (TIMES - 0.5), 1), 1 + FALLING),
        "silent-divergence",
        "failed",
    ),
    "underfitting": (underfitting, "underfitting", "degraded"),
    "another computation in evaluation": (inconsistent, "train-eval-inconsistency", "degraded"),
    "leakage": (leaking, "leakage", "degraded"),
    "a collapse": (collapsing, "collapse", "failed"),
    "a loader that is too slow": (data_bound, "data-bound", "degraded"),
    "steps that slow down": (slowing, "slowed-down", "degraded"),
    "steps that hang": (hanging, "stalls", "degraded"),
    "epochs longer than expected": (slow_epochs, "slower-than-expected", "degraded"),
    "every record twice": (repeated_records, "repeated-records", "degraded"),
    "a job that restarts": (restarted, "restarted-log", "degraded"),
    "records that are missing": (gappy, "gaps-in-log", "degraded"),
}
"""By what is the matter: how the log is made, the cause to be named first, and the verdict."""
