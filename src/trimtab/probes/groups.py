"""Sorting a model's parameters into groups, by its modules or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from trimtab.errors import InputError

MAX_GROUPS = 64
"""The most groups made by default: what a heat map can show and a journal can afford at every step."""

MAX_DEPTH = 32
"""Levels of modules that are opened at most; deeper ones belong to their parents' group."""

Grouping = Sequence[str] | Mapping[str, Sequence[str]]

OTHER = "(other)"
"""The group of what no group named by the user covers, and of parameters the model does not own."""


def assign_groups(model: nn.Module) -> dict[str, str]:
    """Sort a model's parameters into groups by its modules: parameter name to group name.

    The groups are the model's children; a child that only holds others (a list, a sequence), or that owns more than
    half of all parameters, is opened in their place, level by level as long as that makes no more than `MAX_GROUPS`.
    If there are more all the same, neighbours are joined; a model that would be one group is split by parameter.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    members = dict.fromkeys(sizes, "")
    for depth in range(MAX_DEPTH):
        opened = _open_module("", model, sum(sizes.values()), depth)
        finer = {name: opened[name] for name in sizes}
        if finer == members or (len(set(finer.values())) > MAX_GROUPS and len(set(members.values())) > 1):
            break
        members = finer
    if len(set(members.values())) < 2:
        members = {name: name for name in sizes}
    groups = list(dict.fromkeys(members.values()))
    if len(groups) > MAX_GROUPS:
        joined = {}
        for chunk in np.array_split(np.array(groups, dtype=object), MAX_GROUPS):
            joined.update(dict.fromkeys(chunk, chunk[0] if len(chunk) == 1 else f"{chunk[0]} … {chunk[-1]}"))
        members = {name: joined[group] for name, group in members.items()}
    return members


def _open_module(path: str, module: nn.Module, total: int, depth: int) -> dict[str, str]:
    members = {f"{path}.{name}".lstrip("."): path or name for name, _ in module.named_parameters(recurse=False)}
    for name, child in module.named_children():
        inside = f"{path}.{name}".lstrip(".")
        size = sum(parameter.numel() for parameter in child.parameters())
        holds_only = isinstance(child, (nn.ModuleList, nn.ModuleDict, nn.Sequential))
        if depth > 0 and (holds_only or 2 * size > total) and any(True for _ in child.children()):
            opened = _open_module(inside, child, total, depth - 1)
        else:
            opened = {f"{inside}.{parameter}": inside for parameter, _ in child.named_parameters()}
        members.update({parameter: group for parameter, group in opened.items() if parameter not in members})
    return members


def name_groups(model: nn.Module, grouping: Grouping) -> dict[str, str]:
    """Sort a model's parameters into groups given by name: parameter name to group name.

    Args:
        model: the model.
        grouping: names of modules or parameters, each a group; or group name to such names.

    Raises:
        InputError: if a name matches no parameter.
    """
    if isinstance(grouping, str):
        raise InputError(
            f"groups: {grouping!r} is text; it has to be a list of names, such as [{grouping!r}], "
            "or a table of such lists"
        )
    table = grouping if isinstance(grouping, Mapping) else {name: [name] for name in grouping}
    parameters = [name for name, _ in model.named_parameters()]
    members: dict[str, str] = {}
    for group, names in table.items():
        for wanted in [names] if isinstance(names, str) else names:
            matching = [name for name in parameters if name == wanted or name.startswith(f"{wanted}.")]
            if not matching:
                known = ", ".join(name for name, _ in model.named_children()) or ", ".join(parameters)
                raise InputError(f"groups: no parameter is called {wanted!r} or begins with it; the model has {known}")
            members.update({name: group for name in matching if name not in members})
    rest = {name: OTHER for name in parameters if name not in members}
    return members | rest
