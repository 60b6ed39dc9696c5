"""The spectra of a model: which matrices are measured, what the model keeps, and the reviews they belong to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.laws.training import capture, list_differences, make_training
from trimtab import InputError, Supervisor, measure_spectra
from trimtab.history import History
from trimtab.journal import read_run
from trimtab.probes.spectra import begin_spectra, is_due
from trimtab.replay import replay_run
from trimtab.types import Measurement


class Tied(nn.Module):
    """An embedding whose matrix is that of the output too, a convolution, and what has no spectrum."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(90, 24)
        self.mix = nn.Conv2d(12, 24, 3)
        self.norm = nn.LayerNorm(24)
        self.experts = nn.Parameter(torch.randn(4, 24, 24))
        self.small = nn.Linear(24, 7)
        self.head = nn.Linear(24, 90, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return x


def make_wide(seed: int = 0) -> nn.Sequential:
    """A model with a matrix of 80 eigenvalues, in which a direction stands out."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(100, 80), nn.ReLU(), nn.Linear(80, 1))
    with torch.no_grad():
        first = model[0].weight
        assert isinstance(first, Tensor)
        first.add_(torch.outer(torch.randn(80), torch.randn(100)), alpha=0.05)
    return model


def make_supervisor(model: nn.Module, **options: Any) -> Supervisor:
    return Supervisor(model, torch.optim.SGD(model.parameters(), lr=0.1), strict=True, **options)


# What is measured.


def test_matrices_convolutions_and_embeddings_are_measured_once() -> None:
    """Shared weights are one matrix, vectors are none, and what cannot be measured is named."""
    found = measure_spectra(Tied())
    assert [(each.name, each.num_values) for each in found.matrices] == [("embedding.weight", 24), ("mix.weight", 108)]
    assert found.skipped == {
        "experts": "it has 3 dimensions and is no convolution's, so it is no one matrix",
        "small.weight": "it has 7 eigenvalues; a power law needs 8",
    }


@pytest.mark.parametrize(
    ("make", "kernel"),
    [
        pytest.param(lambda: nn.Conv1d(20, 30, 5), (5,), id="conv1d"),
        pytest.param(lambda: nn.Conv3d(20, 30, 2), (2, 2, 2), id="conv3d"),
        pytest.param(lambda: nn.ConvTranspose2d(30, 20, 3), (3, 3), id="transposed"),
        pytest.param(lambda: nn.Conv2d(20, 60, 3, groups=2), (3, 3), id="grouped"),
    ],
)
def test_all_kernel_positions_are_taken_together(make: Any, kernel: tuple[int, ...]) -> None:
    """Of every kind of convolution, the eigenvalues of the positions' matrices are one spectrum."""
    torch.manual_seed(0)
    (found,) = measure_spectra(make()).matrices
    assert found.shape[2:] == kernel
    assert found.num_values == min(found.shape[:2]) * torch.Size(kernel).numel()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_measured_in_float64(dtype: torch.dtype) -> None:
    """The exponent is that of the numbers as they are, whatever they are kept in."""
    model = make_wide().to(dtype)
    same = make_wide()
    same.load_state_dict({name: each.float() for name, each in model.state_dict().items()})
    assert measure_spectra(model).matrices[0].fit.alpha == pytest.approx(measure_spectra(same).matrices[0].fit.alpha)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda model: model[0].weight.data.fill_(torch.nan), "its entries are not finite", id="nan"),
        pytest.param(lambda model: model[0].weight.data.view(-1)[5].fill_(torch.inf), "not finite", id="infinity"),
        pytest.param(lambda model: model[0].to("meta"), "it is on the meta device", id="meta"),
        pytest.param(lambda model: model.insert(0, nn.LazyLinear(80)), "it has no shape yet", id="lazy"),
        pytest.param(lambda model: model.insert(0, nn.Embedding(50_001, 8)), "too large", id="vocabulary"),
        pytest.param(
            lambda model: setattr(model[0], "weight", nn.Parameter(torch.ones(80, 100, dtype=torch.complex64))),
            "no plain matrix of real numbers",
            id="complex",
        ),
    ],
)
def test_what_has_no_spectrum_is_said(change: Any, reason: str) -> None:
    """A matrix that cannot be measured is skipped with the reason."""
    model = make_wide()
    change(model)
    assert reason in measure_spectra(model).skipped["0.weight"]


def test_distributed_parameters_are_skipped(tmp_path: Path) -> None:
    """The shards of a matrix have no spectrum that says anything of the whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        model, mesh = make_wide(), init_device_mesh("cpu", (1,))
        first: Any = model[0]
        first.weight = nn.Parameter(distribute_tensor(first.weight.detach(), mesh, [Replicate()]))
        assert measure_spectra(model).skipped["0.weight"] == "it is distributed over ranks"
    finally:
        torch.distributed.destroy_process_group()


def test_a_state_dict_is_refused() -> None:
    """What is no module is refused in a sentence."""
    with pytest.raises(InputError, match=r"^measure_spectra: model is a 'dict'; it has to be a torch Module$"):
        measure_spectra({})  # type: ignore[arg-type]


def test_the_background_measures_the_weights_as_they_were() -> None:
    """Training on while spectra are measured changes nothing in what is found."""
    model = make_wide()
    expected = measure_spectra(model)
    begun = begin_spectra(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert begun.result(timeout=60) == expected


def test_new_models_are_random() -> None:
    """At initialization no layer says anything."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 100), nn.Embedding(200, 128))
    assert {each.band for each in measure_spectra(model).matrices} == {"random"}


