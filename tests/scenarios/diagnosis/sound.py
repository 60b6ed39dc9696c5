"""Logs of runs with which nothing is the matter, of all shapes that healthy training has."""

from __future__ import annotations

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


def shaped(**options: float) -> Make:
    """A healthy run whose loss falls in another way."""

    def make(rng: Rng) -> Draft:
        return healthy(rng, loss=fall(rng, **options))  # type: ignore[arg-type]

    return make


def length(num: int) -> Make:
    """A healthy run of another length."""
    return lambda rng: healthy(rng, num)


def every(distance: int, num: int = NUM) -> Make:
    """A healthy run that was logged every so many steps."""

    def make(rng: Rng) -> Draft:
        draft = healthy(rng, num)
        draft.steps = distance * np.arange(1, num + 1)
        return draft

    return make


def loss_alone(rng: Rng) -> Draft:
    """Nothing but the loss."""
    return Draft({"loss": fall(rng)})


def warmup_bump(rng: Rng) -> Draft:
    """A loss that rises by half during the warm-up and then falls."""
    times = np.linspace(0, 1, NUM)
    bump = 1 + 0.5 * np.exp(-(((times - 0.06) / 0.03) ** 2))
    return healthy(rng, loss=fall(rng) * bump, learning_rate=cosine(warmup=0.1))


def slow_start(rng: Rng) -> Draft:
    """A loss that rests at its start for a tenth of the run before it falls."""
    times = np.linspace(0, 1, NUM)
    curve = 0.6 + 1.7 / (1 + np.exp(20 * (times - 0.3)))
    return healthy(rng, loss=curve * noise(rng, NUM, 0.05))


def sudden_insight(rng: Rng) -> Draft:
    """A loss that rests high for half of the run and then falls at once."""
    times = np.linspace(0, 1, NUM)
    return healthy(rng, loss=(0.2 + 2.0 / (1 + np.exp(60 * (times - 0.5)))) * noise(rng, NUM, 0.05))


def restarts(num_cycles: int, bump: float) -> Make:
    """A cosine schedule that starts again, with a bump of the loss each time."""

    def make(rng: Rng) -> Draft:
        width = NUM // num_cycles
        rate = np.tile(cosine(width, warmup=0.01, end=0.01), num_cycles)
        since = np.arange(len(rate)) % width
        later = np.arange(len(rate)) >= width
        loss = fall(rng, len(rate)) * (1 + bump * later * np.exp(-since / 10))
        return Draft({"loss": loss, "grad_norm": norms(rng, len(rate)), "learning_rate": rate})

    return make


