"""Did it never learn? What a supervisor saw of the layers: what they give, and whether all ranks hold the same."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.findings import tell_findings
from trimtab.diagnosis.tree import Answer, cause


@cause("saturated-units", question="learning", detectors=("saturated-units",))
def find_saturated(evidence: Evidence) -> Iterator[Answer]:
    """Nearly all activations of a group are at their bounds, where no gradient passes.

    What it sees:
        A finding of saturated-units.
    Fix:
        Normalized inputs, a normalization before the activation, a lower rate.
    """
    yield from tell_findings(
        evidence,
        "saturated-units",
        0.75,
        "normalize the inputs to mean 0 and standard deviation 1; `nn.LayerNorm` before the activation; the learning "
        "rate × 0.3",
        "gates that are open or closed on purpose",
    )


@cause("activations-change-with-depth", question="learning", detectors=("depth-activation",))
def find_depth_activation(evidence: Evidence) -> Iterator[Answer]:
    """What layers give shrinks or grows with depth by orders of magnitude.

    What it sees:
        A finding of depth-activation.
    Fix:
        Normalization, residual paths, the initialization that fits the activation.
    """
    yield from tell_findings(
        evidence,
        "depth-activation",
        0.6,
        "`nn.init.kaiming_normal_` for ReLU or `nn.init.xavier_normal_` for tanh; `nn.LayerNorm` before each block; "
        "residual paths (`x = x + block(x)`)",
        "groups that are not in the order of depth",
    )


@cause("input-ignored", question="learning", detectors=("constant-output",))
def find_ignored_input(evidence: Evidence) -> Iterator[Answer]:
    """The model gives the same for all samples of a batch.

    What it sees:
        A finding of constant-output.
    Fix:
        Look at the batch, then at the layer from which on all samples are alike.
    """
    yield from tell_findings(
        evidence,
        "constant-output",
        0.75,
        "look at the batch first: `x.std(0)` must not be 0; then at dead and saturated units; then the learning "
        "rate × 0.1 from the start",
    )


@cause("fluctuating-gradients", question="learning", detectors=("gradient-fluctuation",))
def find_fluctuation(evidence: Evidence) -> Iterator[Answer]:
    """The gradient norm goes up and down by orders of magnitude, as its usual way.

    What it sees:
        A finding of gradient-fluctuation.
    Fix:
        Larger batches, clipping at the median norm, normalized inputs.
    """
    yield from tell_findings(
        evidence,
        "gradient-fluctuation",
        0.5,
        "accumulate gradients over more micro-batches, clip at the median norm (`Supervisor(…, clip_norm=…)`), and "
        "normalize the inputs",
        "batches that mean different tasks",
    )


@cause("dead-network", question="learning", detectors=("dead-network",))
def find_dead_network(evidence: Evidence) -> Iterator[Answer]:
    """The gradients of the whole network are next to nothing, and it is not because it has converged.

    What it sees:
        A finding of dead-network.
    Fix:
        Initialize anew, with normalized inputs and a tenth of the rate.
    """
    yield from tell_findings(
        evidence,
        "dead-network",
        0.8,
        "initialize anew, with normalized inputs and the learning rate × 0.1; see that `loss.grad_fn` leads to the "
        "parameters and is not cut by `detach()` or `argmax`",
    )


@cause("learns-too-slowly", question="learning", detectors=("slow-learning",))
def find_slow_learning(evidence: Evidence) -> Iterator[Answer]:
    """The loss falls, but so slowly that nothing will come of it.

    What it sees:
        A finding of slow-learning.
    Fix:
        The rate × 10, twice if need be; normalized inputs.
    """
    yield from tell_findings(
        evidence,
        "slow-learning",
        0.7,
        "the learning rate × 10, twice if need be; inputs of mean 0 and standard deviation 1",
    )


@cause("replicas-apart", question="learning", detectors=("replica-divergence",))
def find_replicas(evidence: Evidence) -> Iterator[Answer]:
    """Ranks that should hold the same weights do not.

    What it sees:
        A finding of replica-divergence.
    Fix:
        Go on from a checkpoint, and see that everything is registered when the model is wrapped.
    """
    yield from tell_findings(
        evidence,
        "replica-divergence",
        0.85,
        "go on from a checkpoint, which holds one set of weights for all ranks; register every parameter before "
        "`DistributedDataParallel(model)`, and never step on one rank alone",
        "parameters that are local on purpose; faulty hardware",
    )