# Reviews.


def test_reviews_measure_every_so_many() -> None:
    """The first review measures, and then every third; the others have only what they were given."""
    supervisor = make_supervisor(make_wide(), spectra_every=3)
    measured = []
    for _ in range(8):
        supervisor.review(val_loss=1.0)
        measured.append("alpha_score" in supervisor.reviews.newest.values)
    assert measured == [True, False, False, True, False, False, True, False]
    values = supervisor.reviews.column
    assert values("num_spectra")[0] == 1
    assert values("alpha")[0] > 1
    assert values("alpha_sigma")[0] > 0
    assert values("spectra_seconds")[0] > 0


def make_times(step_seconds: float, num_steps: int) -> History:
    """So many steps of these seconds, of which the newest are at hand."""
    history = History()
    for step in range(max(num_steps - 100, 1), num_steps + 1):
        history.append(Measurement(step, {"loss": 1.0} if step == 1 else {"step_seconds": step_seconds}))
    return history


def make_reviews(*rows: tuple[int, float | None]) -> History:
    """Reviews at these steps, with the seconds that spectra took where they were measured."""
    history = History()
    for step, seconds in rows:
        values = {"val_loss": 1.0}
        values |= {} if seconds is None else {"alpha_score": 1.0, "spectra_seconds": seconds}
        history.append(Measurement(step, values, "review"))
    return history


@pytest.mark.parametrize(
    ("steps", "reviews", "work", "due"),
    [
        pytest.param(make_times(0.1, 1000), make_reviews(), 2e9, True, id="first-1-s-of-100-s"),
        pytest.param(make_times(0.1, 990), make_reviews(), 2e9, False, id="first-1-s-of-99-s"),
        pytest.param(make_times(0.1, 2000), make_reviews((1000, 0.5)), 9e9, True, id="as-measured-not-as-reckoned"),
        pytest.param(make_times(0.1, 1400), make_reviews((1000, 0.5)), 1e3, False, id="too-soon-after"),
        pytest.param(make_times(0.1, 1600), make_reviews((1000, 0.5), (1500, None)), 1e3, True, id="since-measured"),
        pytest.param(make_times(60.0, 9999), make_reviews(), 4e10, False, id="too-long-at-once"),
        pytest.param(make_times(0.1, 1), make_reviews(), 1.0, False, id="no-time-known"),
        pytest.param(History(), make_reviews(), 0.0, False, id="no-step"),
    ],
)
def test_cadence_by_cost(steps: History, reviews: History, work: float, due: bool) -> None:
    """Spectra are measured when they take no more than a hundredth of the time of the steps since, and 10 s at once."""
    assert is_due(reviews, steps, "auto", work) is due


def test_cadence_by_cost_stays_within_its_budget() -> None:
    """Over a long run the share of the time is about a hundredth, whatever a measurement takes."""
    for took in (0.03, 0.4, 5.0):
        measured: list[tuple[int, float | None]] = []
        for step in range(100, 40_001, 100):
            due = is_due(make_reviews(*measured), make_times(0.1, step), "auto", 2e9 * took)
            measured = [*measured, (step, took)] if due else measured
        assert 0.5 * 40 < took * len(measured) <= 40 or took < 0.1


def test_by_default_a_short_run_is_not_measured() -> None:
    """Before any step there is no time that spectra could take a share of."""
    supervisor = make_supervisor(make_wide())
    supervisor.review(val_loss=1.0)
    assert dict(supervisor.reviews.newest.values) == {"val_loss": 1.0}


def test_where_nothing_tells_there_is_no_exponent() -> None:
    """Without a large matrix the score is 1, and no number is made up."""
    supervisor = make_supervisor(nn.Linear(30, 20), spectra_every=1)
    decision = supervisor.review(val_loss=1.0)
    values = dict(supervisor.reviews.newest.values)
    assert values.pop("spectra_seconds") > 0  # type: ignore[operator]
    assert values == {"val_loss": 1.0, "alpha_score": 1.0, "num_spectra": 0.0}
    assert decision.proceed
    assert not decision.findings


def test_weights_that_are_not_finite_do_not_end_a_review() -> None:
    """A matrix that cannot be measured is left out, and the review is judged as ever."""
    model = make_wide()
    supervisor = make_supervisor(model, spectra_every=1)
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)  # type: ignore[operator]
    assert supervisor.review(val_loss=1.0).proceed
    assert supervisor.reviews.newest.values["alpha_score"] == 1.0


def test_what_the_loop_reports_goes_first() -> None:
    """A metric of the same name that the loop hands over is kept."""
    supervisor = make_supervisor(make_wide(), spectra_every=1)
    supervisor.review(alpha=0.5)
    assert supervisor.reviews.newest.values["alpha"] == 0.5


