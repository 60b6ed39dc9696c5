"""The table: detectors, their settings and their ladders, and the numbers of the responses."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

from trimtab.detectors import detectors
from trimtab.errors import PolicyError
from trimtab.history import CAPACITY
from trimtab.types import ADJUSTMENTS, VERDICTS

KINDS = (*VERDICTS[1:], "clip-by-value", *ADJUSTMENTS)
"""What a rung of a ladder may ask for."""

LEDGER_CAPACITY = 1024
"""Decisions with findings that are kept; budgets look back over far fewer steps."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "three-tier": {
        "detectors": {
            "group-spike": {"above": 1e4, "times": 0.0},
            "group-explosion": {"above": 1e6, "times": 0.0},
        }
    },
    "absolute-tiers": {
        "detectors": {
            "group-spike": {"above": 1e4},
            "group-explosion": {"above": 1e6},
        }
    },
    "algorithm-1": {
        "snapshot_every": 1,
        "probation": 1,
        "probe_every": 1,
        "probe_budget": 1.0,
        "detectors": {
            "*": {"enabled": False},
            "innovation": {"alpha": 0.1, "epsilon": 0.5, "ladder": ["rollback"]},
        },
    },
    "published-zones": {
        "detectors": {
            "embedding-collapse": {"dimensions": 256, "reviews": 0},
            "embedding-shrinkage": {"dimensions": 256, "reviews": 0},
        }
    },
}
"""Named policies, each a table over the default. `three-tier`: a group whose gradient norm is above 1e4 is clipped,
above 1e6 dropped, and after three drops frozen, whatever its own level is. `absolute-tiers`: the same limits, beside
those relative to its own level. `algorithm-1`: Algorithm 1 of arXiv 2601.17483 and nothing else, with the probe at
every step; mean and limit are the settings of `innovation`. `published-zones`: embeddings are judged by the published
limits of their standard deviation, 0.02 and 0.035, which are for 256 dimensions, and from the first review on."""

