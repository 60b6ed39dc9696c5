"""Did it never learn? What a supervisor saw of the loop itself: its schedule, its mode, what its optimizer holds."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.findings import tell_findings
from trimtab.diagnosis.tree import Answer, cause


@cause("schedule-at-wrong-pace", question="learning", detectors=("schedule-pace",))
def find_wrong_pace(evidence: Evidence) -> Iterator[Answer]:
    """The schedule of the learning rate is moved several times a step, or once per epoch where it is meant for steps.

    What it sees:
        A finding of schedule-pace.
    Fix:
        `scheduler.step()` once after each `optimizer.step()`.
    """
    yield from tell_findings(
        evidence,
        "schedule-pace",
        0.85,
        "call `scheduler.step()` once after each `optimizer.step()`: neither in the loop over epochs nor in that over "
        "micro-batches; and give it the length of the run: "
        "`OneCycleLR(optimizer, max_lr, total_steps=num_epochs * len(loader))`",
        "a schedule whose length is meant in epochs or micro-batches",
    )


@cause("trained-in-eval-mode", question="learning", detectors=("eval-mode",))
def find_eval_mode(evidence: Evidence) -> Iterator[Answer]:
    """The model is trained in eval mode: without dropout, and with the statistics of its norms as they were.

    What it sees:
        A finding of eval-mode.
    Fix:
        `model.train()` after each validation.
    """
    yield from tell_findings(
        evidence,
        "eval-mode",
        0.9,
        "`model.train()` after each validation, before the next step; to keep the statistics of BatchNorm as they are "
        "on purpose, call `eval()` on those layers alone",
    )


@cause("dropout-in-evaluation", question="generalization", detectors=("eval-dropout",))
def find_eval_dropout(evidence: Evidence) -> Iterator[Answer]:
    """Dropout is left on in eval mode, so that an evaluation is made by a part of the network.

    What it sees:
        A finding of eval-dropout: two passes of the same batch in eval mode differ, and dropout is active.
    Fix:
        `training=self.training` in the call; an `nn.ModuleList` in place of a list.
    """
    yield from tell_findings(
        evidence,
        "eval-dropout",
        0.9,
        "`functional.dropout(x, p, training=self.training)`, which is on by default without; `nn.ModuleList([…])` in "
        "place of a list of modules, which `model.eval()` does not reach",
        "dropout that is meant to be on, to tell how sure the model is",
    )


@cause("batch-norm-statistics-lag", question="generalization", detectors=("batch-norm-lag",))
def find_batch_norm_lag(evidence: Evidence) -> Iterator[Answer]:
    """The running statistics of the norms lag behind the weights, so that eval mode is far worse on the same batch.

    What it sees:
        A finding of batch-norm-lag: the same batch with the same weights, by the running statistics and by its own.
    Fix:
        A momentum of 0.1; the statistics taken anew; a norm without them.
    """
    yield from tell_findings(
        evidence,
        "batch-norm-lag",
        0.85,
        "`nn.BatchNorm2d(channels, momentum=0.1)`, or the statistics taken anew before each evaluation: "
        "`torch.optim.swa_utils.update_bn(loader, model)`; `nn.GroupNorm` where batches are small",
        "two kinds of data in turns through the same norms",
    )


@cause("unoptimized-parameters", question="learning", detectors=("unoptimized-parameter",))
def find_unoptimized(evidence: Evidence) -> Iterator[Answer]:
    """Some parameters get gradients and are not in the optimizer, so that nothing updates them.

    What it sees:
        A finding of unoptimized-parameter.
    Fix:
        Build the optimizer when the model is complete.
    """
    yield from tell_findings(
        evidence,
        "unoptimized-parameter",
        0.85,
        "build the optimizer when the model is complete: `optimizer = AdamW(model.parameters())`; what is not to be "
        "trained needs no gradient: `parameter.requires_grad_(False)`",
        "another optimizer that holds them",
    )


@cause("gradients-change-with-depth", question="learning", detectors=("depth-gradient",))
def find_depth_gradient(evidence: Evidence) -> Iterator[Answer]:
    """Gradients shrink or grow from layer to layer by orders of magnitude.

    What it sees:
        A finding of depth-gradient.
    Fix:
        Residual paths, normalization, another initialization.
    """
    yield from tell_findings(
        evidence,
        "depth-gradient",
        0.6,
        "residual paths (`x = x + block(x)`), `nn.LayerNorm` before each block, `nn.init.kaiming_normal_` for ReLU or "
        "`nn.init.xavier_normal_` for tanh",
        "groups that are not in the order of depth",
    )


@cause("updates-out-of-proportion", question="learning", detectors=("update-ratio",))
def find_ratio(evidence: Evidence) -> Iterator[Answer]:
    """One update after the other is far too small, or far too large, for the weights of a group.

    What it sees:
        A finding of update-ratio.
    Fix:
        A learning rate of its own for the group.
    """
    yield from tell_findings(
        evidence,
        "update-ratio",
        0.5,
        "give the group a learning rate of its own: `AdamW([{'params': group, 'lr': …}, …])`; an update of about 1e-3 "
        "of the weights is usual",
        "weights that are tiny on purpose, such as a gate that begins at 0",
    )


@cause("weights-turned-to-noise", question="generalization", detectors=("spectral-noise",))
def find_noise(evidence: Evidence) -> Iterator[Answer]:
    """The weights of a run that had healthy spectra are dominated by noise.

    What it sees:
        A finding of spectral-noise.
    Fix:
        Go back to before it; look for what adds random numbers to the weights, or starts them anew.
    """
    yield from tell_findings(
        evidence,
        "spectral-noise",
        0.6,
        "go back to the best checkpoint before it, and look for what adds random numbers to the weights or starts them "
        "anew",
    )
