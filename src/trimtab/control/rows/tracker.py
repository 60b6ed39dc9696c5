"""The tracker: what a training run sees of each row of its data."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite, log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.control.rows.fields import CLOSED, FIELDS, OPEN, add, read_arrays, read_rows, read_values, to_half
from trimtab.control.rows.kinds import RowSummary
from trimtab.control.rows.suspects import MIN_SEPARATION, Suspects, find_suspects
from trimtab.control.rows.table import list_chunks, write_table
from trimtab.errors import InputError
from trimtab.journal.rows import KINDS, Kind

MOST_LOSS = 1e30
"""Larger losses count as this one, so that float32 holds the sum of those of an epoch."""

SPIKE_FACTOR = 20.0
"""The loss of a row in one epoch enters its mean as at most so many times the median row's in the first epoch, or the
learned one if that is more: a spike of the run is not mistaken for a row's own. In healthy runs it hardly binds."""

MOST_SAMPLED = 2**20
"""Rows whose losses tell the median of the first epoch, at most about twice so many, evenly spread over all."""


class RowTracker:
    """Sees which rows are hard, learned late, forgotten, never seen or seen twice, and whose labels are probably wrong.

    `update` is called for each batch and `end_epoch` after each epoch; everything else tells of epochs that have ended.
    Within an epoch the order of the batches does not matter. A row counts as right in an epoch if it was right each
    time it was seen; it is learned in the first epoch in which it is right, and forgotten in each in which it is wrong
    after one in which it was right (Toneva et al., "An Empirical Study of Example Forgetting", 2019).

    A loss that is not finite is counted for its row and enters nothing else. Memory is 29 bytes a row.

    Args:
        num_rows: how many rows the data has; they are numbered from 0.
        learned_below: where correctness is not given, a row is right if its loss is below this. A cross-entropy below
            ln 2, the default, gives the row's label more than half of the probability, so that it is the predicted one.

    Raises:
        InputError: if `num_rows` is no whole number above 0, or `learned_below` is not finite.

    Attributes:
        num_rows: the same.
        num_epochs: epochs that have ended, and in which a row was seen.
    """

    def __init__(self, num_rows: int, *, learned_below: float = log(2)) -> None:
        if isinstance(num_rows, bool) or not isinstance(num_rows, (int, np.integer)) or num_rows < 1:
            raise InputError(f"RowTracker: num_rows is {num_rows!r}; it has to be a whole number above 0")
        if not isinstance(learned_below, (int, float)) or not isfinite(learned_below):
            raise InputError(f"RowTracker: learned_below is {learned_below!r}; it has to be a finite number")
        self.num_rows = int(num_rows)
        self.num_epochs = 0
        self._learned_below = learned_below
        self._most_loss = inf
        self._held = {name: np.zeros(self.num_rows, dtype) for name, dtype in FIELDS.items()}

    @property
    def num_bytes(self) -> int:
        """The memory that the statistics take, in bytes."""
        return sum(each.nbytes for each in self._held.values())

    def update(self, rows: Any, losses: Any, is_correct: Any = None) -> None:
        """Take note of a batch.

        Tensors on an accelerator are copied to the host, which waits for them.

        Args:
            rows: the numbers of its rows, a tensor, an array or a list; a row may be in it more than once.
            losses: the loss of each row, before it is averaged over the batch; with or without a graph.
            is_correct: for each row whether the model was right; None to tell it from the loss.

        Raises:
            InputError: if a number is no row's, or the lengths differ; nothing was taken note of then.
        """
        numbers = read_rows(rows, self.num_rows)
        values = read_values("losses", losses, len(numbers))
        if is_correct is None:
            is_wrong = values >= self._learned_below
        else:
            is_wrong = read_values("is_correct", is_correct, len(numbers)) == 0
        finite = np.isfinite(values)
        if not finite.all():
            add(self._held["epoch_nonfinite"], *np.unique(numbers[~finite], return_counts=True))
            numbers, values, is_wrong = numbers[finite], values[finite], is_wrong[finite]
        unique, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        sums = np.bincount(places, np.clip(values, -MOST_LOSS, MOST_LOSS))
        self._held["epoch_loss"][unique] += sums.astype(np.float32)
        add(self._held["epoch_seen"], unique, counts)
        self._held["epoch_wrong"][numbers[is_wrong]] = True

    def end_epoch(self) -> None:
        """End an epoch; without an update since the last one, nothing happens."""
        has_seen = bool(self._held["epoch_seen"].any())
        if not has_seen and not self._held["epoch_nonfinite"].any():
            return
        self.num_epochs += 1
        if has_seen and self._most_loss == inf:
            self._most_loss = self._choose_most_loss()
        for part in list_chunks(self.num_rows):
            self._close({name: each[part] for name, each in self._held.items()})

    def find(self, kind: Kind) -> NDArray[np.int64]:
        """The rows of a kind, in their order.

        Args:
            kind: `hard`: seen and never learned; `late`: learned later than nine tenths of those learned;
                `flip-flop`: forgotten at least twice; `never-seen`; `seen-twice`: more than once in an epoch;
                `nonfinite-loss`: had a loss that is not finite.

        Raises:
            InputError: if there is no such kind.
        """
        if kind not in KINDS:
            raise InputError(f"RowTracker.find: there is no kind {kind!r}; there are {', '.join(KINDS)}")
        return np.flatnonzero(KINDS[kind](self._held))

    def summarize(self) -> RowSummary:
        """Count the rows of each kind."""
        counts = {f"num_{kind.replace('-', '_')}": int(KINDS[kind](self._held).sum()) for kind in KINDS}
        return RowSummary(num_rows=self.num_rows, num_epochs=self.num_epochs, **counts)

    def find_suspects(self, min_separation: float = MIN_SEPARATION) -> Suspects:
        """Find the rows whose labels are probably wrong; how, and how well, is in `docs/rows.md`.

        Rows seen in less than half of the epochs are not judged: when they were seen decides on their losses.

        Args:
            min_separation: the share of the variance of the mean losses that two groups have to explain, from 0 to 1;
                below it there are no suspects. With 0 the rows that stand out most are given in any case.

        Raises:
            InputError: if it is not from 0 to 1.
        """
        if not 0 <= min_separation <= 1:
            raise InputError(
                f"RowTracker.find_suspects: min_separation is {min_separation!r}; it has to be from 0 to 1"
            )
        num_epochs = self._held["num_epochs"]
        rows = np.flatnonzero((num_epochs > 0) & (num_epochs >= self.num_epochs / 2))
        return find_suspects(self._held["mean_loss"][rows], rows, min_separation)

    def save(self, folder: str | Path) -> Path:
        """Write `rows.parquet`: a line for each row with every statistic, and for suspects their score.

        Args:
            folder: the run folder, or any other.

        Returns:
            The file.

        Raises:
            InputError: if pyarrow is not installed.
        """
        suspects = self.find_suspects()
        scores = np.full(self.num_rows, np.nan, np.float32)
        scores[suspects.rows] = suspects.scores

        def give(part: slice) -> dict[str, NDArray[Any]]:
            columns = {name: self._held[name][part] for name in CLOSED}
            is_seen = columns["num_epochs"] > 0
            losses = {name: np.where(is_seen, columns[name], np.float32(np.nan)) for name in ("mean_loss", "last_loss")}
            return {"row": np.arange(part.start, part.stop), **columns, **losses, "suspicion": scores[part]}

        told = {"num_epochs": str(self.num_epochs), "suspects": suspects.message}
        return write_table(Path(folder), self.num_rows, give, told)

    def state_dict(self) -> dict[str, Any]:
        """All that is known of the rows, as copies; after `load_state_dict` it goes on bit for bit."""
        arrays = {name: each.copy() for name, each in self._held.items()}
        return {"num_epochs": self.num_epochs, "most_loss": self._most_loss, "rows": arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            InputError: if it is of other data; nothing was changed then.
        """
        arrays = read_arrays(state, FIELDS, self.num_rows)
        self.num_epochs, self._most_loss = int(state["num_epochs"]), float(state["most_loss"])
        for name, each in arrays.items():
            self._held[name][:] = each

    def epoch_state(self) -> dict[str, Any]:
        """What was seen in the epoch at hand alone, for `merge` on other ranks: 10 bytes a row, as copies."""
        return {"rows": {name: self._held[name].copy() for name in OPEN}}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another tracker of the same data has seen, such as that of another rank.

        With the `epoch_state` of every other rank before each `end_epoch`, all ranks know what one process would. With
        a `state_dict` afterwards, means and counts are those of all trackers together; how often a row was forgotten
        and whether it was seen twice in an epoch are what each tracker saw for itself.

        Args:
            state: an `epoch_state` or a `state_dict`.

        Raises:
            InputError: if it is of other data; nothing was changed then.
        """
        is_whole = "num_epochs" in state
        theirs = read_arrays(state, FIELDS if is_whole else OPEN, self.num_rows)
        self._held["epoch_loss"] += theirs["epoch_loss"]
        self._held["epoch_wrong"] |= theirs["epoch_wrong"]
        for name in ("epoch_seen", "epoch_nonfinite"):
            add(self._held[name], slice(None), theirs[name])
        if is_whole:
            for part in list_chunks(self.num_rows):
                _merge_closed(*({name: each[part] for name, each in arrays.items()} for arrays in (self._held, theirs)))
            known = [each for each in (self._most_loss, float(state["most_loss"])) if each != inf]
            self._most_loss = max(known, default=inf)
            self.num_epochs = max(self.num_epochs, int(state["num_epochs"]))

    def _choose_most_loss(self) -> float:
        """The most that the loss of a row counts in one epoch."""
        seen = np.flatnonzero(self._held["epoch_seen"])
        seen = seen[:: max(1, len(seen) // MOST_SAMPLED)]
        level = float(np.median(self._held["epoch_loss"][seen] / self._held["epoch_seen"][seen]))
        most = SPIKE_FACTOR * max(level, self._learned_below)
        return most if most > 0 else inf

    def _close(self, held: Mapping[str, NDArray[Any]]) -> None:
        """Enter the epoch at hand into the statistics of some rows."""
        seen = np.flatnonzero(held["epoch_seen"])
        losses = held["epoch_loss"][seen] / held["epoch_seen"][seen]
        was_learned, is_learned = held["is_learned"][seen], ~held["epoch_wrong"][seen]
        epoch = min(self.num_epochs, np.iinfo(np.uint16).max)
        add(held["num_epochs"], seen, 1)
        change = np.minimum(losses, self._most_loss) - held["mean_loss"][seen]
        held["mean_loss"][seen] += change / held["num_epochs"][seen]
        held["last_loss"][seen] = to_half(losses)
        add(held["num_seen"], seen, held["epoch_seen"][seen])
        held["last_epoch"][seen] = epoch
        held["first_learned"][seen[is_learned & (held["first_learned"][seen] == 0)]] = epoch
        add(held["num_flips"], seen[was_learned & ~is_learned], 1)
        held["is_learned"][seen] = is_learned
        add(held["num_nonfinite"], slice(None), held["epoch_nonfinite"])
        for name in OPEN:
            held[name][:] = 0


def _merge_closed(ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> None:
    """Add to our statistics of some rows those of another tracker, over the epochs that have ended."""
    num_theirs = theirs["num_epochs"].astype(np.float64)
    share = num_theirs / np.maximum(num_theirs + ours["num_epochs"], 1)
    ours["mean_loss"] += ((theirs["mean_loss"] - ours["mean_loss"]) * share).astype(np.float32)
    is_newer = theirs["last_epoch"] > ours["last_epoch"]
    for name in ("last_loss", "is_learned", "last_epoch"):
        ours[name][is_newer] = theirs[name][is_newer]
    first, their_first = (each["first_learned"] for each in (ours, theirs))
    is_sooner = (their_first > 0) & ((first == 0) | (their_first < first))
    first[is_sooner] = their_first[is_sooner]
    for name in ("num_seen", "num_epochs", "num_flips", "num_nonfinite"):
        add(ours[name], slice(None), theirs[name])
