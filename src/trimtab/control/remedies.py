"""What answers each alarm of representations: the knobs it moves, and what has to get better by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan

from trimtab.control.review import Review

RECALL, RANK, SPREAD, DIVERSITY = "recall_at_1", "effective_rank", "embedding_r", "column_diversity"
"""The metrics of a review that are looked at."""

DEAD = "dead-columns"
"""The detector of dead columns."""

BETTER = 1.1
"""How many times what it was a number has to be to have got better."""

CLEARLY = 0.005
"""What it has to differ by at least: twice nothing is nothing."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What answers the finding of a detector."""

    factors: Mapping[str, float]
    """What knobs are multiplied by, by their names; those that a run has not are passed over."""

    metric: str
    """What has to get better."""

    is_falling: bool = False
    """True if it gets better by falling."""

    def has_improved(self, before: Review, now: Review) -> bool:
        """True if it has got better from one review to another."""
        first, second = before.metrics.get(self.metric, nan), now.metrics.get(self.metric, nan)
        if not abs(second - first) > CLEARLY:
            return False
        return second * BETTER <= first if self.is_falling else second >= BETTER * first


RULES: Mapping[str, Rule] = {
    "embedding-collapse": Rule(
        {"spread": 1.5, "diversity": 1.3, "diversity_temperature": 0.8, "marginal": 0.8}, SPREAD
    ),
    "dimensional-collapse": Rule({"spread": 1.5, "temperature": 0.5}, RANK),
    DEAD: Rule({"diversity": 1.3, "diversity_temperature": 0.8}, DIVERSITY),
    "one-sided-embeddings": Rule({"centring": 1.5, "coverage": 1.5, "spread": 1.2}, "one_sidedness", is_falling=True),
    "embedding-shrinkage": Rule({"spread": 1.2, "diversity": 1.1}, SPREAD),
}
"""The alarms, the gravest first, and what answers each of them."""
