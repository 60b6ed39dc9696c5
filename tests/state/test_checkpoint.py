"""Checkpoints: bit-exact, complete or absent, verified when read, and never in the way of the training."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils

from trimtab.errors import CheckpointError, InputError, TrimtabError
from trimtab.state import checkpoint
from trimtab.state.checkpoint import FORMAT_VERSION, Loaded, Stamp, read_checkpoint, read_stamp, write_checkpoint
from trimtab.state.checkpoints import Checkpoints
from trimtab.state.rng import capture_rng, restore_rng
from trimtab.state.tensors import DTYPE_CODES

NAN, INF = math.nan, math.inf

HEALTHY = Stamp(1, is_healthy=True)

FILES = ("model.safetensors", "state.safetensors", "state.json", "stamp.json")


def as_text(value: Any) -> str:
    """A text that is equal for states that are equal to the bit: types, order, every bit of every number."""
    if isinstance(value, Tensor):
        plain = torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
        data = bytes(plain.reshape(-1).view(torch.uint8).tolist())
        return f"tensor {value.dtype} {tuple(value.shape)} {data!r}"
    if isinstance(value, (np.ndarray, np.generic)):
        return f"{type(value).__name__} {value.dtype} {value.shape} {value.tobytes()!r}"
    if isinstance(value, Mapping):
        kind = "Counter" if isinstance(value, Counter) else "dict"
        return f"{kind} {{{', '.join(f'{as_text(key)}: {as_text(each)}' for key, each in value.items())}}}"
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return f"{type(value).__name__} [{', '.join(map(as_text, value))}]"
    if isinstance(value, float):
        return f"{type(value).__name__} {struct.pack('>d', value)!r}"
    return hex(value) if type(value) is int else repr(value)


def round_trip(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state as it comes back from the disk."""
    with TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "one", state, HEALTHY)
        return read_checkpoint(Path(folder) / "one").state


def make_state(fill: float = 1.0, size: int = 5) -> dict[str, Any]:
    """A small state with something in each of the files."""
    return {"model": {"weight": torch.full((size,), fill)}, "moments": torch.full((2,), fill), "fill": fill}


def fill_folder(folder: Path, *stamps: Stamp) -> Checkpoints:
    """A folder with a checkpoint per stamp, filled with its step, and what reads it."""
    for stamp in stamps:
        write_checkpoint(folder / f"step-{stamp.step:06d}", make_state(stamp.step), stamp)
    return Checkpoints(folder)


def list_steps(folder: Path) -> list[int]:
    return [stamp.step for _, stamp in Checkpoints(folder).list()]


def list_hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def accept_all(_: Loaded) -> None:
    """Whatever was read is taken."""


# What goes through.


numbers = st.integers() | st.floats() | st.booleans()
scalars = numbers | st.none() | st.text(max_size=5) | st.binary(max_size=5)
keys = st.text("$a.", max_size=3) | numbers | st.none() | st.tuples(st.text(max_size=2), st.integers())
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
kinds = st.sampled_from(["?", "u1", "i2", "u4", "i8", "f2", "f4", "f8", "c8"])
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64])
arrays = st.builds(lambda kind, shape: np.arange(math.prod(shape)).reshape(shape).astype(kind), kinds, shapes)
tensors = st.builds(lambda dtype, shape: torch.arange(math.prod(shape)).reshape(shape).to(dtype), dtypes, shapes)
leaves = (
    scalars | tensors | arrays | st.builds(lambda kind, value: np.dtype(kind).type(value), kinds, st.integers(0, 9))
)
states = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=20,
)


@settings(max_examples=80)
@given(model=st.dictionaries(st.text("a.$_", max_size=4), leaves, max_size=4), rest=states)
def test_states_survive_exactly(model: dict[str, Any], rest: Any) -> None:
    """Whatever a state is nested of comes back with every type, key, order and bit."""
    state = {"model": model, "rest": rest}
    assert as_text(round_trip(state)) == as_text(state)


def nest(depth: int) -> Any:
    return (nest(depth - 1),) if depth else ()


