"""Which of a log's columns is which metric: by the names that are usual, or by the caller's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from trimtab.errors import InputError
from trimtab.types import PER_GROUP, STATE_STEP, Clock

STEP = "step"
EPOCH = "epoch"

METRICS: Mapping[str, tuple[str, ...]] = {
    STEP: tuple(
        """global_step train_global_step trainer_global_step step steps optimizer_step training_step train_step
        training_iteration
        num_updates num_update updates iteration iterations global_iteration iter iters train_iter it""".split()
    ),
    EPOCH: tuple("epoch epochs train_epoch trainer_epoch current_epoch epoch_num".split()),
    "loss": tuple(
        """loss train_loss_step loss_step train_loss training_loss loss_train lm_loss train_lm_loss batch_loss
        loss_batch nll train_nll nll_loss train_nll_loss ce_loss train_ce_loss cross_entropy train_cross_entropy
        total_loss train_total_loss loss_total mean_loss avg_loss loss_avg average_loss running_loss train_loss_epoch
        loss_epoch epoch_loss train_epoch_loss epoch_train_loss cost objective""".split()
    ),
    "accuracy": tuple("accuracy acc accuracy_step acc_step accuracy_epoch acc_epoch epoch_accuracy".split()),
    "grad_norm": tuple(
        """grad_norm gradient_norm gradnorm gnorm global_grad_norm grad_global_norm global_gradient_norm global_norm
        total_grad_norm grad_norm_total total_norm grad_2_0_norm_total grad_norm_2 grads_norm gradients_norm
        grad_norm_before_clip grad_norm_preclip unclipped_grad_norm grad_l2_norm""".split()
    ),
    "learning_rate": tuple(
        "learning_rate lr current_lr learning_rate_0 lr_0 lr_group_0 lr_group0 lr_pg0 base_lr lr_pg1".split()
    ),
    "loss_scale": tuple("loss_scale lossscale grad_scale amp_scale scaler_scale loss_scaler grad_scaler scale".split()),
    "step_seconds": tuple(
        """step_seconds seconds_per_step step_time time_per_step sec_per_step iter_time time_per_iter iteration_time
        batch_time time_ms dt_ms step_time_ms iter_time_ms batch_time_ms step_time_s iter_time_s
        elapsed_time_per_iteration_ms elapsed_time_per_iteration_s""".split()
    ),
    "weight_norm": tuple("weight_norm weights_norm param_norm params_norm parameter_norm parameters_norm".split()),
    "probe_loss": tuple("probe_loss".split()),
}
"""Our metric to their names for it, the likeliest first; small letters, all else an underscore."""

STEP_COUNTED_BY_TOOL = "_step"
"""Weights & Biases' count of its own calls: the step only where nothing else is."""

RATE_OF_OPTIMIZER = re.compile(r"(?:lr|learning_rate)_[a-z]+\d?(?:_pg\d+)?(?:_0)?")
"""A learning rate that is named after its optimizer, such as `lr-AdamW/pg1`."""

UNUSED = re.compile(
    r"""(.*_)?(timestamp|runtime|walltime|time|elapsed|eta|datetime|samples_per_second|steps_per_second|batch_idx)
    |date|created_at|total_flos|index|unnamed_\d+|rank|local_rank|seed|pid""",
    re.VERBOSE,
)
"""Columns that tell of the clock and the machine, and not of the training."""

BEFORE = re.compile(r"(?:train|training|trainer|trimtab|metrics?|optim|optimizer|stats|scalars?|perf|summary|epoch)_")
"""What stands before a name and does not change what is measured."""

HELD_OUT = re.compile(r"(?P<set>val|valid|validation|eval|evaluation|dev|test|testing)_(?P<rest>.+)")
HELD_OUT_LAST = re.compile(r"(?P<rest>.+)_(?P<set>val|valid|validation|eval|evaluation|dev|test)")
"""A metric of held-out data, which is the review's."""

TAKEN = {*PER_GROUP - {"weight_norm"}, STATE_STEP, "rate_declared", "data_declared", "clock"}
"""Names that mean something to the judging half, such as those of one number per group, which another tool's one number
never is; its weight norm is that of the whole model, as if that were one group."""

UNIT = re.compile(r"\s*(?:\[(?!ms\b)[^\]\d]*\]|\(#\)|\((?:nats|bits|avg|mean|raw|smoothed)\))\s*$", re.IGNORECASE)
"""A unit or a remark behind a name, such as `Loss [nats]` or `Step (#)`; milliseconds are not dropped."""

OUR_NAME = re.compile(r"[a-z][a-z0-9_]*")

SELDOM = 0.1
"""A column with less than this share of the numbers of another that could be the same metric is a summary."""


@dataclass(frozen=True, slots=True)
class Column:
    """What a column of theirs is to us."""

    metric: str
    """Our metric, or `"step"`."""

    clock: Clock | None
    """Which clock's it is; None if its name does not tell."""

    factor: float = 1.0
    """What its numbers are multiplied by to be in our unit."""

    is_known: bool = True
    """False if it is kept under its own name."""


@lru_cache(maxsize=4096)
def simplify(name: str) -> str:
    """A name in small letters, with an underscore for everything else, such as `train_loss` for `Train/Loss [nats]`."""
    name = UNIT.sub("", name) or name
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", name).lower()).strip("_")


