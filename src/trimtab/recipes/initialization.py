"""The first weights of a model: drawn so that signals keep their size through its depth, with a reason for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd

from trimtab.errors import InputError
from trimtab.recipes.activations import find_activation, is_last, is_matrix
from trimtab.recipes.branches import is_attention, is_within, list_branches
from trimtab.recipes.freshness import EMBEDDINGS, NORMS, RECURRENT, find_trace
from trimtab.recipes.linting import require_numbers
from trimtab.recipes.trial import unwrap

Scheme: TypeAlias = Literal["auto", "he", "xavier", "transformer", "fixup"]
"""How weights are drawn: as each layer asks for, or one way for all; `fixup` is auto with residual branches at 0."""

TRANSFORMER_STD = 0.02
"""The standard deviation of the weights of a transformer (Radford et al. 2018, section 4.1)."""

HEAD_STD = 0.01
"""The standard deviation of a last linear layer: so small that the first loss of a classifier is that of chance. It is
the one of torchvision's VGG and MobileNet."""

FORGET_BIAS = 1.0
"""The bias of a forget gate, so that it begins open (Jozefowicz, Zaremba and Sutskever 2015)."""

GATES = {"LSTM": (4, 1), "GRU": (3, 1)}
"""By the beginning of a recurrent class's name: its gates, and which of them keeps the state: the forget gate of an
LSTM, and the update gate of a GRU, which in PyTorch keeps the state at 1."""


@dataclass(frozen=True, slots=True)
class FirstValue:
    """What became of one parameter."""

    parameter: str
    """Its name in the model."""

    rule: str
    """How it was set, such as `he-normal`; `kept` if it was not."""

    number: float | None
    """The standard deviation it was drawn with, or the constant it was set to; None for neither."""

    reason: str
    """Why."""

    @property
    def is_kept(self) -> bool:
        """True if it was not touched."""
        return self.rule == "kept"

    def __str__(self) -> str:
        number = "" if self.number is None else f"({self.number:.3g})"
        return f"{self.parameter}: {self.rule}{number}: {self.reason}"