class Sampler(NamedTuple):
    """A tuple with a type of its own, which a checkpoint does not know."""

    seed: int


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(NAN, id="nan"),
        pytest.param(struct.unpack(">d", bytes.fromhex("fff8000000000001"))[0], id="nan-with-a-payload"),
        pytest.param([1.0, -INF, INF, -0.0, 5e-324], id="floats"),
        pytest.param([2**63, -(2**63) - 1, 2**63 - 1, 3**9999, True, 1], id="integers-of-any-size"),
        pytest.param({"$int": "no", "plain": {"$tuple": [1]}}, id="keys-that-look-like-tags"),
        pytest.param({1: "int", "1": "text", 1.5: "float", None: "none", (1, "a"): "tuple"}, id="keys-of-all-kinds"),
        pytest.param({NAN: 1, "": 2}, id="nan-as-a-key"),
        pytest.param({"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}, id="two-tensors-of-one-dotted-name"),
        pytest.param({"__metadata__": torch.ones(1)}, id="a-name-that-safetensors-keeps-for-itself"),
        pytest.param("lone \udc80 surrogate, 字, \0", id="text"),
        pytest.param(bytes(range(256)), id="bytes"),
        pytest.param([np.float64(0.1), np.float16(NAN), np.int64(-1), np.bool_(True), np.complex128(1j)], id="scalars"),
        pytest.param([np.ones(3)[::-1], np.ones((2, 3)).T, np.array(5), np.ones((0, 2))], id="arrays-of-any-layout"),
        pytest.param([torch.float32, torch.device("cuda:1"), torch.Size([2, 3]), torch.Size([])], id="of-torch"),
        pytest.param([torch.tensor(1.5), torch.empty(0, 3), torch.empty(2, 0)], id="0-d-and-empty"),
        pytest.param([torch.ones(3, 4)[:, ::2], torch.ones(3).expand(2, 3)], id="not-contiguous"),
        pytest.param([torch.tensor([1j]).conj(), torch.tensor([1j]).conj().imag], id="conjugate-and-negative-views"),
        pytest.param(Counter({30: 1, 80: 2}), id="counter"),
        pytest.param([[], (), {}, [()], Counter()], id="empty"),
        pytest.param(nest(150), id="150-levels-deep"),
    ],
)
def test_values_survive_exactly(value: Any) -> None:
    """Each value that needs care comes back as it was, to the bit; twice, since the first trip must not bend it."""
    state = {"value": value, "model": {}}
    once = round_trip(state)
    assert as_text(once) == as_text(state)
    assert as_text(round_trip(once)) == as_text(state)


@pytest.mark.parametrize("dtype", [pytest.param(dtype, id=str(dtype)) for dtype in DTYPE_CODES])
def test_every_dtype_of_safetensors(dtype: torch.dtype, tmp_path: Path) -> None:
    """Every dtype that safetensors holds comes back to the bit, and safetensors itself reads it."""
    tensor = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1] * 4, dtype=torch.uint8).view(dtype)
    state = {"model": {"weight": tensor}, "rest": tensor.reshape(2, -1)}
    assert Checkpoints(tmp_path).save(state, HEALTHY, wait=True)
    assert as_text(read_checkpoint(tmp_path / "step-000001").state) == as_text(state)
    loaded = safetensors.torch.load_file(tmp_path / "step-000001" / "model.safetensors")
    assert as_text(loaded) == as_text({"weight": tensor})


def test_mappings_come_back_as_what_loading_needs() -> None:
    """Mappings are plain dicts again, but for counters and module states, which keep the versions of their parts."""
    module = nn.Sequential(nn.BatchNorm1d(2)).state_dict()
    counter = Counter({"a": 1})
    plain = [OrderedDict(a=1), defaultdict(int, a=1), MappingProxyType({"a": 1})]
    state = round_trip({"model": module, "counter": counter, "plain": plain})
    assert [type(each) for each in state["plain"]] == [dict, dict, dict]
    assert type(state["counter"]) is Counter
    assert type(state["model"]) is OrderedDict
    assert state["model"]._metadata == module._metadata  # type: ignore[attr-defined]


def test_strides_survive() -> None:
    """A dense tensor keeps its memory format, since an optimizer does not copy the state it loads."""
    dense = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    state = round_trip({"dense": dense, "gaps": torch.ones(4, 4)[:, ::2]})
    assert state["dense"].stride() == dense.stride()
    assert torch.equal(state["dense"], dense)
    assert state["gaps"].is_contiguous()


