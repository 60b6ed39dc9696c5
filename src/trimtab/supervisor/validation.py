"""Whether what a supervisor is given can be used."""

from __future__ import annotations

from typing import get_args

import torch

from trimtab.errors import InputError
from trimtab.journal import Tracker
from trimtab.policy import Policy
from trimtab.state.live import Form, Partner, Place
from trimtab.state.run import CheckpointForm


def validate_choices(
    snapshot_form: object,
    snapshot_place: object,
    checkpoint_form: object,
    checkpoint_every: object,
    log_every: object,
    spectra_every: object,
) -> None:
    """See that the options of a supervisor are ones it has.

    Raises:
        InputError: if one is not.
    """
    for name, chosen, known in (
        ("snapshot_form", snapshot_form, get_args(Form)),
        ("snapshot_place", snapshot_place, get_args(Place)),
        ("checkpoint_form", checkpoint_form, get_args(CheckpointForm)),
    ):
        if chosen not in known:
            raise InputError(f"supervisor: {name} is {chosen!r}; it has to be one of {', '.join(known)}")
    for name, number in (("checkpoint_every", checkpoint_every), ("log_every", log_every)):
        if not isinstance(number, int) or number < 1:
            raise InputError(f"supervisor: {name} is {number!r}; it has to be above 0")
    if spectra_every != "auto" and (not isinstance(spectra_every, int) or spectra_every < 0):
        raise InputError(
            f"supervisor: spectra_every is {spectra_every!r}; it has to be 'auto', or 0, for never, or above"
        )


def validate_trackers(trackers: object) -> None:
    """See that trackers are a list or tuple of such, each of them once.

    Raises:
        InputError: if they are not.
    """
    if not isinstance(trackers, (list, tuple)):
        raise InputError(f"supervisor: trackers is {trackers!r}; it has to be a list of them")
    for each in trackers:
        if not isinstance(each, Tracker):
            raise InputError(
                f"supervisor: a tracker is a {type(each).__name__!r}; it has to be one of trimtab.integrations, or a "
                "child of trimtab.integrations.Tracker"
            )
    if len({id(each) for each in trackers}) < len(trackers):
        raise InputError("supervisor: the same tracker is there twice; it would be told everything twice")


def validate(
    policy: Policy,
    clip_norm: float | None,
    partners: tuple[Partner | None, ...],
    scaler: object,
    compute_loss: object,
) -> None:
    """See that what a supervisor is given can be used.

    Raises:
        InputError: if it cannot.
    """
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise InputError(f"supervisor: scaler is a {type(scaler).__name__!r}; it has to be a torch.amp.GradScaler")
    if compute_loss is not None and not callable(compute_loss):
        raise InputError(
            f"supervisor: compute_loss is {compute_loss!r}; it has to be a function compute_loss(model, batch)"
        )
    if not isinstance(policy, Policy):
        raise InputError(f"supervisor: policy is {policy!r}; it has to be a Policy, such as Policy.from_toml(path)")
    if clip_norm is not None and (not isinstance(clip_norm, (int, float)) or not clip_norm > 0):
        raise InputError(f"supervisor: clip_norm is {clip_norm!r}; it has to be above 0, or None for no clipping")
    if any(isinstance(partner, torch.amp.GradScaler) for partner in partners):
        raise InputError("supervisor: a GradScaler was given as a partner; pass it as scaler=")
