"""The norm of the running statistics."""

from __future__ import annotations

import numpy as np

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment


@probe("buffer_norm", size=lambda moment: len(moment.buffers))
def measure_buffer_norm(moment: Moment) -> Reading:
    """`buffer_norm`: the Euclidean norm of the running statistics of all normalization layers, such as BatchNorm's.

    Not finite where one of their numbers is not. Absent for models without any.
    """
    if not moment.buffers:
        return {}
    norms = yield moment.take_norms()[3]
    return {"buffer_norm": float(np.sqrt(np.square(norms, dtype=np.float64).sum()))}