def ends_on_restart(rng: Rng) -> Draft:
    """The same, ended shortly after the schedule has started again."""
    draft = restarts(4, 0.4)(rng)
    draft.columns = {name: column[: 3 * (NUM // 4) + 15] for name, column in draft.columns.items()}
    return draft


def steps_down(rng: Rng) -> Draft:
    """A rate that falls tenfold twice, and a loss that falls with it."""
    rate = 0.1 * 0.1 ** (np.arange(NUM) * 3 // NUM)
    loss = np.array([1.0, 0.6, 0.5])[np.arange(NUM) * 3 // NUM] * (1 + 1.5 * np.exp(-np.arange(NUM) / 15))
    return healthy(rng, loss=loss * noise(rng, NUM, 0.05), learning_rate=rate)


def fine_tuning(level: float, rate: float, drop: float) -> Make:
    """A model that is near the bottom already."""

    def make(rng: Rng) -> Draft:
        loss = fall(rng, start=level, end=level * (1 - drop), speed=3, size=0.1)
        return healthy(rng, loss=loss, learning_rate=cosine(peak=rate))

    return make


def heavy_tails(rng: Rng) -> Draft:
    """A loss with the heavy tails of Student's t with 4 degrees of freedom, on log scale."""
    tails = np.exp(0.12 * rng.standard_t(4, NUM))
    return healthy(rng, loss=fall(rng, size=0.0) * tails, grad_norm=norms(rng) * np.exp(0.2 * rng.standard_t(4, NUM)))


def harder_domain(rng: Rng) -> Draft:
    """One batch in ten from a domain twice as hard."""
    times = np.where(rng.random(NUM) < 0.1, 2.0, 1.0)
    return healthy(rng, loss=fall(rng) * times)


def sawtooth(rng: Rng) -> Draft:
    """A loss that falls a little at each new epoch, as where training data comes again."""
    epoch = np.arange(NUM) // 50
    return healthy(rng, loss=fall(rng) * 0.93**epoch)


def negative(rng: Rng) -> Draft:
    """A negative log-likelihood of densities, which passes below 0."""
    times = np.linspace(0, 1, NUM)
    return healthy(rng, loss=-2 + 3.5 * np.exp(-5 * times) + 0.1 * rng.normal(size=NUM))


def regression(rng: Rng) -> Draft:
    """A mean squared error that falls over four decades."""
    return healthy(rng, loss=10 ** np.linspace(2, -2, NUM) * noise(rng, NUM, 0.3), grad_norm=norms(rng, level=20))


def perfect(rng: Rng) -> Draft:
    """A loss without noise, as of full batches."""
    times = np.linspace(0, 1, NUM)
    return healthy(rng, loss=0.5 + 2 * np.exp(-5 * times), grad_norm=0.1 + np.exp(-5 * times))


def reviewed(evaluated: Numbers, size: float = 0.02, end: float = 0.6) -> Make:
    """A healthy run with evaluations."""
    return lambda rng: with_reviews(healthy(rng, loss=fall(rng, end=end)), rng, evaluated, size)


def with_accuracy(rng: Rng) -> Draft:
    """The same with an accuracy that rises."""
    evaluated = 0.7 + 1.5 * np.exp(-np.linspace(0.3, 4, 10))
    return with_reviews(healthy(rng), rng, evaluated, val_accuracy=np.linspace(0.3, 0.85, 10))


def contrastive(rng: Rng) -> Draft:
    """A contrastive loss that falls while embeddings stay apart."""
    draft = healthy(rng, loss=fall(rng, start=5.5, end=1.0))
    return with_reviews(draft, rng, 1.1 + 4 * np.exp(-np.arange(10.0)), embedding_std=np.linspace(0.8, 0.62, 10))


def calibrating(rng: Rng) -> Draft:
    """float16 with a scaler that looks for its scale, and grows once with an overflow after it."""
    scales = np.full(NUM, 4096.0)
    scales[:4] = 65536.0 / 2.0 ** np.arange(4)
    scales[250:252] = 8192.0
    draft = healthy(rng, loss_scale=scales)
    draft.columns["grad_norm"][:4] = [np.nan, np.inf, np.inf, np.inf]
    draft.columns["grad_norm"][251] = np.inf
    draft.manifest = {"dtype": "float16"}
    return draft


def adversarial(rng: Rng) -> Draft:
    """Generator and discriminator, whose losses swing against each other."""
    swing = np.sin(np.arange(NUM) / 15)
    made = healthy(rng, loss=1.4 + 0.5 * swing + 0.1 * rng.normal(size=NUM))
    made.columns["loss_d"] = 0.7 + 0.4 * swing + 0.05 * rng.normal(size=NUM)
    made.columns["loss_g"] = 0.7 - 0.4 * swing + 0.05 * rng.normal(size=NUM)
    return made


def resumed(rng: Rng) -> Draft:
    """A run that was killed once and resumed 30 steps before."""
    draft = healthy(rng)
    order = np.r_[0:220, 190:NUM]
    draft.columns = {name: column[order] for name, column in draft.columns.items()}
    draft.steps = order + 1
    return draft


def few_repeats(rng: Rng) -> Draft:
    """A handful of records that are there twice, and as many that are not there."""
    draft = healthy(rng)
    order = np.r_[0:100, 96:200, 205:NUM]
    draft.columns = {name: column[order] for name, column in draft.columns.items()}
    draft.steps = np.sort(order) + 1
    return draft


def shared_machine(rng: Rng) -> Draft:
    """Steps whose time doubles now and then, with a checkpoint every 100."""
    seconds = 0.1 * np.where((np.arange(NUM) // 60) % 2, 2.2, 1.0) * noise(rng, NUM, 0.2)
    seconds[99::100] = 4.0
    return healthy(rng, step_seconds=seconds)


def small_data(rng: Rng) -> Draft:
    """Eight batches in turns, which is all the data."""
    return healthy(rng, batch_fingerprint=np.resize(rng.integers(1, 2**40, 8).astype(float), NUM))


def fingerprinted(rng: Rng) -> Draft:
    """Batches all different."""
    return healthy(rng, batch_fingerprint=rng.integers(1, 2**40, NUM).astype(float))


def growing_weights(rng: Rng) -> Draft:
    """Weights that grow by half, as they do, while the loss falls."""
    return healthy(rng, weight_norm=20 * np.linspace(1, 1.5, NUM) * noise(rng, NUM, 0.001))


def learned_to_zero(digits: int) -> Make:
    """A small set that is learned by heart: a loss that falls to exactly 0, as it was rounded."""

    def make(rng: Rng) -> Draft:
        loss = 2.3 * np.exp(-16 * np.linspace(0, 1, NUM)) * noise(rng, NUM, 0.1)
        return healthy(rng, loss=np.round(loss, digits), grad_norm=loss)

    return make


def slack(rng: Rng) -> Draft:
    """A hinge loss that more and more batches meet: more and more zeros, at last no others."""
    share = np.linspace(1.0, -0.3, NUM)
    loss = np.maximum(share + 0.25 * rng.normal(size=NUM), 0.0)
    loss[-110:] = 0.0
    return healthy(rng, loss=loss)


def epochs(num: int, size: float = 0.01) -> Make:
    """One record an epoch, averages with little noise, each with a review."""

    def make(rng: Rng) -> Draft:
        loss = fall(rng, num, start=2.1, end=0.5, speed=4, size=size)
        draft = Draft({"loss": loss, "learning_rate": cosine(num)})
        return with_reviews(draft, rng, 1.15 * fall(rng, num, start=2.0, end=0.75, speed=4, size=size), size=size)

    return make


def ended_schedule(rng: Rng) -> Draft:
    """A schedule that falls to 0 at the very end."""
    return healthy(rng, learning_rate=cosine(end=0.0))


SOUND: dict[str, Make] = {
    "as it should be": healthy,
    "the loss alone": loss_alone,
    "a fast fall": shaped(speed=40),
    "a slow fall": shaped(speed=1.0),
    "a steep fall to a low loss": shaped(start=8.0, end=0.05, speed=10),
    "little to learn": shaped(start=1.2, end=1.0, speed=5, size=0.02),
    "a noisy loss": shaped(size=0.25),
    "a very noisy loss": shaped(size=0.5, speed=4),
    "a quiet loss": shaped(size=0.004),
    "a language model": shaped(start=10.8, end=3.4, speed=8, size=0.03),
    "no noise at all": perfect,
    "1 record": length(1),
    "5 records": length(5),
    "12 records": length(12),
    "16 records": length(16),
    "24 records": length(24),
    "12 epochs": epochs(12),
    "20 epochs": epochs(20),
    "50 epochs": epochs(50),
    "20 epochs with some noise": epochs(20, size=0.03),
    "every 100th step, 30 of them": every(100, 30),
    "60 records": length(60),
    "2000 records": length(2000),
    "every tenth step": every(10),
    "every 500th step": every(500, 80),
    "a warm-up bump": warmup_bump,
    "a slow start": slow_start,
    "a sudden insight": sudden_insight,
    "two restarts": restarts(2, 0.6),
    "four restarts": restarts(4, 0.4),
    "four restarts with great bumps": restarts(4, 1.0),
    "ended on a restart": ends_on_restart,
    "a rate in steps": steps_down,
    "fine-tuning at the bottom": fine_tuning(0.08, 2e-5, 0.0),
    "fine-tuning a language model": fine_tuning(2.1, 2e-5, 0.08),
    "fine-tuning that is flat": fine_tuning(1.7, 1e-5, 0.0),
    "fine-tuning at a higher rate": fine_tuning(0.25, 1e-4, 0.05),
    "heavy tails": heavy_tails,
    "a harder domain": harder_domain,
    "a sawtooth": sawtooth,
    "a loss below zero": negative,
    "a squared error over decades": regression,
    "a small set learned to 0.00": learned_to_zero(2),
    "a small set learned to 0.0000": learned_to_zero(4),
    "a hinge loss that is met": slack,
    "reviews that fall": reviewed(0.7 + 1.5 * np.exp(-np.linspace(0.3, 4, 12))),
    "reviews that are flat at the end": reviewed(0.8 + 1.5 * np.exp(-np.linspace(0.3, 12, 16)), size=0.01),
    "noisy reviews": reviewed(0.8 + 1.5 * np.exp(-np.linspace(0.3, 4, 16)), size=0.12),
    "reviews a little below the training": reviewed(0.85 * (0.6 + 1.9 * np.exp(-6 * np.linspace(0.1, 1, 10)))),
    "reviews a little above the training": reviewed(1.4 * (0.6 + 1.9 * np.exp(-6 * np.linspace(0.1, 1, 10)))),
    "a rise of the last review": reviewed(np.append(0.7 + 1.5 * np.exp(-np.linspace(0.3, 4, 11)), 0.78)),
    "an accuracy that rises": with_accuracy,
    "a contrastive loss": contrastive,
    "a scaler that calibrates itself": calibrating,
    "generator and discriminator": adversarial,
    "a run that was resumed": resumed,
    "a few records twice": few_repeats,
    "a machine shared with others": shared_machine,
    "eight batches in turns": small_data,
    "batches all different": fingerprinted,
    "weights that grow": growing_weights,
    "a schedule that ends": ended_schedule,
    "constant noise about a falling level": lambda rng: healthy(
        rng, loss=fall(rng, size=0.0) + 0.1 * rng.normal(size=NUM)
    ),
    "fine-tuning without a rate": lambda rng: Draft({"loss": rest(rng, level=0.2, size=0.15)}),
}
"""By their shape: how the log is made."""
