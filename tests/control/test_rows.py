"""Rows, tracked over epochs, and wrong labels found among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.conftest import require
from trimtab import InputError, Supervisor
from trimtab.control.rows import IndexedRows, Kind, RowTracker
from trimtab.control.rows.suspects import find_suspects, split_in_two

NUM_ROWS = 6

Sighting = tuple[int, float, bool]
"""A row, its loss, and whether the model was right."""

SIGHTINGS = st.lists(
    st.tuples(st.integers(0, NUM_ROWS - 1), st.floats(0, 100, width=32), st.booleans()), min_size=1, max_size=20
)
EPOCHS = st.lists(SIGHTINGS, min_size=1, max_size=6)


def feed(tracker: RowTracker, sightings: Sequence[Sighting], batch_size: int = 4) -> None:
    """Hand sightings to a tracker, batch by batch."""
    for start in range(0, len(sightings), batch_size):
        rows, losses, right = zip(*sightings[start : start + batch_size], strict=True)
        tracker.update(rows, losses, right)


def track(epochs: Sequence[Sequence[Sighting]], num_rows: int = NUM_ROWS) -> RowTracker:
    """A tracker after some epochs."""
    tracker = RowTracker(num_rows)
    for each in epochs:
        feed(tracker, each)
        tracker.end_epoch()
    return tracker


def hold_same(ours: RowTracker, theirs: RowTracker) -> bool:
    """True if two trackers hold the same, bit for bit."""
    one, other = ours.state_dict(), theirs.state_dict()
    arrays = (one["rows"][name].tobytes() == each.tobytes() for name, each in other["rows"].items())
    return all(arrays) and one["num_epochs"] == other["num_epochs"] and one["most_loss"] == other["most_loss"]


@given(EPOCHS, st.randoms(use_true_random=False), st.integers(1, 20))
def test_the_order_within_an_epoch_does_not_matter(epochs: list[list[Sighting]], random: Any, batch_size: int) -> None:
    """However an epoch is shuffled and cut into batches, counts are the same, and losses but for rounding."""
    tracker, shuffled = RowTracker(NUM_ROWS), RowTracker(NUM_ROWS)
    for each in epochs:
        feed(tracker, each)
        feed(shuffled, random.sample(each, len(each)), batch_size)
        tracker.end_epoch()
        shuffled.end_epoch()
    ours, theirs = tracker.state_dict()["rows"], shuffled.state_dict()["rows"]
    for name in ours:
        if name.endswith("_loss"):
            np.testing.assert_allclose(ours[name].astype(float), theirs[name].astype(float), rtol=2e-3, atol=1e-5)
        else:
            np.testing.assert_array_equal(ours[name], theirs[name])


@given(st.permutations(range(NUM_ROWS)), st.integers(1, NUM_ROWS))
def test_an_epoch_that_sees_each_row_once_is_the_same_in_any_order(order: list[int], batch_size: int) -> None:
    """Where no row is seen twice in an epoch, its order does not change one bit."""
    epoch = [(row, 0.1 * row + 0.3, row % 2 == 0) for row in range(NUM_ROWS)]
    shuffled = RowTracker(NUM_ROWS)
    feed(shuffled, [epoch[row] for row in order], batch_size)
    shuffled.end_epoch()
    assert hold_same(track([epoch]), shuffled)


@given(EPOCHS)
def test_statistics_are_what_their_names_say(epochs: list[list[Sighting]]) -> None:
    """Each statistic equals what a loop over all sightings of a row counts."""
    held = track(epochs).state_dict()["rows"]
    for row in range(NUM_ROWS):
        seen = [[each for each in epoch if each[0] == row] for epoch in epochs]
        numbers = [number for number, each in enumerate(seen, 1) if each]
        right = [all(each[2] for each in seen[number - 1]) for number in numbers]
        learned = [number for number, is_right in zip(numbers, right, strict=True) if is_right]
        assert held["num_seen"][row] == sum(map(len, seen))
        assert held["num_epochs"][row] == len(numbers)
        assert held["last_epoch"][row] == max(numbers, default=0)
        assert held["first_learned"][row] == min(learned, default=0)
        assert held["num_flips"][row] == sum(a and not b for a, b in pairwise(right))
        assert held["is_learned"][row] == (bool(right) and right[-1])


def test_the_mean_is_over_epochs() -> None:
    """Each epoch counts the same, however often it saw a row; the last loss is that of the newest epoch."""
    held = track([[(0, 1.0, True), (0, 3.0, True)], [(0, 5.0, True)], [(1, 7.0, True)]]).state_dict()["rows"]
    assert held["mean_loss"][:2].tolist() == [3.5, 7.0]
    assert held["last_loss"][:2].tolist() == [5.0, 7.0]


@given(EPOCHS, st.data())
def test_a_run_that_goes_on_ends_as_if_never_stopped(epochs: list[list[Sighting]], data: st.DataObject) -> None:
    """Stopped anywhere, in the middle of an epoch too, and gone on with from its state, a tracker is bit-equal."""
    stop = data.draw(st.integers(0, len(epochs) - 1))
    cut = data.draw(st.integers(0, len(epochs[stop]) // 4)) * 4  # between two batches
    before = track(epochs[:stop])
    feed(before, epochs[stop][:cut])
    after = RowTracker(NUM_ROWS)
    after.load_state_dict(before.state_dict())
    feed(after, epochs[stop][cut:])
    after.end_epoch()
    for each in epochs[stop + 1 :]:
        feed(after, each)
        after.end_epoch()
    assert hold_same(after, track(epochs))


def test_a_checkpoint_holds_a_tracker(tmp_path: Path) -> None:
    """A supervisor's checkpoint keeps the rows beside the rest, and gives them back bit for bit."""
    tracker = track([[(0, 1.0, False), (3, 0.1, True)], [(0, nan, True), (3, 2.0, False)]])
    feed(tracker, [(1, 0.5, True)])
    model = nn.Linear(2, 1)
    first = Supervisor(model, torch.optim.SGD(model.parameters()), run=tmp_path / "run")
    first.check(model(torch.ones(1, 2)).sum())
    first.checkpoint({"rows": tracker.state_dict()}, now=True)
    first.finish("paused")
    second = Supervisor(model, torch.optim.SGD(model.parameters()), run=tmp_path / "run", resume=True)
    resumed = second.resume()
    second.finish("finished")
    assert resumed is not None
    loaded = RowTracker(NUM_ROWS)
    loaded.load_state_dict(resumed.extra["rows"])
    assert hold_same(loaded, tracker)


