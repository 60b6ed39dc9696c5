"""What probes look at: the live training, its parameters sorted into groups."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from trimtab.errors import InputError
from trimtab.probes.groups import OTHER, Grouping, assign_groups, name_groups
from trimtab.ranks import count_parts, is_first_rank, is_sharded, take_part, take_parts, unwrap
from trimtab.spectra import Spectra

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


class Subject:
    """The training a supervisor looks at: the parameters its optimizer updates, sorted into groups.

    Args:
        model: the model that is trained.
        optimizer: the optimizer that updates it.
        scaler: the loss scaler, if there is one.
        grouping: groups given by name; None for the model's own modules.

    Attributes:
        network: the model, without what `DistributedDataParallel` wraps around it.
        names: the name of every parameter, in the model's order; parameters the model does not own come last.
        parameters: the parameters in the same order.
        groups: the names of the groups.
        group_of: for every parameter the index of its group; shape (parameters,).
        schedule: the schedule of the learning rate, where there is one; set by who knows it.
        has_shards: True if ranks keep parts of parameters.
        num_parts: for every parameter into how many parts it is cut.

    Raises:
        InputError: if the model has nothing to train, or the optimizer holds none of it or cannot be judged.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None, grouping: Grouping | None = None
    ) -> None:
        _validate(model, optimizer)
        self.model = model
        self.optimizer = optimizer
        self.scaler = scaler
        self.schedule: LRScheduler | None = None
        self.network = unwrap(model)
        members = assign_groups(self.network) if grouping is None else name_groups(self.network, grouping)
        self._group_by_name = members
        owned = {id(parameter) for parameter in model.parameters()}
        foreign = [OTHER] if any(id(parameter) not in owned for parameter in _list_held(optimizer)) else []
        self.groups = tuple(dict.fromkeys([*members.values(), *foreign]))
        self.refresh()

    def refresh(self) -> None:
        """Look the optimizer's parameters up: those of the model in its order, then the others."""
        held = {id(parameter): parameter for parameter in _list_held(self.optimizer)}
        named = [(name, held.pop(id(each))) for name, each in self.network.named_parameters() if id(each) in held]
        named += [(f"{OTHER}.{index}", parameter) for index, parameter in enumerate(held.values())]
        groups = self.optimizer.param_groups
        self._num_given = sum(len(group["params"]) for group in groups)
        self._frozen = [each for group in groups for each in group["params"] if not each.requires_grad]
        self.names = tuple(name for name, _ in named)
        self.parameters = [parameter for _, parameter in named]
        self.has_shards = any(map(is_sharded, self.parameters))
        self.num_parts = [count_parts(each) for each in self.parameters]
        index_of = {group: index for index, group in enumerate(self.groups)}
        last = len(self.groups) - 1
        members = [self._group_by_name.get(name, OTHER) for name in self.names]
        self.group_of = np.array([index_of.get(group, last) for group in members], dtype=np.int64)
        self._members: dict[str, list[Tensor]] = {group: [] for group in self.groups}
        for parameter, index in zip(self.parameters, self.group_of.tolist(), strict=True):
            self._members[self.groups[index]].append(parameter)

    def refresh_if_changed(self) -> bool:
        """Look the parameters up anew if the optimizer was given more of them, or a frozen one is to be trained.

        Returns:
            True if a frozen one is, before its first update.
        """
        num_given = sum(len(group["params"]) for group in self.optimizer.param_groups)
        is_thawed = any(each.requires_grad for each in self._frozen)
        if num_given != self._num_given or is_thawed:
            self.refresh()
        return is_thawed

    @property
    def dtypes(self) -> list[str]:
        """The dtypes of the parameters, as text."""
        return sorted({str(parameter.dtype).removeprefix("torch.") for parameter in self.parameters})

    def list_parts(self) -> list[Tensor]:
        """The parameters, of sharded ones this rank's part."""
        return take_parts(self.parameters) if self.has_shards else self.parameters

    def list_members(self, group: str) -> list[Tensor]:
        """The parameters of a group, by its name."""
        return self._members[group]

    @property
    def device(self) -> torch.device:
        """Where the measured numbers are gathered: the device of the first parameter."""
        return self.parameters[0].device

    @property
    def scales(self) -> bool:
        """True if the loss is scaled."""
        return self.scaler is not None and self.scaler.is_enabled()

    def list_gradients(self) -> list[Tensor | None]:
        """The gradient of each parameter, dense, of sharded ones this rank's part; None where there is none."""
        gradients = [parameter.grad for parameter in self.parameters]
        if self.has_shards:
            gradients = [_cut(*pair) for pair in zip(gradients, self.parameters, strict=True)]
        return [each.coalesce().values() if each is not None and each.is_sparse else each for each in gradients]

    @torch.no_grad()
    def measure_weights(self) -> float:
        """The norm of all parameters together, of sharded ones this rank's part; not finite where one is not."""
        return float(torch.linalg.vector_norm(stack_norms(self.list_parts(), self.device)))

    def share(self, numbers: Tensor) -> Tensor:
        """Norms of this rank's parts as numbers whose mean over all ranks tells the norms of the whole.

        Norms of what every rank has whole stay as they are. Of a parameter in k parts they become k times their square:
        each part is on equally many ranks, so the mean is the sum of the squares of all parts.

        Args:
            numbers: one norm per parameter, or several times that; 1-d.
        """
        if not self.has_shards:
            return numbers
        num_parts = torch.tensor(self.num_parts, device=numbers.device)
        by_parameter = numbers.to(torch.float64).reshape(-1, len(num_parts))
        return torch.where(num_parts > 1, num_parts * by_parameter.square(), by_parameter).reshape(-1)

    def join(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """The norms of the whole, from the means of what `share` gave."""
        if not self.has_shards:
            return numbers
        by_parameter = numbers.reshape(-1, len(self.num_parts))
        is_cut = np.array(self.num_parts) > 1
        joined: NDArray[Any] = np.where(is_cut, np.sqrt(by_parameter), by_parameter).reshape(-1)
        return joined

    def norms_by_group(self, norms: NDArray[Any]) -> tuple[float, ...]:
        """The Euclidean norm of each group from those of its parameters; shape (parameters,), as float32."""
        squares = np.bincount(self.group_of, weights=np.square(norms, dtype=np.float64), minlength=len(self.groups))
        return tuple(np.sqrt(squares).astype(np.float32).tolist())


class StepTimes(NamedTuple):
    """Where the time of a step went, in seconds."""

    step: float
    """From the step before to this one."""

    supervisor: float
    """What the supervisor took of it."""

    cpu: float
    """What the process computed meanwhile, all threads together."""

    data: float | None = None
    """How long the loop waited for data; None where it did not say."""


@dataclass(slots=True)
class Moment:
    """One step, as the probes see it: after backward, before the optimizer steps."""

    subject: Subject
    """The live training."""

    loss: Tensor | None = None
    """The loss, 0-d; None where it is not known."""

    grad_norm: Tensor | None = None
    """The total gradient norm, 0-d, where the loop has measured it already."""

    batch: Any = None
    """The batch, where it was handed over."""

    buffers: list[Tensor] = field(default_factory=list)
    """The running statistics of the model's normalization layers."""

    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """The parts of the loss by name, each 0-d, where they were handed over."""

    evaluate: Callable[[nn.Module], Tensor | float] | None = None
    """What measures how good a state is, at the steps at which it is asked, on every rank; None at the others."""

    compute_loss: Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor]] | None = None
    """Gives the loss of the batch once more, at the steps at which both modes are compared; None at the others."""

    mode_failure: Exception | None = None
    """What it raised then."""

    is_rate_declared: bool = False
    """True if the loop has said that it changes the learning rate on purpose."""

    is_data_declared: bool = False
    """True if the loop has said that other data come from this step on."""

    level_step: int | None = None
    """The step after which nothing measured is a sample any more, where loss or weights were changed on purpose."""

    state_step: int | None = None
    """The step whose update is the last one in the state at hand; None if it is the step before."""

    self_change: float | None = None
    """How far self-updating parameters have moved in this step's forward pass, ‖Δw‖ / ‖w‖; None without any."""

    is_first_probe: bool = False
    """True until a measurement of the probe was taken."""

    probe_failure: Exception | None = None
    """What `evaluate` raised on this rank."""

    is_sampled: bool = False
    """True at the few steps at which what is dear is measured too, on every rank."""

    watches: Mapping[str, Any] = field(default_factory=dict)
    """At a sampled step: what probes have seen through hooks since the update before, by the probe's name."""

    frozen: tuple[str, ...] = ()
    """The groups that are frozen, whose gradients have been taken away."""

    wants_spectra: bool = False
    """True at the reviews at which the spectra of the weights are measured, on every rank."""

    spectra: Spectra | None = None
    """What this rank has measured of them."""

    sample: Any = None
    """At a review: what the model made of a fixed sample of rows, a `Sample`, on every rank; None without one."""

    note: str = ""
    """What the record is to say beside the numbers: the parameters whose gradients are not finite."""

    has_agreed: bool = False
    """True once it is known that nothing has failed on any rank: then the others judge the step."""

    failure: Exception | None = None
    """What failed on this rank alone after that; the other probes' numbers are there."""

    is_ratio_due: bool = False
    """True if the update before this step is one to measure, on every rank."""

    reference: list[Tensor] | None = None
    """The parameters (of sharded ones this rank's part) as they were exactly one update ago, where a copy of them is at
    hand; in the subject's order."""

    seconds: StepTimes | None = None
    """Where the time since the step before went; None at the first step."""

    norms: tuple[list[Tensor | None], Tensor, Tensor, Tensor] | None = None
    """What `take_norms` has taken."""

    signals: tuple[float, ...] = ()
    """1 for each of `SIGNALS` that came in on this rank, otherwise 0, and once measured on how many ranks; empty where
    none are read."""

    losses: NDArray[np.float64] | None = None
    """Every rank's own loss, NaN where it is not finite, once measured; shape (ranks,). None without ranks."""

    def add_note(self, *sentences: str) -> None:
        """Add to what the record is to say."""
        self.note = "; ".join(filter(None, [self.note, *sentences]))

    def take_norms(self) -> tuple[list[Tensor | None], Tensor, Tensor, Tensor]:
        """The gradients, the norms of those that are there, of all parameters and of `buffers`; one call for all.

        Of what is sharded they are of this rank's part, see `Subject.share`.

        No gradient is looked at where the loop has measured their norm already.
        """
        if self.norms is None:
            gradients = [] if self.grad_norm is not None else self.subject.list_gradients()
            there = [gradient for gradient in gradients if gradient is not None]
            norms = stack_norms([*there, *self.subject.list_parts(), *self.buffers], self.subject.device)
            sizes = len(there), len(self.subject.parameters), len(self.buffers)
            self.norms = gradients, *norms.split(sizes)
        return self.norms