@lru_cache(maxsize=4096)
def match_name(name: str) -> tuple[str, int] | None:
    """Our metric for a name of theirs, and how far down its list it stands; None if it is not known."""
    plain = simplify(name)
    for metric, known in METRICS.items():
        if plain in known:
            is_tools = metric == STEP and name.strip().lower() == STEP_COUNTED_BY_TOOL
            return ("train_accuracy" if metric == "accuracy" else metric), known.index(plain) + 90 * is_tools
    if RATE_OF_OPTIMIZER.fullmatch(plain):
        return "learning_rate", 90
    if found := HELD_OUT.fullmatch(plain) or HELD_OUT_LAST.fullmatch(plain):
        return _match_held_out(found["set"], found["rest"])
    if before := BEFORE.match(plain):
        rest = match_name(plain[before.end() :])
        return rest and (rest[0], rest[1] + 100)
    return None


def _match_held_out(of_set: str, rest: str) -> tuple[str, int] | None:
    """The loss or the accuracy of held-out data."""
    found = match_name(rest)
    if found is None or found[0] not in ("loss", "train_accuracy"):
        return None
    prefix = "test_" if of_set.startswith("test") else "val_"
    return prefix + ("loss" if found[0] == "loss" else "accuracy"), found[1]


def choose_columns(counts: Mapping[str, int], mapping: Mapping[str, str]) -> dict[str, Column]:
    """What each column is: the caller's word first, then the likeliest for each metric, then its own name.

    Args:
        counts: the names, in their order, with how many numbers each has.
        mapping: their name to ours.

    Returns:
        Their name to what it is, without those that are of no use.

    Raises:
        InputError: if the mapping names a column that is not there, or gives a name that cannot be a metric's.
    """
    told = _resolve(counts, mapping)
    chosen = {name: _describe(name, metric) for name, metric in told.items()}
    candidates: dict[str, list[tuple[int, str]]] = {}
    for name in counts:
        if name not in chosen and (found := match_name(name)) and found[0] not in told.values():
            candidates.setdefault(found[0], []).append((found[1], name))
    for metric, ranked in candidates.items():
        most = max(counts[name] for _, name in ranked)
        _, best = min(ranked, key=lambda each: (counts[each[1]] < SELDOM * most, each[0]))
        chosen[best] = _describe(best, metric)
    taken = {each.metric for each in chosen.values()}
    for name in counts:
        if name not in chosen and not is_unused(name):
            metric = _free_name(simplify(name) or "column", taken)
            taken.add(metric)
            clock: Clock | None = "review" if HELD_OUT.fullmatch(metric) else None
            chosen[name] = Column(metric, clock, is_known=False)
    return {name: chosen[name] for name in counts if name in chosen}


def note_displaced(columns: Mapping[str, Column], mapping: Mapping[str, str]) -> list[str]:
    """A note for each column that is a mapped metric by its own name, and is kept under another; none where none is."""
    told = {each.metric: name for name, each in columns.items() if each.metric in mapping.values()}
    return [
        f"{name!r} is kept as {each.metric!r}, since {told[found[0]]!r} is taken for {found[0]!r} as the mapping says"
        for name, each in columns.items()
        if not each.is_known and (found := match_name(name)) is not None and found[0] in told
    ]


def is_unused(name: str) -> bool:
    """True for a column that tells of the clock and the machine, or that counts steps a second time."""
    found = match_name(name)
    return bool(UNUSED.fullmatch(simplify(name))) if found is None else found[0] in (STEP, EPOCH)


def _resolve(names: Iterable[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """The mapping with their names as the log spells them."""
    spelled = {name.strip().lower(): name for name in names}
    told: dict[str, str] = {}
    for theirs, ours in mapping.items():
        name = theirs if theirs in spelled.values() else spelled.get(theirs.strip().lower())
        if name is None:
            raise InputError(f"mapping: the log has no column {theirs!r} of numbers; it has {', '.join(names)}")
        if not OUR_NAME.fullmatch(ours) or ours in TAKEN:
            raise InputError(
                f"mapping: {theirs!r} cannot be called {ours!r}; a metric is small letters, digits and "
                f"underscores, and none of {', '.join(sorted(TAKEN))}"
            )
        if ours in told.values():
            first = next(each for each, metric in told.items() if metric == ours)
            raise InputError(
                f"mapping: two columns are called {ours!r}, {first!r} and {name!r}; each metric has one column"
            )
        if told.setdefault(name, ours) != ours:
            raise InputError(f"mapping: {name!r} is to be both {told[name]!r} and {ours!r}; a column is one metric")
    return told


def _describe(name: str, metric: str) -> Column:
    is_step = metric in METRICS or metric == "train_accuracy"
    clock: Clock | None = "review" if HELD_OUT.fullmatch(metric) else "step" if is_step and metric != EPOCH else None
    factor = 1e-3 if metric == "step_seconds" and simplify(name).endswith("_ms") else 1.0
    return Column(metric, clock, factor)


def _free_name(metric: str, taken: set[str]) -> str:
    """A name that no other column has."""
    metric = f"column_{metric}" if metric[0].isdigit() else f"{metric}_logged" if metric in TAKEN else metric
    free, number = metric, 2
    while free in taken or free == STEP:
        free, number = f"{metric}_{number}", number + 1
    return free