def test_tied_tensors_are_kept_once(tmp_path: Path) -> None:
    """Tied weights are stored once, come back as one tensor, and safetensors' own `load_model` loads them."""
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50, bias=False))
    weight = model[1].weight = model[0].weight
    state = {"model": model.state_dict(), "same": [weight, weight.T]}
    write_checkpoint(tmp_path / "one", state, HEALTHY)
    held = read_checkpoint(tmp_path / "one").state
    assert as_text(held) == as_text(state)
    assert held["model"]["0.weight"] is held["model"]["1.weight"]
    assert (tmp_path / "one" / "model.safetensors").stat().st_size < 50 * 8 * 4 + 400
    fresh = copy.deepcopy(model)
    fresh.load_state_dict({"0.weight": torch.zeros(50, 8), "1.weight": torch.zeros(50, 8)})
    safetensors.torch.load_model(fresh, str(tmp_path / "one" / "model.safetensors"))
    assert as_text(fresh.state_dict()) == as_text(model.state_dict())


def test_every_loaded_tensor_has_its_own_memory() -> None:
    """Changing one loaded tensor changes no other, though they came from one file."""
    state = round_trip({"model": {"a": torch.ones(3), "b": torch.ones(3)}, "c": np.ones(3)})
    state["model"]["a"].zero_()
    state["c"][:] = 2
    assert state["model"]["b"].tolist() == [1, 1, 1]
    assert state["model"]["a"].untyped_storage().nbytes() == 12