def as_number(who: str, name: str, value: Tensor | float) -> Tensor:
    """A number as a 0-d tensor without its graph.

    Args:
        who: the function it was handed to, for the message.
        name: what it is.
        value: the number.

    Raises:
        InputError: if it is not one number.
    """
    if isinstance(value, Tensor):
        number = value.detach()
        if is_sharded(number):  # such as the norm that clip_grad_norm_ returns; every rank has to hand it over
            number = number.full_tensor()
    elif isinstance(value, Real):
        number = torch.tensor(float(value), dtype=torch.float64)
    else:
        raise InputError(f"{who}: {name} is a {type(value).__name__!r}; it has to be one number, such as a 0-d tensor")
    if number.ndim != 0:
        raise InputError(f"{who}: {name} has shape {tuple(number.shape)}; it has to be 0-d, such as {name}.mean()")
    return number


def stack_norms(tensors: list[Tensor], device: torch.device) -> Tensor:
    """The Euclidean norm of each tensor, taken in float32; shape (tensors,), on one device.

    Without the explicit dtype, norms of float16 and bfloat16 tensors overflow to a false infinity.
    """
    if not tensors:
        return torch.zeros(0, device=device)
    dtypes = {tensor.dtype for tensor in tensors}
    if dtypes == {torch.float32}:  # as the general case below, and faster
        norms = torch._foreach_norm(tensors, 2)
    else:
        real = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in tensors]
        is_double = not dtypes.isdisjoint((torch.float64, torch.complex128))
        norms = torch._foreach_norm(real, 2, dtype=torch.float64 if is_double else torch.float32)
    is_here = {norm.device for norm in norms} == {device}
    return torch.stack(norms if is_here else [norm.to(device) for norm in norms])