DEFAULT_LADDERS: Mapping[str, tuple[str, ...]] = {
    "nonfinite": ("skip", "rollback+repair", "skip", "halt"),
    "loss-spike": ("skip", "rollback", "skip", "halt"),
    "innovation": ("rollback", "rollback+cool", "reload+cool", "halt"),
    "self-update-spike": ("skip", "halt"),
    "gradient-spike": ("clip",),
    "group-explosion": ("drop", "drop", "drop+freeze"),
    "group-spike": ("clip",),
}
"""The detectors that act by default; every other one is advisory until a benchmark has argued for it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy says of one detector."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """The detector's settings that differ from its defaults."""

    ladder: tuple[str, ...] = ()
    """Its responses, climbed one rung per step of an episode; empty for an advisory detector. A rung is a verdict, an
    adjustment, or several joined by `+`, such as `"rollback+cool"`."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The one configuration object: a table of detectors, validated when it is built.

    Raises:
        PolicyError: if it names an unknown detector, setting or response, or a number is out of range.
    """

    plans: Mapping[str, Plan] = field(default_factory=dict)
    """Detector to its plan; a detector that is not named is not asked."""

    memory: int = 5
    """Steps without an acting finding after which an episode is over and ladders start again."""

    horizon: int = 100
    """Steps over which skips are counted."""

    max_skips: int = 50
    """Skipped updates within `horizon`; one more halts, where the ladder ends in `halt`."""

    max_rollbacks: int = 3
    """Rollbacks and reloads within `rollback_horizon`; one more halts, where the ladder ends in `halt`."""

    rollback_horizon: int = 50
    """Steps over which rollbacks are counted: a cause that comes back after each of them does so sooner, while faults
    that have nothing to do with each other are mended one by one. In twenty times as many steps there may be four
    times as many, and no more reloads than `max_rollbacks`: that ends what comes back at longer intervals."""

    snapshot_every: int = 8
    """Steps between snapshots. With `probation` it bounds what a rollback loses: at most
    `snapshot_every + probation` updates, the one at hand included, where the steps before it were clean."""

    probation: int = 2
    """Steps without a finding after which a snapshot is proven."""

    probe_every: int = 8
    """Steps between two measurements of the probe while the run is calm; after a skip or a rollback it is measured at
    each of the next `memory` steps, whatever it costs."""

    probe_budget: float = 0.01
    """The share of the run's time the probe may take while the run is calm. Where it would take more, the steps between
    two measurements are doubled until it does not."""

    cool_factor: float = 0.1
    """What `cool` multiplies the learning rate by."""

    cool_steps: int = 20
    """For how many steps `cool` holds, before a ramp of the same length leads back."""

    freeze_steps: int = 200
    """For how many steps `freeze` holds. A group that explodes again after it is thawed is frozen again."""

    clip_value: float = 100.0
    """The largest magnitude that `clip-by-value` leaves in a gradient."""

    tight_norm: float = 0.5
    """The routine limit of the gradient norm that `tighten` sets for `horizon` steps."""

    rescale_factor: float = 0.125
    """What `rescale` multiplies the loss scale by; a power of two leaves every gradient bit-equal."""

    def __post_init__(self) -> None:
        for name, plan in self.plans.items():
            _validate_plan(name, plan)
        for each in fields(self)[1:]:
            value = getattr(self, each.name)
            _validate_number("policy", each.name, value, each.default)
            if not value > 0:
                raise PolicyError(f"policy: {each.name} is {value!r}; it has to be above 0")
        for name in ("horizon", "rollback_horizon"):
            if getattr(self, name) > LEDGER_CAPACITY:
                raise PolicyError(f"policy: {name} is {getattr(self, name)}; it has to be at most {LEDGER_CAPACITY}")
        for name in ("cool_factor", "rescale_factor", "probe_budget"):
            if not getattr(self, name) <= 1:
                raise PolicyError(f"policy: {name} is {getattr(self, name)!r}; it has to be at most 1")
        if self.probation > self.snapshot_every:
            raise PolicyError(
                f"policy: probation is {self.probation}; it has to be at most snapshot_every, {self.snapshot_every}, "
                "or no snapshot would be proven before the next is taken"
            )

    @classmethod
    def default(cls) -> Policy:
        """The default policy: every detector is asked, and few, well-proven ones act."""
        return cls({name: Plan(ladder=DEFAULT_LADDERS.get(name, ())) for name in sorted(detectors)})

    @classmethod
    def observe(cls) -> Policy:
        """The policy that finds and records everything and does nothing."""
        return cls({name: Plan() for name in sorted(detectors)})

    @classmethod
    def preset(cls, name: str, changes: Mapping[str, Any] | None = None) -> Policy:
        """A named policy, such as `Policy.preset("three-tier")`.

        Args:
            name: its name.
            changes: a table to lay over it, as for `from_dict`.

        Raises:
            PolicyError: if there is none of that name, or the table names something unknown.
        """
        _require_known("policy", "preset", name, sorted(PRESETS))
        return cls.default().change(PRESETS[name]).change(changes or {})

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Policy:
        """The default policy with the entries of a table laid over it.

        Args:
            table: policy numbers by name, and under `detectors` one table per detector: its settings, its `ladder`
                (a list of rungs; an empty one makes it advisory), or `enabled = false`. A table called `*` comes first
                and is laid over every detector.

        Raises:
            PolicyError: if the table names something unknown.
        """
        return cls.default().change(table)

    def change(self, table: Mapping[str, Any]) -> Policy:
        """This policy with the entries of a table laid over it; the table is that of `from_dict`.

        Raises:
            PolicyError: if the table names something unknown.
        """
        plans = dict(self.plans)
        known = [each.name for each in fields(self)[1:]]
        entries = table.get("detectors", {})
        if not isinstance(entries, Mapping):
            raise PolicyError(f"policy: detectors is {entries!r}; it has to be a table of detectors")
        everywhere = entries.get("*", {})
        named = {name: entry for name, entry in entries.items() if name != "*"}
        for name, entry in [*((name, everywhere) for name in (list(plans) if everywhere else ())), *named.items()]:
            _require_known("policy", "detector", name, sorted(detectors))
            if not isinstance(entry, Mapping):
                raise PolicyError(f"policy: {name} is {entry!r}; it has to be a table of settings")
            if not isinstance(entry.get("enabled", True), bool):
                raise PolicyError(f"{name}: enabled is {entry['enabled']!r}; it has to be true or false")
            plans[name] = _overlay(name, plans.get(name, Plan()), entry)
            if not entry.get("enabled", True):
                del plans[name]
        numbers = {name: value for name, value in table.items() if name != "detectors"}
        for name in numbers:
            _require_known("policy", "setting", name, ["detectors", *known])
        return replace(self, plans=dict(sorted(plans.items())), **numbers)

    @classmethod
    def from_toml(cls, path: str | Path) -> Policy:
        """The default policy with the entries of a TOML file laid over it; the table is that of `from_dict`.

        Raises:
            PolicyError: if the file cannot be read, is no TOML or names something unknown.
        """
        try:
            return cls.from_dict(tomllib.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise PolicyError(f"policy: {str(path)!r} cannot be read: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise PolicyError(f"policy: {str(path)!r} is not valid TOML: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The whole table, such that `Policy.from_dict(policy.to_dict()) == policy`."""
        table: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)[1:]}
        table["detectors"] = {name: {"enabled": False} for name in sorted(detectors.keys() - self.plans.keys())}
        for name, plan in self.plans.items():
            table["detectors"][name] = {**plan.settings, "ladder": list(plan.ladder)}
        return table

    @property
    def settings(self) -> dict[str, Mapping[str, Any]]:
        """Detector to its settings: what `detect` asks for."""
        return {name: plan.settings for name, plan in self.plans.items()}


def _validate_plan(name: str, plan: Plan) -> None:
    _require_known("policy", "detector", name, sorted(detectors))
    known = detectors[name].settings
    for setting, value in plan.settings.items():
        _require_known(name, "setting", setting, sorted(known))
        _validate_number(name, setting, value, known[setting])
        if value < 0:
            raise PolicyError(f"{name}: {setting} is {value!r}; it has to be 0 or above")
        if setting in ("window", "warmup") and not 4 <= value <= CAPACITY:
            raise PolicyError(
                f"{name}: {setting} is {value!r}; it has to be from 4 to {CAPACITY}, what a history holds"
            )
    _validate_ladder(f"{name}: its ladder", plan.ladder)
    for rung in plan.ladder:
        for kind in rung.split("+"):
            _require_known(name, "response", kind, KINDS)
    for rung in plan.ladder[:-1]:
        if "halt" in rung.split("+"):
            raise PolicyError(f"{name}: its ladder goes on after {rung!r}; 'halt' has to be the last rung")


def _validate_ladder(who: str, ladder: Any) -> None:
    if not isinstance(ladder, (list, tuple)) or not all(isinstance(rung, str) for rung in ladder):
        raise PolicyError(f"{who} is {ladder!r}; it has to be a list of rungs such as ['skip', 'halt']")


def _validate_number(who: str, name: str, value: Any, default: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PolicyError(f"{who}: {name} is {value!r}; it has to be a number like its default {default!r}")
    if not isfinite(value):
        raise PolicyError(f"{who}: {name} is {value!r}; it has to be a finite number")
    if isinstance(default, int) and not isinstance(value, int):
        raise PolicyError(f"{who}: {name} is {value!r}; it has to be a whole number like its default {default!r}")


def _require_known(who: str, kind: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise PolicyError(f"{who} has no {kind} {name!r}; it has {', '.join(known) or 'none'}")


def _overlay(name: str, plan: Plan, entry: Mapping[str, Any]) -> Plan:
    ladder = entry.get("ladder", plan.ladder)
    _validate_ladder(f"{name}: its ladder", ladder)
    settings = {key: value for key, value in entry.items() if key not in ("ladder", "enabled")}
    return replace(plan, ladder=tuple(ladder), settings={**plan.settings, **settings})