def test_a_state_is_a_copy() -> None:
    """What is seen later does not change a state that was taken before."""
    tracker = track([[(0, 1.0, True)]])
    state, epoch = tracker.state_dict(), tracker.epoch_state()
    feed(tracker, [(0, 2.0, True)])
    tracker.end_epoch()
    assert state["rows"]["num_seen"][0] == 1
    assert epoch["rows"]["epoch_seen"][0] == 0


@given(EPOCHS)
def test_two_ranks_know_what_one_process_would(epochs: list[list[Sighting]]) -> None:
    """Ranks that exchange what they saw before each epoch ends hold, both of them, what one process does."""
    ranks = [RowTracker(NUM_ROWS), RowTracker(NUM_ROWS)]
    alone = RowTracker(NUM_ROWS)
    for epoch in epochs:
        shares = [epoch[0::2], epoch[1::2]]
        for tracker, share in zip(ranks, shares, strict=True):
            feed(tracker, share, batch_size=20)
        feed(alone, shares[0], batch_size=20)
        feed(alone, shares[1], batch_size=20)
        states = [tracker.epoch_state() for tracker in ranks]
        ranks[0].merge(states[1])
        ranks[1].merge(states[0])
        for tracker in (*ranks, alone):
            tracker.end_epoch()
    assert hold_same(ranks[0], alone)
    assert hold_same(ranks[1], alone)


@given(st.lists(st.tuples(*[st.tuples(st.floats(0, 10, width=32), st.booleans())] * NUM_ROWS), min_size=1, max_size=6))
def test_trackers_of_different_rows_merge_into_one(epochs: list[tuple[tuple[float, bool], ...]]) -> None:
    """Where each rank has rows of its own, merging at the end gives what one process would know of each row."""
    sightings = [[(row, *each) for row, each in enumerate(epoch)] for epoch in epochs]
    merged, other = (track([epoch[side::2] for epoch in sightings]) for side in (0, 1))
    merged.merge(other.state_dict())
    ours, theirs = merged.state_dict()["rows"], track(sightings).state_dict()["rows"]
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_merging_rows_seen_by_both_counts_both() -> None:
    """Means are over all epochs of both, the newest loss is the newest, and the first epoch the first."""
    ours, theirs = track([[(0, 1.0, False)], [(0, 2.0, True)]]), track([[(0, 6.0, True)]])
    ours.merge(theirs.state_dict())
    held = ours.state_dict()["rows"]
    assert (held["mean_loss"][0], held["last_loss"][0], held["first_learned"][0]) == (3.0, 2.0, 1)
    assert (held["num_seen"][0], held["num_epochs"][0], ours.num_epochs) == (3, 3, 2)