class Initialization(tuple[FirstValue, ...]):
    """What became of each parameter, in the model's order; a line each when printed."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self))


@dataclass(slots=True, eq=False)
class _Plan:
    """What is known of the model while its parameters are set."""

    modules: Mapping[str, nn.Module]
    scheme: Scheme
    attends: bool = False
    """True for a transformer."""
    branches: Mapping[str, list[str]] = field(default_factory=dict)
    """The layers of each residual branch, by the last of them."""
    told: dict[int, FirstValue] = field(default_factory=dict)
    """By the id of each parameter that was dealt with."""


@torch.no_grad()
def initialize(
    model: nn.Module,
    scheme: Scheme = "auto",
    *,
    keep: Iterable[str] = (),
    overwrites: bool | Iterable[str] = False,
) -> Initialization:
    """Draw the first weights of a model, in place, and say what was done to which parameter and why.

    With `auto`:

    - Linear and convolutional layers by what follows them. ReLU and its like: normal(0, gain / √(fan in)), the gain
      √2 for ReLU (He et al. 2015). Tanh, sigmoid or nothing: normal(0, gain · √(2 / (fan in + fan out))), the gain 5/3
      for tanh, else 1 (Glorot and Bengio 2010). SELU: normal(0, √(1 / fan in)) (Klambauer et al. 2017). A linear layer
      that is the model's last: normal(0, 0.01), so that the first loss is that of chance.
    - Linear layers and embeddings of a model with attention: normal(0, 0.02); the last layer of each residual branch
      divided by √(number of branches), which is √(2N) for N blocks of two (Radford et al. 2019).
    - Recurrent layers: orthogonal from state to state, Xavier's from the input, and a bias of 1 for the gate that keeps
      the state (Jozefowicz, Zaremba and Sutskever 2015).
    - Normalization: scale 1, shift 0, running statistics 0 and 1. Other biases: 0.
    - Embeddings outside of a transformer, and parameters of unknown layers, are left as they are.

    Never touched unless `overwrites` says so: a model of which any layer looks trained, that is, does not look as its
    own class draws it. Loaded weights do not; those that a library or you drew in another way do not either, and are
    kept with them. Of other models, what is frozen, and layers that begin at 0, since that is on purpose. A model of
    very few numbers, or that was hardly trained, cannot be told from a new one: name what is to stay in `keep`.

    What activation follows is read off the order of the parts and the source of `forward`; the reason says what was
    seen. Numbers come from PyTorch's global generator.

    Args:
        model: the model.
        scheme: `auto`; or `he`, `xavier` or `transformer` for all linear and convolutional layers; or `fixup`: auto,
            with the last layer of each residual branch at 0 (of a normalization that ends it, the scale), and, in
            branches without normalization, the m − 1 layers before it multiplied by L^(−1 / (2m − 2)) for L branches
            (Zhang, Dauphin and Ma 2019).
        keep: names of modules or parameters that are not touched, with all that is in them.
        overwrites: True to draw everything else anew, trained and frozen weights too; or the names of modules or
            parameters to draw anew, such as a new head on a trained body.

    Returns:
        A line for each parameter.

    Raises:
        InputError: if the scheme or a name is not known, parameters have no numbers yet, or `fixup` finds no residual
            branch.
    """
    if scheme not in get_args(Scheme):
        raise InputError(f"initialize: scheme is {scheme!r}; it has to be one of {', '.join(get_args(Scheme))}")
    if not isinstance(model, nn.Module):
        raise InputError(f"initialize: model is a {type(model).__name__!r}; it has to be a torch.nn.Module")
    require_numbers("initialize", model)
    model = unwrap(model)
    modules = dict(model.named_modules())
    kept = _read_names(model, "keep", keep)
    drawn = ("",) if overwrites is True else _read_names(model, "overwrites", overwrites or ())
    plan = _Plan(modules, scheme)
    plan.attends = scheme in ("auto", "fixup", "transformer") and any(map(is_attention, modules.values()))
    if plan.attends or scheme == "fixup":
        plan.branches = {each[-1]: each for each in list_branches(modules)}
    if scheme == "fixup" and not plan.branches:
        raise InputError("initialize: fixup found no residual branch; use auto, and set the last layers to 0 by hand")
    traces = ((name, find_trace(each)) for name, each in modules.items() if not is_within(name, drawn))
    trace = next((f"{name or 'the model'} looks trained: {found}" for name, found in traces if found), None)
    for name, module in modules.items():
        for own, parameter in module._parameters.items():
            if parameter is None or id(parameter) in plan.told:
                continue
            full = f"{name}.{own}".lstrip(".")
            why = None if is_within(full, drawn) else (trace or _find_reason_to_keep(module, parameter))
            why = "it was to be kept" if is_within(full, kept) else why
            plan.told[id(parameter)] = FirstValue(full, "kept", None, why) if why else _set(plan, name, own)
        if isinstance(module, _NormBase) and not is_within(name, kept) and (trace is None or is_within(name, drawn)):
            module.reset_running_stats()
    if scheme == "fixup":
        _hold_branches(plan)
    return Initialization(plan.told.values())


def _read_names(model: nn.Module, argument: str, given: Iterable[str]) -> tuple[str, ...]:
    """The names of modules or parameters that were given.

    Raises:
        InputError: if the model has none of a name.
    """
    names = tuple([given] if isinstance(given, str) else given)
    known = {name for name, _ in (*model.named_modules(), *model.named_parameters())}
    unknown = next((each for each in names if each not in known), None)
    if unknown is not None:
        raise InputError(
            f"initialize: {argument} has {unknown!r}, and the model has no module or parameter of that name"
        )
    return names


def _find_reason_to_keep(module: nn.Module, parameter: Tensor) -> str | None:
    """Why a parameter of a new model is not to be touched; None if it may be."""
    if not parameter.requires_grad:
        return "it is frozen"
    weight = module._parameters.get("weight")
    if weight is not None and not bool(weight.any()):
        return "its layer begins at 0, as a head or a branch may on purpose"
    return None


def _set(plan: _Plan, name: str, own: str) -> FirstValue:
    """Set one parameter of a module."""
    module = plan.modules[name]
    parameter = module._parameters[own]
    assert parameter is not None
    full = f"{name}.{own}".lstrip(".")
    if isinstance(module, NORMS):
        value = 1.0 if own == "weight" else 0.0
        parameter.fill_(value)
        return FirstValue(full, "constant", value, "a normalization begins as one and nothing more")
    if isinstance(module, RECURRENT):
        return _set_recurrent(module, own, parameter, full)
    if isinstance(module, nn.MultiheadAttention):
        return _set_attention(plan, own, parameter, full)
    if isinstance(module, EMBEDDINGS):
        return _set_embedding(plan, module, parameter, full)
    if not is_matrix(module):
        return FirstValue(full, "kept", None, f"there is no rule for a {type(module).__name__}")
    if parameter.ndim < 2:
        parameter.zero_()
        return FirstValue(full, "constant", 0.0, "biases begin at 0")
    rule, std, reason = _choose(plan, name, module, parameter)
    parameter.normal_(0.0, std)
    return FirstValue(full, rule, std, reason)


def _choose(plan: _Plan, name: str, module: nn.Module, weight: Tensor) -> tuple[str, float, str]:
    """The rule for the weight of a linear or convolutional layer, its standard deviation and the reason."""
    fan_in, fan_out = measure_fans(module, weight)
    xavier = sqrt(2 / (fan_in + fan_out))
    is_linear = not isinstance(module, nn.modules.conv._ConvNd)
    if plan.scheme == "he":
        return "he-normal", sqrt(2 / fan_in), f"it was asked for, with a fan in of {fan_in:g}"
    if plan.scheme == "xavier":
        return "xavier-normal", xavier, f"it was asked for, with fans of {fan_in:g} and {fan_out:g}"
    if plan.scheme == "transformer" or (plan.attends and is_linear):
        num = len(plan.branches)
        if name in plan.branches:
            return "normal", TRANSFORMER_STD / sqrt(num), f"it ends one of {num} residual branches: 0.02 / √{num}"
        return "normal", TRANSFORMER_STD, "a layer of a transformer"
    found = find_activation(plan.modules, name)
    if found is None and is_linear and is_last(plan.modules, name):
        return "normal", HEAD_STD, "the last layer begins small, so that the first loss is that of chance"
    if found is None:
        return "xavier-normal", xavier, "no activation follows"
    return found.rule, found.gain * (xavier if found.rule == "xavier-normal" else sqrt(1 / fan_in)), found.where


def measure_fans(module: nn.Module, weight: Tensor) -> tuple[float, float]:
    """How many inputs a unit of a layer has, and how many units an input has."""
    size = prod(weight.shape[2:])
    if isinstance(module, _ConvTransposeNd):
        into = weight.shape[0] / module.groups * size / prod(module.stride)
        return into, weight.shape[1] * size
    if isinstance(module, nn.modules.conv._ConvNd):
        out = weight.shape[0] / module.groups * size / prod(module.stride)
        return weight.shape[1] * size, out
    if type(module).__name__ == "Conv1D":
        return weight.shape[0], weight.shape[1]
    return weight[0].numel(), weight.shape[0]


def _set_embedding(plan: _Plan, module: Any, parameter: Tensor, name: str) -> FirstValue:
    if not plan.attends and plan.scheme != "transformer":
        return FirstValue(name, "kept", None, "an embedding stays as its class draws it, outside of a transformer")
    parameter.normal_(0.0, TRANSFORMER_STD)
    if module.padding_idx is not None:
        parameter[module.padding_idx].zero_()
    return FirstValue(name, "normal", TRANSFORMER_STD, "an embedding of a transformer")


def _set_attention(plan: _Plan, own: str, parameter: Tensor, name: str) -> FirstValue:
    """The projections that PyTorch's attention holds itself."""
    if own == "in_proj_bias":
        parameter.zero_()
        return FirstValue(name, "constant", 0.0, "biases begin at 0")
    if "proj" not in own:
        return FirstValue(name, "kept", None, "it stays as its class draws it")
    if plan.attends:
        parameter.normal_(0.0, TRANSFORMER_STD)
        return FirstValue(name, "normal", TRANSFORMER_STD, "a layer of a transformer")
    fan_out, fan_in = parameter.shape
    if own == "in_proj_weight":
        fan_out //= 3
    std = sqrt(2 / fan_in) if plan.scheme == "he" else sqrt(2 / (fan_in + fan_out))
    parameter.normal_(0.0, std)
    return FirstValue(name, f"{plan.scheme}-normal", std, "it was asked for")


