"""What Trimtab raises.

    TrimtabError
    ├── InputError (ValueError)     something handed to Trimtab cannot be used; nothing was changed
    │   ├── PolicyError             a policy names an unknown detector, setting or response
    │   ├── RunExistsError          the run folder is there already; it is never overwritten
    │   └── RunLockedError          another process is writing the run
    ├── RunFormatError              a run folder cannot be read
    ├── OutOfMemory                 memory ran out, and smaller micro-batches did not help
    ├── CheckpointError             a checkpoint cannot be written, is damaged, or does not fit
    └── Halted                      a supervisor ended the run on purpose; `decision` says why

Every message is one sentence: who, what is wrong, what is allowed, what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


class OutOfMemory(TrimtabError):
    """Memory ran out, and smaller micro-batches did not help."""


class Halted(TrimtabError):
    """A supervisor ended the run on purpose.

    Attributes:
        decision: the decision that halted the run, with its findings and its reason.
    """

    def __init__(self, decision: Decision) -> None:
        super().__init__(f"the supervisor halted the run at step {decision.step}: {decision.reason}")
        self.decision = decision