def test_measuring_changes_nothing() -> None:
    """Weights, optimizer and random numbers are as before, to the bit."""
    training = make_training("adamw").supervise(spectra_every=1).run(3)
    assert training.supervisor is not None
    before = capture(training)
    training.supervisor.review(val_loss=1.0)
    assert list_differences(before, capture(training)) == []


def test_it_goes_on_after_a_resume() -> None:
    """When the next is due follows from the reviews that were kept."""
    first = make_supervisor(make_wide(), spectra_every=3)
    first.review(val_loss=1.0)
    second = make_supervisor(make_wide(), spectra_every=3)
    second.load_state_dict(first.state_dict())
    due = []
    for _ in range(3):
        due.append(is_due(second.reviews, second.history, 3, 0.0))
        second.review(val_loss=1.0)
    assert due == [False, False, True]


def test_run_folder_has_every_matrix(tmp_path: Path) -> None:
    """The numbers of a review are in the journal, the matrices in the events."""
    supervisor = make_supervisor(make_wide(), spectra_every=1, run=tmp_path / "run")
    supervisor.review(val_loss=1.0)
    supervisor.finish()
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    (event,) = (each for each in events if each["event"] == "spectra")
    (matrix,) = event["matrices"]
    assert matrix["name"] == "0.weight"
    assert matrix["fit"]["alpha"] == pytest.approx(supervisor.reviews.column("alpha")[0])
    assert event["skipped"] == {"2.weight": "it has 1 eigenvalues; a power law needs 8"}
    assert read_run(tmp_path / "run").measurements[0].values["alpha"] == matrix["fit"]["alpha"]


def test_weights_that_drown_in_noise_are_found() -> None:
    """A matrix that has learned something and is overwritten by random numbers is found at the third review."""
    model = make_wide()
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(80, 100) / torch.arange(1, 81)[:, None])  # type: ignore[operator]
    supervisor = make_supervisor(model, spectra_every=1)
    supervisor.review(val_loss=1.0)
    assert supervisor.reviews.column("alpha")[0] < 4
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(80, 100))  # type: ignore[operator]
    found = [[finding.detector for finding in supervisor.review(val_loss=1.0).findings] for _ in range(4)]
    assert found == [[], [], ["spectral-noise"], []]


def test_replay_finds_the_same(tmp_path: Path) -> None:
    """The recorded reviews alone give the finding again; it is advisory."""
    supervisor = make_supervisor(make_wide(), spectra_every=1, run=tmp_path / "run")
    for alpha in (4.0, 7.0, 7.0, 7.0):
        assert supervisor.review(alpha=alpha, alpha_sigma=0.2, num_spectra=1).proceed
    supervisor.finish()
    (comparison,) = replay_run(read_run(tmp_path / "run"))
    assert comparison.is_same
    assert comparison.recorded is not None
    assert [finding.detector for finding in comparison.recorded.findings] == ["spectral-noise"]
    assert not comparison.recorded.responses


RANK = """
import json, sys, torch
from pathlib import Path
from torch import nn
from trimtab import Supervisor
from trimtab.probes import spectra

METRICS = ("alpha", "alpha_sigma", "alpha_score", "spectra_seconds")

def review(fails):
    torch.manual_seed(rank)
    model = nn.Linear(100, 80)
    nn.init.orthogonal_(model.weight)
    with torch.no_grad():
        model.weight.add_(0.2 * torch.ones(80, 100) + 0.1 * torch.randn(80, 100))
    supervisor = Supervisor(model, torch.optim.SGD(model.parameters(), lr=0.1), spectra_every=2, strict=False)
    for index in range(4):
        spectra.measure_spectra = (lambda _: 1 / 0) if fails and rank == 1 and index == 0 else measure
        supervisor.review(val_loss=1.0)
    return [[None if each != each else each for each in supervisor.reviews.column(name)] for name in METRICS]

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
measure = spectra.measure_spectra
torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
(folder / f"{rank}.json").write_text(json.dumps([review(fails=False), review(fails=True)]))
torch.distributed.destroy_process_group()
"""


def test_ranks_agree(tmp_path: Path) -> None:
    """Ranks whose weights differ measure the same numbers at the same reviews, also where one of them fails once."""
    commands = [[sys.executable, "-c", RANK, str(tmp_path), str(rank)] for rank in range(2)]
    ranks = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    sound, failed = json.loads((tmp_path / "0.json").read_text())
    assert (tmp_path / "0.json").read_text() == (tmp_path / "1.json").read_text()
    assert [alpha is not None for alpha in sound[0]] == [True, False, True, False]
    assert [alpha is not None for alpha in failed[0]] == [False, True, False, True]


@pytest.mark.parametrize("every", [-1, 0.5, "often"])
def test_cadence_is_a_count(every: object) -> None:
    """What is no count is refused when the supervisor is built."""
    with pytest.raises(InputError, match=r"^supervisor: spectra_every is .*; it has to be 'auto', or 0, for never"):
        make_supervisor(make_wide(), spectra_every=every)