ITSELF: list[Any] = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        pytest.param({1, 2}, "state['a']['b'][1] is a set, and a checkpoint holds only", id="set"),
        pytest.param(len, "is a builtin_function_or_method, and", id="function"),
        pytest.param(Sampler(1), "is a Sampler, and", id="named-tuple"),
        pytest.param(np.array([None]), "is a ndarray of dtype object, and", id="array-of-objects"),
        pytest.param(np.array(["a"]), "is a ndarray of dtype <U1, and", id="array-of-text"),
        pytest.param(np.ones(2, complex), "is a ndarray of dtype complex128, and", id="array-of-complex128"),
        pytest.param(np.ma.masked_array([1.0], [True]), "is a MaskedArray of dtype float64, and", id="masked-array"),
        pytest.param(np.str_("a"), "is a str_ of dtype <U1, and", id="numpy-text"),
        pytest.param(torch.eye(2).to_sparse(), "is a Tensor of torch.float32 and torch.sparse_coo on cpu", id="sparse"),
        pytest.param(torch.empty(2, device="meta"), "torch.strided on meta, and", id="meta"),
        pytest.param(torch.ones(2, dtype=torch.complex128), "is a Tensor of torch.complex128", id="complex128"),
        pytest.param(nn.UninitializedParameter(), "is a UninitializedParameter of", id="not-initialized"),
        pytest.param({HEALTHY: 1}, "has a Stamp as a key, and", id="key"),
        pytest.param(ITSELF, "is nested too deep or holds itself; leave it out", id="holds-itself"),
    ],
)
def test_what_cannot_be_held_is_refused(value: Any, sentence: str, tmp_path: Path) -> None:
    """What a checkpoint cannot hold is one sentence that says where it is, in `save` at once; nothing is written."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for save in (checkpoints.save, functools.partial(write_checkpoint, tmp_path / "checkpoints" / "one")):
        with pytest.raises(InputError) as raised:
            save({"a": {"b": [0, value]}}, HEALTHY)
        assert str(raised.value).startswith("checkpoint: state['a']['b']")
        assert sentence in str(raised.value)
    assert not (tmp_path / "checkpoints").exists()


# The states of PyTorch's own parts.


def list_optimizers() -> list[type[torch.optim.Optimizer]]:
    found = [each for each in vars(torch.optim).values() if isinstance(each, type)]
    known = [each for each in found if issubclass(each, torch.optim.Optimizer) and each is not torch.optim.Optimizer]
    return [each for each in known if each is not torch.optim.SparseAdam]  # which takes sparse gradients only


def make_optimizer(kind: type[torch.optim.Optimizer]) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False))
    if kind is torch.optim.LBFGS:
        return model, kind(model.parameters())  # which has one group only
    groups = [{"params": [parameter], "lr": 0.01 / (1 + index)} for index, parameter in enumerate(model.parameters())]
    return model, kind(groups)  # type: ignore[call-arg]


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    def compute() -> float:
        optimizer.zero_grad()
        loss: Tensor = model(torch.full((3, 4), 0.5)).square().mean()
        loss.backward()
        return loss.item()

    for _ in range(num_steps):
        optimizer.step(compute)


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.__name__) for kind in list_optimizers()])
def test_optimizers(kind: type[torch.optim.Optimizer]) -> None:
    """Every dense optimizer of torch.optim goes through, and goes on as if it had never stopped."""
    model, optimizer = make_optimizer(kind)
    take_steps(model, optimizer, 3)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    held = round_trip(state)
    assert as_text(held) == as_text(state)
    other, resumed = make_optimizer(kind)
    other.load_state_dict(held["model"])
    resumed.load_state_dict(held["optimizer"])
    take_steps(model, optimizer, 3)
    take_steps(other, resumed, 3)
    assert as_text([other.state_dict(), resumed.state_dict()]) == as_text([model.state_dict(), optimizer.state_dict()])


class Decay:
    """A learning-rate lambda with a state, which LambdaLR saves."""

    def __init__(self) -> None:
        self.factor = 0.9

    def __call__(self, epoch: int) -> float:
        return self.factor**epoch


def make_sequential(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    parts = [lr_scheduler.LinearLR(optimizer), lr_scheduler.MultiStepLR(optimizer, [2, 2, 5])]
    return lr_scheduler.SequentialLR(optimizer, parts, [3])


def make_chained(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.ChainedScheduler([lr_scheduler.LinearLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)])


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, Decay()),
    "LambdaLR-function": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 4, 4, 6]),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=20),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 10),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3, 2),
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=1),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.5, 3),
    "PolynomialLR": lambda optimizer: lr_scheduler.PolynomialLR(optimizer, 9, 2),
    "SWALR": lambda optimizer: swa_utils.SWALR(optimizer, 0.05, 4),
    "SequentialLR": make_sequential,
    "ChainedScheduler": make_chained,
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name: str) -> None:
    """The usual schedulers go through, are taken by `load_state_dict`, and go on as if they had never stopped."""

    def make() -> tuple[torch.optim.Optimizer, lr_scheduler.LRScheduler]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
        return optimizer, SCHEDULERS[name](optimizer)

    def step(optimizer: torch.optim.Optimizer, scheduler: lr_scheduler.LRScheduler) -> float:
        optimizer.step()
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(1.0)
        else:
            scheduler.step()
        return float(optimizer.param_groups[0]["lr"])

    optimizer, scheduler = make()
    for _ in range(3):
        step(optimizer, scheduler)
    state = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    held = round_trip(state)
    assert as_text(held) == as_text(state)
    resumed = make()
    resumed[0].load_state_dict(held["optimizer"])
    resumed[1].load_state_dict(held["scheduler"])
    rates = [step(optimizer, scheduler) for _ in range(6)]
    assert [step(*resumed) for _ in range(6)] == rates


def test_scaler_and_averages() -> None:
    """A GradScaler and averages of the weights go through and are taken by `load_state_dict`."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    averages = [
        swa_utils.AveragedModel(model),
        swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn()),
    ]
    for _ in range(2):
        for each in averages:
            each.update_parameters(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**7)
    state = {"averages": [each.state_dict() for each in averages], "scaler": scaler.state_dict()}
    held = round_trip(state)
    assert as_text(held) == as_text(state)
    fresh = torch.amp.GradScaler("cpu")
    fresh.load_state_dict(held["scaler"])
    assert fresh.get_scale() == 2.0**7
    for each, kept in zip(averages, held["averages"], strict=True):
        each.load_state_dict(kept)


def test_random_numbers() -> None:
    """Every generator goes on where it was, NumPy's new kind with its large integers too."""
    generator = np.random.default_rng(3)
    random.gauss(0, 1)
    state = {"global": capture_rng(), "own": generator.bit_generator.state}
    drawn = [random.random(), np.random.random(3).tolist(), torch.rand(3).tolist(), generator.random()]  # noqa: NPY002
    held = round_trip(state)
    assert as_text(held) == as_text(state)
    restore_rng(held["global"])
    generator.bit_generator.state = held["own"]
    again = [random.random(), np.random.random(3).tolist(), torch.rand(3).tolist(), generator.random()]  # noqa: NPY002
    assert again == drawn


# What is damaged is never taken.


