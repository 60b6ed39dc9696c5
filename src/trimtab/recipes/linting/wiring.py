"""Which parameters the optimizer has, and which the loss reaches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from trimtab.recipes.linting import Remark, Setup, check
from trimtab.recipes.trial import unwrap


@check("missing-from-optimizer", severity="high")
def find_missing(setup: Setup) -> Iterator[Remark]:
    """Parameters that are to be trained and are in no group of the optimizer."""
    held = set(map(id, setup.optimized))
    missing = {name: each for name, each in setup.model.named_parameters() if id(each) not in held}
    missing = {name: each for name, each in missing.items() if each.requires_grad}
    if missing:
        num = sum(each.numel() for each in missing.values())
        yield Remark(
            num,
            f"{num:,} trainable numbers in {name_some(missing)} are in no group of the optimizer, and never change",
            "give them to the optimizer, or freeze them with requires_grad_(False)",
        )


@check("repeated-in-optimizer", severity="high")
def find_repeated(setup: Setup) -> Iterator[Remark]:
    """Parameters that the optimizer has more than once, and updates more than once a step."""
    counts = Counter(map(id, setup.optimized))
    names = [name for name, each in setup.model.named_parameters() if counts[id(each)] > 1]
    if names:
        yield Remark(
            len(names),
            f"{name_some(names)} {'is' if len(names) == 1 else 'are'} in the optimizer more than once, and updated so "
            "often a step",
            "put each parameter into one group",
        )


@check("foreign-in-optimizer", severity="high")
def find_foreign(setup: Setup) -> Iterator[Remark]:
    """Parameters of the optimizer that belong neither to the model nor to the loss."""
    own = set(map(id, setup.loss_fn.parameters())) if isinstance(setup.loss_fn, nn.Module) else set()
    own |= setup.trial.reached if setup.trial is not None else set()
    foreign = [each for each in setup.foreign if id(each) not in own]
    if foreign:
        yield Remark(
            len(foreign),
            f"{len(foreign)} of {len(setup.optimized)} parameters of the optimizer are not the model's",
            "make the optimizer after the model has its last layers and its device, from model.parameters()",
        )


@check("frozen-head", severity="high")
def find_frozen_head(setup: Setup) -> Iterator[Remark]:
    """A last layer that is frozen while most before it is trained, or a model of which nothing is trained."""
    trained = sum(each.numel() for each in setup.model.parameters() if each.requires_grad)
    total = sum(each.numel() for each in setup.model.parameters())
    if not total:
        return
    if not trained:
        yield Remark(total, f"all {total:,} numbers of the model are frozen", "unfreeze what is to be trained")
        return
    head = find_head(setup)
    if head is None or any(each.requires_grad for each in head[1].parameters(recurse=False)):
        return
    size = sum(each.numel() for each in head[1].parameters(recurse=False))
    if 2 * trained > total - size:
        yield Remark(
            size,
            f"the last layer {head[0]} with {size:,} numbers is frozen, and {trained / total:.0%} of the model before "
            "it is trained",
            "unfreeze the last layer; to train it alone, freeze the others",
        )


def find_head(setup: Setup) -> tuple[str, nn.Module] | None:
    """The last layer with parameters: of those that ran the last to begin, else of all the last that was made."""
    named = {
        name: each for name, each in unwrap(setup.model).named_modules() if any(True for _ in each.parameters(False))
    }
    ran = setup.trial.modules if setup.trial is not None else []
    names = [name for name in ran if name in named] or list(named)
    return (names[-1], named[names[-1]]) if names else None


@check("loss-without-gradient", severity="critical")
def find_loss_without_gradient(setup: Setup) -> Iterator[Remark]:
    """A loss from which no gradient comes: it was detached, or no parameter is behind it; or one that is no number."""
    trial = setup.trial
    is_trained = any(each.requires_grad for each in setup.model.parameters())
    if trial is None or trial.loss is None or not is_trained:
        return
    if trial.loss.numel() != 1:
        yield Remark(
            trial.loss.numel(),
            f"the loss has the shape {tuple(trial.loss.shape)}; backward takes one number",
            "take the mean over the samples",
        )
    elif not trial.has_gradient:
        yield Remark(
            0.0,
            "the loss has no gradient",
            "compute it from the model's output, without detach, item, argmax, NumPy or no_grad",
        )
    elif trial.gradients and all(each is None for each in trial.gradients.values()):
        yield Remark(0.0, "the loss depends on no trained parameter", "compute it from the model's output")


@check("loss-fails", severity="critical")
def find_failure(setup: Setup) -> Iterator[Remark]:
    """A loss that cannot be computed of the batch at all."""
    for trial in filter(None, (setup.trial, setup.eval_trial)):
        if trial.error is not None:
            mode = "with gradients" if trial is setup.trial else "in eval mode"
            told = str(trial.error).strip().split("\n")[0] or "without a word"
            yield Remark(
                1.0,
                f"the loss of the batch cannot be computed {mode}: {type(trial.error).__name__}: {told}",
                "call the loss function with one batch, and follow the traceback",
            )
            return


@check("unused-parameters", severity="low")
def find_unused(setup: Setup) -> Iterator[Remark]:
    """Trained parameters that the loss of a batch does not depend on."""
    unused = list_unused(setup)
    if unused and not is_ddp(setup.model):
        yield Remark(
            len(unused),
            f"the loss of the batch does not depend on {name_some(unused)}; under DistributedDataParallel the second "
            "step would fail",
            "use them, freeze them, or leave them out",
        )


@check("unused-under-ddp", severity="high")
def find_unused_under_ddp(setup: Setup) -> Iterator[Remark]:
    """Trained parameters that the loss does not depend on, in a DistributedDataParallel that waits for them."""
    unused = list_unused(setup)
    if unused and is_ddp(setup.model) and not setup.model.find_unused_parameters:
        yield Remark(
            len(unused),
            f"the loss of the batch does not depend on {name_some(unused)}, and DistributedDataParallel waits for "
            "their gradients: the second step fails",
            "use or freeze them, or pass find_unused_parameters=True",
        )


def list_unused(setup: Setup) -> list[str]:
    """The trained parameters without a gradient, where others have one."""
    gradients = setup.trial.gradients if setup.trial is not None else {}
    unused = [name for name, each in gradients.items() if each is None]
    return unused if len(unused) < len(gradients) else []


def is_ddp(model: nn.Module) -> bool:
    """True for the wrapper of a distributed run that sums gradients."""
    return isinstance(model, torch.nn.parallel.DistributedDataParallel)


def name_some(names: Iterable[str], most: int = 3) -> str:
    """The first few of some names, and how many more there are."""
    listed: Sequence[str] = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
