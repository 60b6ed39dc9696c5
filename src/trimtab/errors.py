"""What Trimtab raises.

    TrimtabError
    ├── InputError (ValueError)     something handed to Trimtab cannot be used; nothing was changed
    │   ├── PolicyError             a policy names an unknown detector, setting or response
    │   ├── RunExistsError          the run folder is there already; it is never overwritten
    │   └── RunLockedError          another process is writing the run
    ├── RunFormatError              a run folder cannot be read
    ├── OutOfMemory                 memory ran out, and smaller micro-batches did not help
    ├── CheckpointError             a checkpoint cannot be written, is damaged, or does not fit
    ├── RanksError                  the ranks of a distributed run cannot go on together
    └── Halted                      a supervisor ended the run on purpose; `decision` and `diagnosis` say why

Every message is one sentence: who, what is wrong, what is allowed, what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from trimtab.types import Decision


class TrimtabError(Exception):
    """The parent of everything Trimtab raises on purpose."""


class InputError(TrimtabError, ValueError):
    """Something handed to Trimtab cannot be used; nothing was changed."""


class PolicyError(InputError):
    """A policy names an unknown detector, setting or response."""


class RunExistsError(InputError):
    """The run folder is there already; a run is never overwritten."""


class RunLockedError(InputError):
    """Another process is writing the run; one process at a time writes a run."""


class RunFormatError(TrimtabError):
    """A run folder cannot be read."""


class CheckpointError(TrimtabError):
    """A checkpoint cannot be written, is damaged, or does not fit."""


class RanksError(TrimtabError):
    """The ranks of a distributed run cannot go on together: one is gone, or they are at different steps."""


class OutOfMemory(TrimtabError):
    """Memory ran out, and smaller micro-batches did not help."""


class Halted(TrimtabError):
    """A supervisor ended the run on purpose.

    Attributes:
        decision: the decision that halted the run, with its findings and its reason.
    """

    def __init__(self, decision: Decision, diagnose: Callable[[], Any] | None = None) -> None:
        super().__init__(f"the supervisor halted the run at step {decision.step}: {decision.reason}")
        self.decision = decision
        self._diagnose = diagnose
        self._diagnosis: Any = None

    @property
    def diagnosis(self) -> Any:
        """What is the matter with the run, a `trimtab.diagnosis.Diagnosis`, found when first asked for; else None.

        It rests on what the supervisor remembers, the newest part of the run; `trimtab diagnose` of the run folder has
        all of it.
        """
        if self._diagnose is not None:
            self._diagnosis, self._diagnose = self._diagnose(), None
        return self._diagnosis

    def __reduce__(self) -> tuple[Any, ...]:
        return Halted, (self.decision,), {"_diagnosis": self.diagnosis}

    def __str__(self) -> str:
        causes = self.diagnosis.causes if self.diagnosis is not None else ()
        if not causes:
            return super().__str__()
        likely = f"{causes[0].name} (confidence {causes[0].confidence:.2f}) from step {causes[0].step}"
        return f"{super().__str__()}; the likely cause is {likely}; print its .diagnosis for evidence and fix"