def cut(path: Path, end: int = -1) -> None:
    path.write_bytes(path.read_bytes()[:end])


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def flip(path: Path, place: float) -> None:
    """Flip one bit, so far into the file."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (cut, "is damaged: "),
    "emptied": (lambda path: cut(path, 0), "is damaged: "),
    "longer": (append, "is damaged: "),
    "missing": (Path.unlink, "is not whole: it has no "),
    "first-bit": (lambda path: flip(path, 0), "is damaged: "),
    "middle-bit": (lambda path: flip(path, 0.5), "is damaged: "),
    "last-bit": (lambda path: flip(path, 1), "is damaged: "),
    "is-a-folder": (make_folder, "checkpoint: "),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_is_passed_over(name: str, damage: str, tmp_path: Path) -> None:
    """Whatever is wrong with whichever file, one sentence names it, and the next older checkpoint is taken."""
    reports: list[str] = []
    fill_folder(tmp_path, *(Stamp(step, is_healthy=True) for step in (1, 2)))
    spoil, sentence = DAMAGES[damage]
    spoil(tmp_path / "step-000002" / name)
    loaded = Checkpoints(tmp_path, report=reports.append).load_newest(accept_all)
    assert loaded is not None
    assert (loaded.stamp.step, loaded.state["fill"]) == (1, 1)
    assert len(reports) == 1
    assert sentence in reports[0]
    assert name in reports[0]
    assert reports[0].endswith("; it is passed over")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "step-000002")


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    """There is no byte in any file whose change goes unnoticed."""
    write_checkpoint(tmp_path / "one", make_state(), Stamp(7, is_healthy=False, reason="loss spike", score=0.25))
    for name in FILES:
        path = tmp_path / "one" / name
        intact = path.read_bytes()
        for index in range(len(intact)):
            path.write_bytes(intact[:index] + bytes([intact[index] ^ 1 << index % 8]) + intact[index + 1 :])
            with pytest.raises(CheckpointError):
                read_checkpoint(tmp_path / "one")
        path.write_bytes(intact)
    assert read_checkpoint(tmp_path / "one").stamp == Stamp(7, is_healthy=False, reason="loss spike", score=0.25)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    """A checkpoint of a newer version of Trimtab is a clear sentence, whatever else it holds."""
    write_checkpoint(tmp_path / "one", make_state(), HEALTHY)
    path = tmp_path / "one" / "stamp.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT_VERSION + 1, "new": "field"}))
    with pytest.raises(
        CheckpointError,
        match=rf"format {FORMAT_VERSION + 1}, and this version reads up to {FORMAT_VERSION}; update trimtab$",
    ):
        read_stamp(tmp_path / "one")


def test_first_format_is_read(tmp_path: Path) -> None:
    """A checkpoint of the first format, whose stamp knows no ranks, is read as one of a single process."""
    folder = tmp_path / "one"
    write_checkpoint(folder, make_state(), HEALTHY)
    body = json.loads((folder / "stamp.json").read_text())
    del body["sha256"], body["num_ranks"]
    body["format"] = 1
    checksum = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    (folder / "stamp.json").write_text(json.dumps({**body, "sha256": checksum}, indent=1) + "\n")
    loaded = read_checkpoint(folder)
    assert loaded.stamp == HEALTHY
    assert loaded.own is None


def test_not_healthy_is_passed_over(tmp_path: Path) -> None:
    """A checkpoint of a sick run is taken only on demand, and the report says why it is sick."""
    reports: list[str] = []
    fill_folder(tmp_path, Stamp(1, is_healthy=True), Stamp(2, is_healthy=False, reason="loss is NaN"))
    checkpoints = Checkpoints(tmp_path, report=reports.append)
    loaded = checkpoints.load_newest(accept_all)
    assert loaded is not None
    assert loaded.stamp.step == 1
    assert reports == [
        f"checkpoint: {str(tmp_path / 'step-000002')!r} is not healthy: loss is NaN; it is passed over",
    ]
    sick = checkpoints.load_newest(accept_all, healthy_only=False)
    assert sick is not None
    assert sick.stamp == Stamp(2, is_healthy=False, reason="loss is NaN")


def test_mismatch_is_passed_over(tmp_path: Path) -> None:
    """A checkpoint that `accept` refuses is passed over with its reason; an error that is not ours goes through."""
    reports: list[str] = []
    fill_folder(tmp_path, *(Stamp(step, is_healthy=True) for step in (1, 2, 3)))
    checkpoints = Checkpoints(tmp_path, report=reports.append)

    def accept(loaded: Loaded) -> None:
        if loaded.stamp.step > 1:
            raise TrimtabError(f"head.weight has shape ({loaded.stamp.step},)")

    loaded = checkpoints.load_newest(accept)
    assert loaded is not None
    assert loaded.stamp.step == 1
    assert reports == [
        f"checkpoint: {str(tmp_path / f'step-00000{step}')!r} does not fit: head.weight has shape ({step},); "
        "it is passed over"
        for step in (3, 2)
    ]
    with pytest.raises(AttributeError):
        checkpoints.load_newest(lambda loaded: loaded.typo)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("before", "step"),
    [pytest.param(3, 2, id="earlier"), pytest.param(9, 4, id="all"), pytest.param(1, None, id="none")],
)
def test_before(before: int, step: int | None, tmp_path: Path) -> None:
    """With `before`, only earlier steps count; the others are not worth a word."""
    reports: list[str] = []
    fill_folder(tmp_path, *(Stamp(step, is_healthy=True) for step in (1, 2, 3, 4)))
    loaded = Checkpoints(tmp_path, report=reports.append).load_newest(accept_all, before=before)
    assert (loaded.stamp.step if loaded else None) == step
    assert reports == []


def test_all_of_them_bad(tmp_path: Path) -> None:
    """Where no checkpoint can be used, there is none, and each has its reason; so it is with an empty folder."""
    reports: list[str] = []
    fill_folder(tmp_path, Stamp(1, is_healthy=False), *(Stamp(step, is_healthy=True) for step in (2, 3, 4)))
    flip(tmp_path / "step-000002" / "model.safetensors", 1)
    cut(tmp_path / "step-000003" / "state.safetensors")
    shutil.rmtree(tmp_path / "step-000004")
    (tmp_path / "step-000004").mkdir()
    checkpoints = Checkpoints(tmp_path, report=reports.append)
    assert checkpoints.load_newest(accept_all) is None
    assert len(reports) == 4
    assert [stamp.step for _, stamp in checkpoints.list()] == [2, 1]
    assert Checkpoints(tmp_path / "nowhere", report=reports.append).load_newest(accept_all) is None
    assert Checkpoints(tmp_path / "nowhere").list() == []
    assert len(reports) == 4


# What is kept.


def sick(step: int, score: float | None = None) -> Stamp:
    return Stamp(step, is_healthy=False, reason="spike", score=score)


def well(step: int, score: float | None = None) -> Stamp:
    return Stamp(step, is_healthy=True, score=score)


@pytest.mark.parametrize(
    ("stamps", "keep_last", "kept"),
    [
        pytest.param([well(1), well(2), well(3), well(4)], 2, [4, 3], id="the-newest"),
        pytest.param([well(1), *map(sick, range(2, 9))], 3, [8, 7, 6, 1], id="the-last-healthy-one-among-sick-ones"),
        pytest.param([well(1), well(2), *map(sick, range(3, 9))], 1, [8, 2], id="only-the-newest-healthy-one"),
        pytest.param([well(1, 0.1), well(2, 0.5), well(3, 0.4), well(4, 0.3)], 1, [4, 1], id="the-best-scored-one"),
        pytest.param([well(1, 0.5), well(2, 0.1), well(3, 0.4), well(4)], 1, [4, 2], id="the-better-pushes-out"),
        pytest.param(
            [well(1, 0.5), sick(2, 0.1), well(3, 0.6), well(4, 0.7)], 1, [4, 1], id="a-sick-one-is-never-best"
        ),
        pytest.param([well(1, NAN), well(2, 0.5), well(3, NAN), well(4, INF)], 1, [4, 2], id="nan-is-never-best"),
        pytest.param([well(1), well(3), well(2), well(4)], 1, [4], id="by-step-not-by-time"),
        pytest.param([well(7), well(8), well(9), well(4)], 2, [9, 8, 4], id="just-written-is-kept"),
        pytest.param([well(9), well(1_000_000), well(1_000_001)], 2, [1_000_001, 1_000_000], id="numbers-not-text"),
    ],
)
def test_rotation(stamps: list[Stamp], keep_last: int, kept: list[int], tmp_path: Path) -> None:
    """After every write the newest, the newest healthy and the best healthy one are there, and nothing else."""
    checkpoints = Checkpoints(tmp_path, keep_last=keep_last)
    for stamp in stamps:
        assert checkpoints.save(make_state(), stamp, wait=True)
    assert [stamp.step for _, stamp in checkpoints.list()] == kept
    assert len(list(tmp_path.iterdir())) == len(kept)


@pytest.mark.parametrize("can_exchange", [pytest.param(True, id="in-one-stroke"), pytest.param(False, id="in-two")])
def test_same_step_again(can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is taken again replaces its checkpoint, and at no moment is there none of it."""
    if not can_exchange:
        monkeypatch.setattr(checkpoint, "_exchange", lambda *_: False)  # as on macOS, or on a network file system
    checkpoints = fill_folder(tmp_path, well(1))
    for fill in range(2, 12):
        assert checkpoints.save(make_state(fill, size=100_000), well(1))
        while checkpoints._writer is not None and checkpoints._writer.is_alive():
            assert [stamp.step for _, stamp in checkpoints.list()] == [1]
            assert (tmp_path / "step-000001" / "stamp.json").exists() or not can_exchange
        checkpoints.wait()
        assert read_checkpoint(tmp_path / "step-000001").state["fill"] == fill
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_killed_between_two_renames(tmp_path: Path) -> None:
    """Where replacing takes two renames and the process dies between them, the former one is still found."""
    fill_folder(tmp_path, well(1), well(2))
    (tmp_path / "step-000002").rename(tmp_path / "step-000002.old")
    checkpoints = Checkpoints(tmp_path)
    loaded = checkpoints.load_newest(accept_all)
    assert loaded is not None
    assert loaded.stamp.step == 2
    assert checkpoints.save(make_state(20), well(2), wait=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]
    assert read_checkpoint(tmp_path / "step-000002").state["fill"] == 20