def _cut(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """This rank's part of a gradient, cut as its parameter is; one that is still to be summed is summed first."""
    if not is_sharded(gradient):
        return gradient
    if is_sharded(parameter) and gradient.placements != parameter.placements:
        gradient = gradient.redistribute(placements=parameter.placements)
    part: Tensor = take_part(gradient)
    return part


def _list_held(optimizer: Optimizer) -> list[Tensor]:
    return [each for group in optimizer.param_groups for each in group["params"] if each.requires_grad]


def _validate(model: nn.Module, optimizer: Optimizer) -> None:
    for name, value, wanted in (("model", model, nn.Module), ("optimizer", optimizer, torch.optim.Optimizer)):
        if not isinstance(value, wanted):
            raise InputError(
                f"supervisor: {name} is a {type(value).__name__!r}; it has to be a torch {wanted.__name__}, as in "
                "Supervisor(model, optimizer)"
            )
    _require_numbers(model, optimizer)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InputError(
            "supervisor: LBFGS evaluates the loss several times inside one step, so no step can be judged before it "
            "is made; use an optimizer whose step needs no closure"
        )
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise InputError(
            f"supervisor: optimizer is a {type(optimizer).__name__!r}, which wraps another and has no hooks; pass the "
            "one inside it, such as optimizer.optimizer"
        )
    trainable = {id(each): name for name, each in model.named_parameters() if each.requires_grad}
    if not trainable:
        raise InputError("supervisor: the model has no trainable parameter; at least one needs requires_grad=True")
    held = _list_held(optimizer)
    left_out = trainable.keys() - {id(parameter) for parameter in held}
    names = [name for key, name in trainable.items() if key in left_out]
    if len(left_out) == len(trainable):
        raise InputError(
            f"supervisor: the optimizer holds none of the model's parameters: the model has {shorten(names)}, the "
            f"optimizer {shorten([f'one of shape {tuple(each.shape)}' for each in held])}; "
            "build it from this model's parameters()"
        )
    num_foreign = len({id(each) for each in held} - {id(each) for each in model.parameters()})
    stale = (
        f"; it holds {num_foreign} that the model does not have, as after a layer was replaced: "
        "build it when the model is complete"
    )
    if left_out and is_first_rank():
        warnings.warn(
            f"supervisor: the optimizer leaves out {len(names)} of the model's {len(trainable)} trainable parameters, "
            f"which are neither measured nor restored: {shorten(names)}{stale if num_foreign else ''}",
            stacklevel=4,
        )


def _require_numbers(model: nn.Module, optimizer: Optimizer) -> None:
    """See that every parameter has a shape, and every one that is trained has numbers."""
    lazy = [name for name, each in model.named_parameters() if is_lazy(each)]
    if lazy:
        raise InputError(
            f"supervisor: the model has parameters that have no shape yet: {shorten(lazy)}; call it once on a batch, "
            "then make the optimizer and the supervisor"
        )
    held = {id(parameter) for parameter in _list_held(optimizer)}
    absent = [name for name, each in model.named_parameters() if each.is_meta and id(each) in held]
    if absent:
        raise InputError(
            f"supervisor: parameters that are to be trained are on the meta device, where they have no numbers: "
            f"{shorten(absent)}; load them before the supervisor is made, offload only what is not trained, or freeze "
            "them with requires_grad_(False)"
        )


def shorten(names: Sequence[str], most: int = 4) -> str:
    """Some names for a message, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