def test_a_loss_that_is_not_finite_is_counted_and_nothing_else() -> None:
    """The row's other statistics, and those of the other rows of the batch, are as if it had not been seen."""
    clean = track([[(0, 1.0, True), (1, 2.0, True)], [(1, 2.0, True)]])
    spoilt = track(
        [[(0, 1.0, True), (1, 2.0, True)], [(0, nan, False), (1, 2.0, True), (0, inf, True), (2, -inf, True)]]
    )
    assert spoilt.find("nonfinite-loss").tolist() == [0, 2]
    assert 2 not in spoilt.find("never-seen")
    ours, theirs = spoilt.state_dict()["rows"], clean.state_dict()["rows"]
    assert ours.pop("num_nonfinite").tolist() == [2, 0, 1, 0, 0, 0]
    for name, each in ours.items():
        np.testing.assert_array_equal(each, theirs[name])


def test_numbers_at_the_ends_of_their_range_do_not_overflow() -> None:
    """Counts stay at their largest value, and huge losses stay finite."""
    tracker = track([[(0, 1e300, number % 2 == 0), (1, -1e300, True)] for number in range(600)])
    for _ in range(300):
        tracker.update([2], [nan])
    tracker.end_epoch()
    held = tracker.state_dict()["rows"]
    assert (held["num_flips"][0], held["num_nonfinite"][2]) == (255, 255)
    assert np.isfinite(held["mean_loss"]).all()
    assert np.isfinite(held["last_loss"]).all()


def test_memory_is_a_few_bytes_a_row() -> None:
    """It is at most 30 bytes a row, so that ten million rows take 300 MB, and does not grow."""
    tracker = RowTracker(100_000)
    for _ in range(3):
        tracker.update(np.arange(100_000), np.ones(100_000))
        tracker.end_epoch()
    assert tracker.num_bytes == sum(each.nbytes for each in tracker.state_dict()["rows"].values())
    assert tracker.num_bytes <= 30 * tracker.num_rows


RIGHT, WRONG = 0.1, 2.0

KINDS: dict[str, tuple[Kind, Sequence[Sequence[float]], list[int]]] = {
    "hard": ("hard", [[RIGHT, WRONG], [RIGHT, WRONG]], [1]),
    "hard-only-in-the-end-is-not": ("hard", [[RIGHT], [WRONG]], []),
    "late": ("late", [[RIGHT] * 9 + [WRONG], [RIGHT] * 10], [9]),
    "late-is-not-half-of-all": ("late", [[RIGHT, WRONG], [RIGHT, RIGHT]], []),
    "late-needs-somebody-learned": ("late", [[WRONG, WRONG]], []),
    "forgotten-once": ("flip-flop", [[RIGHT], [WRONG], [RIGHT]], []),
    "forgotten-twice": ("flip-flop", [[RIGHT], [WRONG], [RIGHT], [WRONG]], [0]),
    "wrong-twice-in-a-row": ("flip-flop", [[RIGHT], [WRONG], [WRONG]], []),
    "seen-once-an-epoch": ("seen-twice", [[RIGHT], [RIGHT]], []),
}


@pytest.mark.parametrize(("kind", "epochs", "rows"), KINDS.values(), ids=KINDS.keys())
def test_rows_of_a_kind_are_found(kind: Kind, epochs: Sequence[Sequence[float]], rows: list[int]) -> None:
    """Losses alone tell the kinds: below ln 2 a row is right."""
    tracker = RowTracker(len(epochs[0]))
    for losses in epochs:
        tracker.update(range(len(losses)), losses)
        tracker.end_epoch()
    assert tracker.find(kind).tolist() == rows