# Off the hot path.


def test_tensors_may_change_right_after_save(tmp_path: Path) -> None:
    """What is written is the state as it was when `save` was called, in reused memory too."""
    weight, array, items = torch.ones(3_000_000), np.ones(5), [1]
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        weight.fill_(step)
        array[:] = items[0] = step
        assert checkpoints.save({"model": {"weight": weight}, "array": array, "items": items}, well(step))
        weight.zero_()
        array[:] = items[0] = 0
        checkpoints.wait()
    for step in (1, 2, 3):
        state = read_checkpoint(tmp_path / f"step-00000{step}").state
        assert bool((state["model"]["weight"] == step).all())
        assert (state["array"].tolist(), state["items"]) == ([step] * 5, [step])


def test_state_that_changes_its_shape(tmp_path: Path) -> None:
    """Places kept from the save before are used only where they still fit."""
    checkpoints = Checkpoints(tmp_path, keep_last=9)
    states: list[dict[str, Any]] = [
        {"model": {"a": torch.ones(3), "b": torch.ones(2, 3)}},
        {
            "model": {"b": torch.zeros(3, 2), "a": torch.ones(3, dtype=torch.float64), "c": torch.ones(1)},
            "d": np.ones(2),
        },
        {"model": {"a": np.ones(3)}, "d": torch.ones(2, dtype=torch.float64)},
    ]
    for step, state in enumerate(states):
        assert checkpoints.save(state, well(step), wait=True)
        assert as_text(read_checkpoint(tmp_path / f"step-00000{step}").state) == as_text(state)