def _set_recurrent(module: Any, own: str, parameter: Tensor, name: str) -> FirstValue:
    """The parameters of a recurrent layer, gate by gate."""
    kind = type(module).__name__
    num_gates, keeper = next((gates for word, gates in GATES.items() if kind.startswith(word)), (1, None))
    chunks = parameter.chunk(num_gates)
    if own.startswith("weight_hh"):
        for each in chunks:
            _draw_orthogonal(each)
        return FirstValue(name, "orthogonal", None, f"from state to state, in {num_gates} of {num_gates} gates")
    if parameter.ndim > 1:
        chunks = chunks if own.startswith("weight_ih") else (parameter,)
        std = sqrt(2 / sum(chunks[0].shape))
        for each in chunks:
            each.normal_(0.0, std)
        return FirstValue(name, "xavier-normal", std, "into the gates" if len(chunks) > 1 else "a projection")
    parameter.zero_()
    if keeper is None or not own.startswith("bias_ih"):
        return FirstValue(name, "constant", 0.0, "biases begin at 0")
    chunks[keeper].fill_(FORGET_BIAS)
    gate = "forget" if kind.startswith("LSTM") else "update"
    return FirstValue(name, "constant", FORGET_BIAS, f"for the {gate} gate, which so begins open; 0 for the others")