def test_rows_never_seen_and_seen_twice_are_found() -> None:
    """A sampler that leaves rows out or gives them twice is noticed, within a batch and between two."""
    tracker = RowTracker(5)
    tracker.update([0, 0, 1], [1.0, 1.0, 1.0])
    tracker.update([2, 3], [1.0, 1.0])
    tracker.update([3], [1.0])
    tracker.end_epoch()
    assert tracker.find("seen-twice").tolist() == [0, 3]
    assert tracker.find("never-seen").tolist() == [4]
    summary = tracker.summarize()
    assert (summary.num_rows, summary.num_epochs, summary.num_seen_twice, summary.num_never_seen) == (5, 1, 2, 1)
    assert str(summary).startswith("5 rows in 1 epochs: 4 hard, 0 late, 0 flip-flop, 1 never seen, 2 seen twice")


def test_an_epoch_without_updates_is_none() -> None:
    """Ending an epoch in which nothing was seen, or a batch without rows, changes nothing."""
    tracker = track([[(0, 1.0, True)]])
    tracker.update([], [])
    tracker.end_epoch()
    assert tracker.num_epochs == 1


TENSORS: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "array": np.asarray,
    "tensor": torch.tensor,
    "with-a-graph": lambda losses: torch.tensor(losses, requires_grad=True) * 1.0,
    "bfloat16": lambda losses: torch.tensor(losses, dtype=torch.bfloat16),
    "float64": lambda losses: torch.tensor(losses, dtype=torch.float64),
}