def test_slow_disk_never_stalls(tmp_path: Path) -> None:
    """While one is being written the next is not taken, which is said once; then saving goes on."""
    reports: list[str] = []
    checkpoints = Checkpoints(tmp_path, report=reports.append)
    large = {"model": {"weight": torch.zeros(20_000_000)}}
    assert checkpoints.save(large, well(1))
    assert not checkpoints.save(large, well(2))
    assert not checkpoints.save(large, well(3))
    assert reports == [
        "checkpoint: step 2 is not saved, since the one before is still being written; "
        "save less often, or to a faster disk"
    ]
    assert checkpoints.save(make_state(), well(4), wait=True)
    assert list_steps(tmp_path) == [4, 1]
    checkpoints.close()


def test_what_is_being_written_is_done_at_the_end(tmp_path: Path) -> None:
    """A program that ends right after a save has it on disk."""
    code = """
import sys, torch
from pathlib import Path
from trimtab.state.checkpoint import Stamp
from trimtab.state.checkpoints import Checkpoints
Checkpoints(Path(sys.argv[1])).save({"model": {"weight": torch.ones(5_000_000)}}, Stamp(1, True))
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
    assert read_checkpoint(tmp_path / "step-000001").state["model"]["weight"].sum() == 5_000_000


FULL_DISK = """
import json, resource, signal, sys, torch
from pathlib import Path
from trimtab.state.checkpoint import Stamp
from trimtab.state.checkpoints import Checkpoints
folder, reports = Path(sys.argv[1]), []
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(folder, report=reports.append)
state = {"model": {"weight": torch.ones(100_000)}}
results = [checkpoints.save(state, Stamp(1, True), wait=True)]
for step, limit in enumerate([50_000, 150_000, -1, 50_000], 2):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    for _ in range(2):
        results.append(checkpoints.save(state, Stamp(step, True), wait=True))
        results.append(checkpoints.save(state, Stamp(step, True)))
        checkpoints.wait()
