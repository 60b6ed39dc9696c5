"""Trimtab keeps neural-network training stable: it measures every step, finds what is going wrong, puts it right."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from trimtab.errors import Halted, InputError, PolicyError, RunExistsError, RunFormatError, TrimtabError
from trimtab.policy import Plan, Policy
from trimtab.types import Action, Breach, Decision, Finding, Measurement, Record, Response

if TYPE_CHECKING:
    from trimtab.diagnosis import diagnose
    from trimtab.loop import fit
    from trimtab.probes.locate import locate_nonfinite
    from trimtab.probes.spectra import measure_spectra
    from trimtab.supervisor import Supervisor

__all__ = [
    "Action",
    "Breach",
    "Decision",
    "Finding",
    "Halted",
    "InputError",
    "Measurement",
    "Plan",
    "Policy",
    "PolicyError",
    "Record",
    "Response",
    "RunExistsError",
    "RunFormatError",
    "Supervisor",
    "TrimtabError",
    "diagnose",
    "fit",
    "locate_nonfinite",
    "measure_spectra",
]

__version__ = version("trimtab")

_LAZY = {
    "Supervisor": "trimtab.supervisor",
    "diagnose": "trimtab.diagnosis",
    "fit": "trimtab.loop",
    "locate_nonfinite": "trimtab.probes.locate",
    "measure_spectra": "trimtab.probes.spectra",
}
"""What needs torch, or is needed seldom, is imported when it is first asked for."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'trimtab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
