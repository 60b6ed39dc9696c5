"""The policy: one table of detectors, their settings and their ladders, and the pure function that decides by it."""

from trimtab.policy.decision import decide
from trimtab.policy.judge import Judge
from trimtab.policy.table import DEFAULT_LADDERS, KINDS, LEDGER_CAPACITY, PRESETS, Plan, Policy

__all__ = ["DEFAULT_LADDERS", "KINDS", "LEDGER_CAPACITY", "PRESETS", "Judge", "Plan", "Policy", "decide"]
