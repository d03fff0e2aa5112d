"""The way into the compiled controller: each scheduler is a kernel of its own, compiled when it is first asked for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import layout as at
from .kernel import advance_ready
from .kernel_banked import advance_banked
from .tables import Tables

Int64Array = npt.NDArray[np.int64]


def advance(
    states: Int64Array, tables: Tables, descs: Int64Array, transfers: Int64Array, logs: Int64Array, bound: Int64Array, until: int,
) -> int:
    """Advance all channels to *until*, or to the cycle at which the first transfer may end; gives how many ended.

    *states* (channels, words), *descs* (channels, descriptors, D_SIZE), *transfers* (transfers, X_SIZE), *logs* (channels or 1,
    commands, L_SIZE), *bound* (transfers, 2) of scratch. No channel passes the end of a transfer, because who waits for it may send
    more at that cycle. A transfer cannot end before its slowest channel has moved what is left at one burst a column gap; that
    bound is how far all may run ahead.
    """
    kernel = advance_banked if tables.params[at.P_SCHEDULER] == at.SCHED_BANKED else advance_ready
    return kernel(states, tables.params, tables.rules, tables.first_rule, tables.segments, descs, transfers, logs, bound, until)
