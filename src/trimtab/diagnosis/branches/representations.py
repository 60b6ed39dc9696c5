"""Are the representations alive? What the reviews found in the embeddings of a fixed sample."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.findings import tell_findings
from trimtab.diagnosis.tree import Answer, cause

GUARD = "`RepresentationGuard(supervisor, weights)` does so by itself"


@cause("representations-shrink", question="generalization", detectors=("embedding-shrinkage",))
def find_shrinkage(evidence: Evidence) -> Iterator[Answer]:
    """The embeddings draw together, without having collapsed.

    What it sees:
        A finding of embedding-shrinkage, and none of embedding-collapse, which is collapse.
    Fix:
        The weight of a spread loss × 1.2.
    """
    if not evidence.found_by("embedding-collapse"):
        yield from tell_findings(
            evidence,
            "embedding-shrinkage",
            0.6,
            f"the weight of `trimtab.losses.compute_spread` × 1.2, at least 0.05; {GUARD}",
            "an encoder that is still warming up",
            metric="embedding_r",
        )


@cause("few-directions", question="generalization", detectors=("dimensional-collapse",))
def find_few_directions(evidence: Evidence) -> Iterator[Answer]:
    """The embeddings take up few of their dimensions.

    What it sees:
        A finding of dimensional-collapse.
    Fix:
        A lower temperature, a spread loss, weaker augmentation.
    """
    yield from tell_findings(
        evidence,
        "dimensional-collapse",
        0.75,
        f"temperature ÷ 2, but not below 0.2; the weight of `trimtab.losses.compute_spread` × 1.5; {GUARD}",
        "augmentation that changes more than rows differ, or a head that is too narrow",
        metric="effective_rank",
    )


@cause("one-sided", question="generalization", detectors=("one-sided-embeddings",))
def find_one_sided(evidence: Evidence) -> Iterator[Answer]:
    """The embeddings lie on one side of the sphere.

    What it sees:
        A finding of one-sided-embeddings.
    Fix:
        No bias in the last layer, or a normalization; a loss that centres.
    """
    yield from tell_findings(
        evidence,
        "one-sided-embeddings",
        0.6,
        "`nn.Linear(…, bias=False)` as the last layer, or `nn.BatchNorm1d` after it; add "
        "`trimtab.losses.compute_centring`",
        "a collapse, if the spread is low too",
        metric="one_sidedness",
    )


@cause("columns-are-dead", question="generalization", detectors=("dead-columns",))
def find_dead_columns(evidence: Evidence) -> Iterator[Answer]:
    """Columns of a table are encoded as the same token whatever they hold.

    What it sees:
        A finding of dead-columns.
    Fix:
        Standardize the column; initialize its encoder anew.
    """
    yield from tell_findings(
        evidence,
        "dead-columns",
        0.8,
        "standardize the columns named, initialize their encoders anew, and add `trimtab.losses.compute_diversity`",
        "columns that hold nothing, such as constants",
        metric="column_diversity",
    )


@cause("numbers-are-ignored", question="generalization", detectors=("scalars-ignored",))
def find_ignored_numbers(evidence: Evidence) -> Iterator[Answer]:
    """Rows cannot be told by their plain numbers, though whole rows are told well.

    What it sees:
        A finding of scalars-ignored.
    Fix:
        Quantiles or Fourier features in place of plain numbers.
    """
    yield from tell_findings(
        evidence,
        "scalars-ignored",
        0.6,
        "encode numbers by their quantiles or by Fourier features, and standardize them; hide categories more often",
        "numbers that say nothing that categories do not",
    )


@cause("numbers-dominate", question="generalization", detectors=("scalars-dominate",))
def find_dominant_numbers(evidence: Evidence) -> Iterator[Answer]:
    """Rows are told by their plain numbers and by nothing else.

    What it sees:
        A finding of scalars-dominate.
    Fix:
        Standardize the numbers.
    """
    yield from tell_findings(
        evidence,
        "scalars-dominate",
        0.7,
        "standardize the numbers (mean 0, spread 1), or take their quantiles; hide numbers more often",
        "numbers that identify a row, such as an index",
    )