names = sorted(path.name for path in folder.iterdir())
print(json.dumps([results, reports, names]))
"""
"""A run whose disk takes no large file at first, then does, then does not again."""


def test_full_disk(tmp_path: Path) -> None:
    """A disk that takes none is reported once per streak, leaves nothing half-written, and is tried again."""
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=True, timeout=120
    )
    results, reports, names = json.loads(result.stdout)
    failed, fine = [False, True] * 2, [True] * 4
    assert results == [True, *failed, *failed, *fine, *failed]
    assert reports == [
        f"checkpoint: {str(tmp_path / f'step-00000{step}')!r} cannot be written (File too large); "
        "the training goes on, and the next save tries again"
        for step in (2, 5)
    ]
    assert names == ["step-000001", "step-000004"]
    assert result.stderr == ""


def test_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that cannot be made is one line in the log, or one sentence of the function that writes at once."""
    (tmp_path / "file").touch()
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    assert checkpoints.save(make_state(), well(1))
    checkpoints.wait()
    assert not checkpoints.save(make_state(), well(2), wait=True)
    folder = tmp_path / "file" / "checkpoints" / "step-000001"
    assert [record.getMessage() for record in caplog.records] == [
        f"checkpoint: {str(folder)!r} cannot be written (Not a directory); "
        "the training goes on, and the next save tries again"
    ]
    with pytest.raises(CheckpointError) as raised:
        write_checkpoint(folder, make_state(), well(1))
    assert str(raised.value) == (
        f"checkpoint: {str(folder)!r} cannot be written (Not a directory); make room, or choose another place"
    )


# Kill -9 at any instant.


ENDLESS = """
import sys, torch
from pathlib import Path
from trimtab.state.checkpoint import Stamp
from trimtab.state.checkpoints import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
step = max([stamp.step for _, stamp in checkpoints.list()], default=0)
while True:
    step += 1
    checkpoints.save({"model": {"weight": torch.full((4_000_000,), step)}, "step": step}, Stamp(step, True), wait=True)
    checkpoints.save({"model": {"weight": torch.full((4_000_000,), step)}, "step": step}, Stamp(step, True), wait=True)
    print(step, flush=True)
"""
"""A run that does nothing but save every step twice, and says which are on disk."""


def test_kill_at_any_instant(tmp_path: Path) -> None:
    """However often it is killed in the middle of a write, what was said to be on disk is there, whole and exact."""
    folder, said, num_partial = tmp_path / "checkpoints", 0, 0
    for delay in (0.0, 0.017, 0.041):
        with subprocess.Popen([sys.executable, "-c", ENDLESS, folder], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = int(process.stdout.readline())
            time.sleep(delay)
            process.kill()
            said = max([said, *map(int, process.stdout.read().split())])
        num_partial += len(list_hidden(folder))
        loaded = Checkpoints(folder, report=pytest.fail).load_newest(accept_all)
        assert loaded is not None
        assert loaded.stamp.step >= said
        assert loaded.state["step"] == loaded.stamp.step
        assert bool((loaded.state["model"]["weight"] == loaded.stamp.step).all())
    assert num_partial > 0
    (folder / ".mine").mkdir()
    assert Checkpoints(folder).save(make_state(), well(said + 9), wait=True)
    assert list_hidden(folder) == [".mine"]
    assert process.returncode == -signal.SIGKILL