def _draw_orthogonal(weight: Tensor) -> None:
    """Fill a matrix with orthogonal rows or columns, in float32 where it is of lower precision."""
    drawn = torch.empty(weight.shape, device=weight.device)
    weight.copy_(nn.init.orthogonal_(drawn))


def _hold_branches(plan: _Plan) -> None:
    """Set the end of each residual branch to 0, and make those before it smaller where nothing normalizes."""
    num = len(plan.branches)
    for end, layers in plan.branches.items():
        inside = [each for each in plan.modules if is_within(each, [end.rpartition(".")[0]])]
        norms = [each for each in inside if isinstance(plan.modules[each], NORMS)]
        follows = inside[inside.index(end) + 1 :][:1]
        last = follows[0] if follows and follows[0] in norms else end
        _change(plan, last, 0.0, "constant", "it ends a residual branch, which begins at 0")
        for each in layers[:-1] if not norms else ():
            factor = num ** (-1 / (2 * len(layers) - 2))
            _change(plan, each, factor, "fixup", f"one of {len(layers)} layers of one of {num} branches")


def _change(plan: _Plan, name: str, factor: float, rule: str, reason: str) -> None:
    """Multiply the weight of a layer that was set; 0 makes it 0."""
    weight = plan.modules[name]._parameters["weight"]
    assert weight is not None
    told = plan.told[id(weight)]
    if told.is_kept:
        return
    weight.mul_(factor)
    number = None if told.number is None else told.number * factor
    plan.told[id(weight)] = FirstValue(told.parameter, rule, number, reason)