@pytest.mark.parametrize("make", TENSORS.values(), ids=TENSORS.keys())
def test_losses_come_as_they_are(make: Callable[[Any], Any]) -> None:
    """Lists, arrays and tensors of any dtype are taken, with a graph or without."""
    tracker = RowTracker(3)
    tracker.update(torch.tensor([2, 0]), make([0.5, 4.0]), torch.tensor([True, False]))
    tracker.end_epoch()
    held = tracker.state_dict()["rows"]
    assert held["mean_loss"].tolist() == [4.0, 0.0, 0.5]
    assert held["is_learned"].tolist() == [False, False, True]


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "too-large": (([0, 6], [1.0, 1.0]), "there is no row 6; rows are numbered from 0 to 5"),
    "negative": (([-1], [1.0]), "there is no row -1"),
    "not-whole": (([0.5], [1.0]), "rows are of dtype float64; they have to be whole numbers"),
    "two-dimensions": (([[0]], [1.0]), r"rows has the shape \(1, 1\); it has to be 1-d"),
    "fewer-losses": (([0, 1], [1.0]), r"losses has the shape \(1,\); it has to be 1-d with 2 numbers, one a row"),
    "a-mean": (([0, 1], torch.tensor(1.0)), r"losses has the shape \(\); .* pass reduction='none'"),
    "fewer-answers": (([0, 1], [1.0, 1.0], [True]), r"is_correct has the shape \(1,\)"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_a_batch_is_one_sentence(arguments: tuple[Any, ...], message: str) -> None:
    """A batch that does not fit is refused with the reason, and nothing of it is kept."""
    tracker = track([[(0, 1.0, True)]])
    with pytest.raises(InputError, match=message):
        tracker.update(*arguments)
    assert hold_same(tracker, track([[(0, 1.0, True)]]))


MISMADE: dict[str, tuple[Callable[[], Any], str]] = {
    "no-rows": (lambda: RowTracker(0), "num_rows is 0; it has to be a whole number above 0"),
    "half-a-row": (lambda: RowTracker(1.5), "num_rows is 1.5"),  # type: ignore[arg-type]
    "nan": (lambda: RowTracker(1, learned_below=nan), "learned_below is nan; it has to be a finite number"),
    "separation": (lambda: RowTracker(1).find_suspects(2), "min_separation is 2; it has to be from 0 to 1"),
    "kind": (lambda: RowTracker(1).find("easy"), "no kind 'easy'; there are hard, late, flip"),  # type: ignore[arg-type]
    "state": (lambda: RowTracker(1).load_state_dict(RowTracker(2).state_dict()), "has no mean_loss of 1 rows"),
    "empty-state": (lambda: RowTracker(1).load_state_dict({}), "has no mean_loss of 1 rows"),
    "merge": (lambda: RowTracker(1).merge(RowTracker(2).epoch_state()), "has no epoch_loss of 1 rows"),
    "stream": (lambda: IndexedRows(iter([])), "has no length or no items by number"),
}


@pytest.mark.parametrize(("make", "message"), MISMADE.values(), ids=MISMADE.keys())
def test_what_makes_no_sense_is_refused(make: Callable[[], Any], message: str) -> None:
    """Options, kinds and states that cannot be meant are one sentence each."""
    with pytest.raises(InputError, match=message):
        make()


def sample(name: str, num_rows: int = 5000) -> NDArray[np.float32]:
    """Mean losses as clean data may have them."""
    random = np.random.default_rng(0)
    drawn = {
        "normal": random.normal(3, 1, num_rows),
        "exponential": random.exponential(size=num_rows),
        "heavy-tailed": random.exponential(size=num_rows) ** 2,
        "log-normal": random.lognormal(size=num_rows),
        "constant": np.full(num_rows, 0.7),
        "constant-but-for-rounding": 0.7 + 1e-7 * random.integers(0, 2, num_rows),
        "none": np.zeros(0),
    }
    return drawn[name].astype(np.float32)


@pytest.mark.parametrize(
    "name", ["normal", "exponential", "heavy-tailed", "log-normal", "constant", "constant-but-for-rounding", "none"]
)
def test_one_group_of_losses_has_no_suspects(name: str) -> None:
    """However long its tail is, one group of losses is not taken for two."""
    losses = sample(name)
    suspects = find_suspects(losses, np.arange(len(losses)))
    assert len(suspects.rows) == len(suspects.scores) == 0
    assert suspects.message.startswith("no suspects: ")


def test_who_asks_for_less_separation_gets_the_rows_that_stand_out() -> None:
    """The demand can be lowered, and then the rows with the highest losses come first."""
    losses = sample("exponential")
    suspects = find_suspects(losses, np.arange(len(losses)), min_separation=0.5)
    assert suspects.rows[0] == losses.argmax()
    assert 0 < len(suspects.rows) < 0.3 * len(losses)


def test_very_many_suspects_are_not_vouched_for() -> None:
    """Where more than a tenth of the rows are suspects, the sentence says what else they may be."""
    losses = np.where(np.arange(1000) < 200, 5.0, 0.1).astype(np.float32)
    assert "look at some before" in find_suspects(losses, np.arange(1000)).message
    assert "look at some before" not in find_suspects(losses[150:], np.arange(850)).message


@given(st.floats(0.01, 100), st.floats(-100, 100), st.sampled_from([0.01, 0.05, 0.3]))
def test_suspects_do_not_depend_on_the_scale_of_the_loss(scale: float, shift: float, share: float) -> None:
    """A second group is found whatever the unit and the zero of the loss are, the most suspicious rows first."""
    losses = np.abs(np.random.default_rng(1).normal(0, 0.3, 1000)).astype(np.float32)
    num_wrong = int(share * 1000)
    losses[:num_wrong] += 5
    suspects = find_suspects((losses * scale + shift).astype(np.float32), np.arange(1000))
    assert sorted(suspects.rows) == list(range(num_wrong))
    assert np.all(np.diff(suspects.scores) <= 0)


def test_the_split_is_the_best_of_all() -> None:
    """No other threshold explains more of the variance."""
    values = np.concatenate([sample("exponential", 80), 6 + sample("normal", 20)])
    ordered = np.sort(values).astype(np.float64)
    groups = [(ordered[:place], ordered[place:]) for place in range(1, len(ordered))]
    best = max(len(low) * len(high) * (high.mean() - low.mean()) ** 2 for low, high in groups)
    split = split_in_two(values)
    assert split is not None
    assert split.separation == pytest.approx(best / len(ordered) ** 2 / ordered.var(), rel=1e-3)


def test_a_spike_of_the_run_makes_no_suspects() -> None:
    """A batch that a run once exploded on is not mistaken for rows with wrong labels."""
    random, tracker = np.random.default_rng(0), RowTracker(2000)
    for epoch in range(20):
        losses = random.exponential(0.5 / (1 + epoch), 2000) + 0.05
        losses[:20] = 6.0  # their labels are wrong
        if epoch == 10:
            losses[100:164] = 1e6
        tracker.update(np.arange(2000), losses)
        tracker.end_epoch()
    assert sorted(tracker.find_suspects().rows) == list(range(20))


def test_rows_seen_seldom_are_not_judged() -> None:
    """A row that only the first epoch saw has the loss of an untrained model, which says nothing of its label."""
    tracker = RowTracker(1001)
    for epoch in range(6):
        rows = np.arange(1001 if epoch == 0 else 1000)
        losses = np.full(len(rows), 3.0 if epoch == 0 else 0.1)
        losses[:30] = 3.0
        tracker.update(rows, losses)
        tracker.end_epoch()
    assert sorted(tracker.find_suspects().rows) == list(range(30))


@pytest.mark.parametrize("num_workers", [0, 1], ids=["in-this-process", "with-a-worker"])
def test_a_loader_gives_the_numbers_of_its_rows(num_workers: int) -> None:
    """A batch is the row numbers, and the batch as it was; shuffled rows keep their numbers."""
    dataset = IndexedRows(TensorDataset(torch.arange(10) * 10, torch.arange(10) + 5))
    assert (len(dataset), dataset[3]) == (10, (3, (torch.tensor(30), torch.tensor(8))))
    seen = []
    for rows, (x, y) in DataLoader(dataset, batch_size=4, shuffle=True, num_workers=num_workers):
        assert torch.equal(x, rows * 10)
        assert torch.equal(y, rows + 5)
        seen += rows.tolist()
    assert sorted(seen) == list(range(10))
    assert seen != sorted(seen)


class Table:
    """A data set that reads a batch at once, as those of the Hugging Face Hub do."""

    def __init__(self) -> None:
        self.num_reads = 0

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, int]:
        raise AssertionError("item by item is slow")

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, int]]:
        self.num_reads += 1
        return [{"x": index} for index in indices]


