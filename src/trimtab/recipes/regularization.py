"""Dropout: how much is usual where, how sure a model is by it, and a schedule of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from trimtab.errors import InputError
from trimtab.probes.rerun import keep_training
from trimtab.recipes.activations import is_matrix
from trimtab.recipes.branches import is_attention
from trimtab.recipes.freshness import EMBEDDINGS, RECURRENT
from trimtab.recipes.normalization import Advice, Advices, is_convolution

Kind: TypeAlias = Literal["input", "hidden", "convolution", "transformer", "recurrent"]
"""What a dropout comes after."""

USUAL: Mapping[Kind, tuple[float, float]] = {
    "input": (0.0, 0.2),
    "hidden": (0.3, 0.5),
    "convolution": (0.1, 0.3),
    "transformer": (0.1, 0.3),
    "recurrent": (0.2, 0.5),
}
"""The probabilities that are usual: Srivastava et al. 2014 for the first two, Tompson et al. 2015 for convolutions,
Vaswani et al. 2017 for transformers, Gal and Ghahramani 2016 for recurrent layers."""

WHOLE = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout)
"""Dropout of whole channels."""


@dataclass(frozen=True, slots=True)
class DropoutPlace:
    """A dropout of a model."""

    name: str
    """Its name in the model."""

    module: nn.Module
    """The layer."""

    kind: Kind
    """What it comes after."""

    @property
    def probability(self) -> float:
        """The share that it drops."""
        return float(self.module.p if isinstance(self.module, _DropoutNd) else self.module.dropout)  # type: ignore[arg-type]


def list_dropouts(model: nn.Module) -> Iterator[DropoutPlace]:
    """The dropouts of a model, in its order: layers, and those within attention and between recurrent layers.

    What a dropout comes after is read off the order in which the parts are made.
    """
    attends = any(map(is_attention, model.modules()))
    before: Kind = "input"
    for name, each in model.named_modules():
        if isinstance(each, RECURRENT):
            before = "recurrent"
            if isinstance(each, nn.RNNBase) and each.num_layers > 1:
                yield DropoutPlace(name, each, "recurrent")
        elif isinstance(each, nn.MultiheadAttention):
            yield DropoutPlace(name, each, "transformer")
        elif is_matrix(each) or isinstance(each, EMBEDDINGS):
            before = "convolution" if is_convolution(each) else "hidden"
        elif isinstance(each, _DropoutNd):
            yield DropoutPlace(name, each, "transformer" if attends else before)


def advise_dropout(model: nn.Module) -> Advices:
    """Put each dropout of a model beside what is usual where it is.

    Usual are: on inputs 0 to 0.2; after hidden layers 0.3 to 0.5; after convolutions 0.1 to 0.3 of whole channels,
    since neighbours tell what a single number was; in transformers 0.1 to 0.3; in recurrent networks 0.2 to 0.5 with
    one mask over time. Little data needs more of it, much data less or none.

    Args:
        model: the model.

    Returns:
        A line for each dropout, and for what is dropped in another way than is usual.
    """
    found = list(list_dropouts(model))
    lines = [_advise(each) for each in found]
    for each in found:
        if each.kind == "convolution" and not isinstance(each.module, WHOLE):
            lines.append(
                Advice(
                    each.name,
                    each.probability,
                    "single numbers after a convolution are told by their neighbours",
                    "drop whole channels: nn.Dropout2d",
                )
            )
        if each.kind == "recurrent" and isinstance(each.module, nn.Dropout):
            lines.append(
                Advice(
                    each.name,
                    each.probability,
                    "a new mask at each time is noise that a recurrent network averages out",
                    "use one mask over time: nn.Dropout1d on (samples, features, time)",
                )
            )
    if not found:
        kinds = {kind for each in model.modules() if (kind := _name_kind(each)) is not None}
        if any(map(is_attention, model.modules())):
            kinds = {"transformer"}
        for kind in sorted(kinds):
            low, high = USUAL[kind]
            lines.append(
                Advice("", 0.0, "no dropout", f"{low:g} to {high:g} is usual for {kind} layers, if it overfits")
            )
    return Advices(lines)


def _advise(place: DropoutPlace) -> Advice:
    low, high = USUAL[place.kind]
    where = "on inputs" if place.kind == "input" else f"after {place.kind} layers" if place.kind == "hidden" else ""
    where = where or f"in {place.kind} parts"
    usual = f"{low:g} to {high:g} is usual {where}"
    if low <= place.probability <= high:
        return Advice(place.name, place.probability, usual, "")
    more = place.probability < low
    fix = "more, if it overfits" if more else "less: it keeps the model from learning what it needs"
    return Advice(place.name, place.probability, usual, fix)


def _name_kind(module: nn.Module) -> Kind | None:
    if isinstance(module, RECURRENT):
        return "recurrent"
    if is_convolution(module):
        return "convolution"
    return "hidden" if is_matrix(module) else None


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model says of some inputs with many of its units left out, time after time."""

    samples: Tensor
    """What it said each time; shape (times, …)."""

    @property
    def mean(self) -> Tensor:
        """The mean over the times; shape (…)."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """The standard deviation over the times; shape (…)."""
        return self.samples.std(0)

    @property
    def entropy(self) -> Tensor:
        """Of class probabilities: the entropy of their mean, in nats: all uncertainty; shape (samples,)."""
        entropy: Tensor = torch.special.entr(self.mean).sum(-1)
        return entropy

    @property
    def mutual_information(self) -> Tensor:
        """Of class probabilities: what of the entropy is disagreement between the times, in nats; shape (samples,).

        It is high where more data would help, and low where the classes themselves overlap (Houlsby et al. 2011).
        """
        each: Tensor = torch.special.entr(self.samples).sum(-1).mean(0)
        return self.entropy - each


@torch.no_grad()
def predict_with_dropout(
    model: nn.Module, inputs: Any, *, times: int = 30, seed: int = 0, apply: Callable[[Tensor], Tensor] | None = None
) -> Prediction:
    """Predict with dropout on, many times, and see how much the predictions differ (Monte-Carlo dropout).

    Gal and Ghahramani (ICML 2016): the spread of these predictions is an estimate of what the model does not know.
    Everything else is in eval mode: normalization uses its running statistics, which stay as they are. The model and
    the random numbers are as before afterwards, and the same call gives the same.

    Args:
        model: a model with dropout layers. Functions such as `F.dropout` are not seen.
        inputs: a tensor; or a tuple or mapping of what `forward` takes.
        times: how often.
        seed: of the masks.
        apply: applied to each output, such as a softmax; None for nothing.

    Raises:
        InputError: if there is no dropout layer that drops anything, `times` is below 2, or the output is no tensor.
    """
    dropping = [each.module for each in list_dropouts(model) if each.probability > 0]
    if not dropping:
        raise InputError("predict_with_dropout: the model has no dropout layer that drops anything; add nn.Dropout")
    if isinstance(times, bool) or not isinstance(times, int) or times < 2:
        raise InputError(f"predict_with_dropout: times is {times!r}; it has to be a whole number from 2 up")
    with keep_training(model):
        model.eval()
        for each in dropping:
            each.training = True
        torch.manual_seed(seed)
        given = [_call(model, inputs) for _ in range(times)]
    return Prediction(torch.stack(given if apply is None else [apply(each) for each in given]))


def _call(model: nn.Module, inputs: Any) -> Tensor:
    if isinstance(inputs, Mapping):
        given = model(**inputs)
    else:
        given = model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)
    if not isinstance(given, Tensor):
        raise InputError(
            f"predict_with_dropout: the model gives a {type(given).__name__}; wrap it so that it gives a tensor"
        )
    return given


class DropoutSchedule:
    """Moves all dropouts of a model together, in a straight line over the steps; stepped once per optimizer step.

    From 0 up it lets a model learn before it is disturbed (curriculum dropout, Morerio et al. 2017); from its full
    size down to 0 it averages out the noise of early gradients and then fits without noise (early dropout, Liu et al.
    2023). Hand it to `fit` beside the schedule of the rate, `scheduler=[schedule, dropout]`, or to the supervisor as a
    partner: its state is saved, resumed and rolled back with theirs.

    Args:
        model: a model with dropout layers; each goes from `first` to `last` times the probability it has now.
        num_steps: over how many steps; after them it stays.
        first: the factor of the first step.
        last: the factor of the last.

    Attributes:
        factor: the factor at hand.

    Raises:
        InputError: if there is no dropout, or an option cannot be.
    """

    def __init__(self, model: nn.Module, num_steps: int, *, first: float = 0.0, last: float = 1.0) -> None:
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
            raise InputError(f"dropout schedule: num_steps is {num_steps!r}; it has to be a whole number from 1 up")
        found = [each for each in list_dropouts(model) if each.probability > 0]
        if not found:
            raise InputError("dropout schedule: the model has no dropout layer that drops anything; add nn.Dropout")
        most = max(each.probability for each in found)
        if not (min(first, last) >= 0 and max(first, last) * most < 1):
            raise InputError(
                f"dropout schedule: first is {first!r} and last {last!r}; they have to be from 0 up, and so small that "
                f"{most:g} times them is below 1"
            )
        self._modules = [each.module for each in found]
        self._probabilities = [each.probability for each in found]
        self._num_steps, self._first, self._last = num_steps, float(first), float(last)
        self._num_done = 0
        self._set()

    @property
    def factor(self) -> float:
        """What the probabilities are multiplied by."""
        share = min(self._num_done / max(1, self._num_steps - 1), 1.0)
        return self._first + (self._last - self._first) * share

    def step(self) -> None:
        """Go one step on."""
        self._num_done += 1
        self._set()

    def _set(self) -> None:
        for module, probability in zip(self._modules, self._probabilities, strict=True):
            if isinstance(module, _DropoutNd):
                module.p = self.factor * probability
            else:
                vars(module)["dropout"] = self.factor * probability

    def state_dict(self) -> dict[str, Any]:
        """The steps done, and the probabilities it began with."""
        return {"num_done": self._num_done, "probabilities": list(self._probabilities)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where it was; the dropouts are set to what they were there.

        Raises:
            InputError: if the model had another number of dropouts.
        """
        if len(state["probabilities"]) != len(self._modules):
            raise InputError(
                f"dropout schedule: the state is of a model with {len(state['probabilities'])} dropouts, and this one "
                f"has {len(self._modules)}; build the model as it was"
            )
        self._num_done, self._probabilities = int(state["num_done"]), [float(each) for each in state["probabilities"]]
        self._set()
