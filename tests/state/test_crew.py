"""Checkpoints of several ranks: saved together, taken over by as many or by others, and nothing in them runs code."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_saver

from tests.forks import require_done, run_module
from tests.laws.training import list_differences
from tests.state.crew import NUM_RANKS, SAVED_STEP, SECONDS
from trimtab.errors import CheckpointError
from trimtab.state.checkpoint import STAMP, read_checkpoint, read_stamp
from trimtab.state.checkpoints import Checkpoints
from trimtab.state.shards import INDEX, read_shards

FOLDER = f"checkpoints/step-{SAVED_STEP:06d}"


@pytest.fixture(scope="module", params=["sharded", "replicated"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that has saved a checkpoint and gone on, and runs that went on from there; launched once."""
    folder = tmp_path_factory.mktemp(request.param)
    require_done(run_module("tests.state.crew", [folder, request.param], 3 * SECONDS), folder)
    return folder


def read_results(runs: Path, name: str) -> list[dict[str, Any]]:
    """What each rank of a run said in the end."""
    return [pickle.loads((runs / name / f"{rank}.pickle").read_bytes()) for rank in range(NUM_RANKS[name])]


def test_as_many_ranks_go_on_bit_for_bit(runs: Path) -> None:
    """Two ranks take over what two have saved, each with its own random numbers, and end as if never interrupted."""
    for ours, theirs in zip(read_results(runs, "resume-2"), read_results(runs, "save"), strict=True):
        assert ours["resumed"] == (SAVED_STEP, {"note": "kept"})
        for part in ("whole", "own", "last", "last_own"):
            assert list_differences(ours[part], theirs[part]) == []


@pytest.mark.parametrize("name", ["resume-1", "resume-4"])
def test_other_ranks_take_weights_and_moments_over(runs: Path, name: str) -> None:
    """One rank and four take over what two have saved, whole and bit for bit; random numbers and data begin anew."""
    saved = read_results(runs, "save")[0]
    for ours in read_results(runs, name):
        assert ours["resumed"] == (SAVED_STEP, {"note": "kept"})
        assert list_differences(ours["whole"], saved["whole"]) == []
        assert "position" in str(list_differences(ours["own"], saved["own"]))


def test_no_thread_of_ours_is_left(runs: Path) -> None:
    """The process group that checkpoints go over is given back with its threads: left to Python's end it may abort."""
    for result in (*read_results(runs, "save"), *read_results(runs, "resume-4")):
        of_both_groups, of_the_first = result["threads"]
        assert of_both_groups == 2 * of_the_first > 0


def test_stamp_knows_the_ranks_and_every_file(runs: Path) -> None:
    """The stamp holds the number of ranks and the checksum of every file that any of them wrote."""
    folder = runs / "save" / "run" / FOLDER
    assert read_stamp(folder).num_ranks == 2
    held = json.loads((folder / STAMP).read_text())["files"]
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {STAMP}
    assert written == held.keys()
    assert all(len(seal["sha256"]) == 64 for seal in held.values())


def test_every_damaged_file_is_seen(runs: Path, tmp_path: Path) -> None:
    """One flipped bit in any file, of whichever rank, and the checkpoint is passed over."""
    shutil.copytree(runs / "save" / "run", tmp_path / "run")
    folder = tmp_path / "run" / FOLDER
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(folder, rank=int("rank-00001" in str(path)), num_ranks=2 if "rank" in str(path) else 1)
        path.write_bytes(whole)
    assert read_checkpoint(folder).stamp.step == SAVED_STEP


def save(state: dict[str, Any], folder: Path) -> None:
    """What others write."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state_dict_saver.save(state, checkpoint_id=folder, no_dist=True)


class Payload:
    """A pickle of this writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_index_with_code_is_refused(tmp_path: Path) -> None:
    """An index that would run code when it is read is refused, and the code does not run."""
    (tmp_path / INDEX).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(pickle.UnpicklingError, match="which no index is made of"):
        read_shards(tmp_path, {"weight": torch.zeros(2)})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "value", [pytest.param({"weight": Payload(Path("ran"))}, id="code"), pytest.param({"weight": 3}, id="number")]
)
def test_values_that_are_no_tensors_are_refused(
    value: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others wrote as a pickle among the tensors is not read."""
    monkeypatch.chdir(tmp_path)
    save(value, tmp_path)
    target: Tensor = torch.zeros(2)
    with pytest.raises(pickle.UnpicklingError, match=r"no index is made of|no tensor"):
        read_shards(tmp_path, {"weight": target})
    assert not (tmp_path / "ran").exists()


def test_index_that_names_other_folders_is_refused(tmp_path: Path) -> None:
    """A part is read from the folder of its index and from nowhere else."""
    save({"weight": torch.ones(2)}, tmp_path / "sound")
    index = pickle.loads((tmp_path / "sound" / INDEX).read_bytes())
    for where in index.storage_data.values():
        where.relative_path = f"../sound/{where.relative_path}"
    (tmp_path / "forged").mkdir()
    (tmp_path / "forged" / INDEX).write_bytes(pickle.dumps(index))
    with pytest.raises(pickle.UnpicklingError, match="outside of its folder"):
        read_shards(tmp_path / "forged", {"weight": torch.zeros(2)})
    sound = {"weight": torch.zeros(2)}
    read_shards(tmp_path / "sound", sound)
    assert sound["weight"].tolist() == [1, 1]


def test_rotation_keeps_what_a_single_process_reads(runs: Path) -> None:
    """Whoever lists checkpoints sees those of several ranks as any others."""
    assert [stamp.step for _, stamp in Checkpoints(runs / "save" / "run" / "checkpoints").list()] == [SAVED_STEP]