def test_a_data_set_that_reads_batches_goes_on_doing_so() -> None:
    """It is asked for all items of a batch at once."""
    table = Table()
    batches = list(DataLoader(IndexedRows(table), batch_size=5))
    assert table.num_reads == 2
    assert [(rows.tolist(), batch["x"].tolist()) for rows, batch in batches] == [
        ([*range(5)],) * 2,
        ([*range(5, 10)],) * 2,
    ]


def test_planted_wrong_labels_are_found() -> None:
    """Of 2 % wrong labels in scans of digits at least six in ten are found, and eight in ten found are wrong."""
    require("sklearn")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(77)
    wrong = random.choice(len(labels), len(labels) // 50, replace=False)
    labels[wrong] = (labels[wrong] + random.integers(1, 10, len(wrong))) % 10
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer, tracker = torch.optim.AdamW(model.parameters(), lr=3e-3), RowTracker(len(y))
    for _ in range(15):
        for rows, (images, targets) in DataLoader(IndexedRows(TensorDataset(x, y)), batch_size=64, shuffle=True):
            losses = nn.functional.cross_entropy(model(images), targets, reduction="none")
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            tracker.update(rows, losses)
        tracker.end_epoch()
    found = tracker.find_suspects().rows
    num_right = len(np.intersect1d(found, wrong))
    assert num_right / len(found) >= 0.8
    assert num_right / len(wrong) >= 0.6


def test_the_table_holds_every_row(tmp_path: Path) -> None:
    """`rows.parquet` has a line for each row: nothing where it was never seen, a score where it is a suspect."""
    require("pyarrow")
    import pyarrow.parquet

    tracker = RowTracker(300_000)
    losses = np.full(299_999, 0.1)
    losses[:9] = 5.0
    tracker.update(np.arange(299_999), losses)
    tracker.end_epoch()
    path = tracker.save(tmp_path / "run")
    assert [each.name for each in path.parent.iterdir()] == ["rows.parquet"]
    table = pyarrow.parquet.read_table(path)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    assert columns["row"] == list(range(300_000))
    assert columns["mean_loss"][-2:] == [pytest.approx(0.1), None]
    assert [row for row, each in enumerate(columns["suspicion"]) if each is not None] == list(range(9))
    assert columns["first_learned"][8:10] == [0, 1]
    assert table.schema.metadata[b"suspects"].startswith(b"9 of 299999 rows are suspects")


def test_without_pyarrow_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else works without it, and nothing is left half-written."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs pyarrow, which is not installed; pip install 'trimtab\[rows\]'"):
        track([[(0, 1.0, True)]]).save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_loss_of_a_learned_row_is_the_callers_to_say() -> None:
    """Where the loss is no cross-entropy, another bound than ln 2 tells whether a row is right."""
    tracker = RowTracker(2, learned_below=10.0)
    tracker.update([0, 1], [9.0, 10.0])
    tracker.end_epoch()
    assert tracker.find("hard").tolist() == [1]
