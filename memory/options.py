"""Controller options: how the requests of one channel become commands."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ..sim.config import Config
from . import layout as at

#: Options that a scheduler does not look at.
_OF_BANKED = frozenset({"merge_reads", "bank_queue", "bank_queue_hit_cap", "drain_idle_above"})
_WITHOUT_EFFECT = {
    "fr-fcfs": _OF_BANKED,
    "fcfs": _OF_BANKED | {"row_hits_first", "row_hit_cap"},
    "banked": frozenset({"row_hits_first", "row_hit_cap", "page_policy", "page_timeout_cycles", "write_high_watermark",
                         "write_low_watermark", "refresh_blocks_channel"}),
}
_SCHEDULERS = {"fr-fcfs": at.SCHED_READY, "fcfs": at.SCHED_IN_ORDER, "banked": at.SCHED_BANKED}


class ControllerConfig(Config):
    """How requests of one channel become commands. The defaults are those of the preset ``ramulator``, without its merging."""

    scheduler: Literal["fr-fcfs", "fcfs", "banked"] = "fr-fcfs"
    row_hits_first: bool = False                         # row hits before older requests that need another row
    row_hit_cap: Annotated[int, Field(ge=0)] = 0         # hits in a row while an older miss waits; 0: no cap
    page_policy: Literal["open", "closed", "timeout"] = "open"
    page_timeout_cycles: Annotated[int, Field(ge=0)] = 0
    read_queue: Annotated[int, Field(ge=1, le=4096)] = 32
    write_queue: Annotated[int, Field(ge=1, le=4096)] = 32
    write_high_watermark: Annotated[float, Field(gt=0, le=1)] = 0.8
    write_low_watermark: Annotated[float, Field(ge=0, lt=1)] = 0.2
    merge_writes: bool = False                           # requests to an address whose write still waits need no burst
    merge_reads: bool = False
    keep_order: bool = True                              # a request waits for earlier ones to its address where either writes
    refresh: Literal["all_bank", "per_bank", "none"] = "all_bank"
    refresh_postponed_max: Annotated[int, Field(ge=0, le=32)] = 0
    refresh_blocks_channel: bool = True                  # a due refresh stops all banks of the channel, not only its own
    refresh_phases: Annotated[int, Field(ge=1, le=256)] = 1    # channels refresh in so many groups, evenly staggered
    bank_queue: Annotated[int, Field(ge=1, le=64)] = 8   # scheduler banked: commands held for each bank
    bank_queue_hit_cap: Annotated[int, Field(ge=1)] = 4  # scheduler banked: hits after which a waiting miss closes the row
    drain_idle_above: Annotated[int, Field(ge=0)] = 8    # scheduler banked: drain so many writes when nothing else waits

    @model_validator(mode="after")
    def _scheduler_knows_the_options(self) -> Self:
        fields = type(self).model_fields
        stated = {name for name in self.model_fields_set if getattr(self, name) != fields[name].default}
        without = sorted(stated & _WITHOUT_EFFECT[self.scheduler])
        if without:
            raise ValueError(f"{', '.join(without)} would have no effect: the scheduler {self.scheduler!r} does not look at it; "
                             f"leave it out, or take another scheduler ({', '.join(_SCHEDULERS)})")
        if "page_timeout_cycles" in stated and self.page_policy != "timeout":
            raise ValueError(f"page_timeout_cycles would have no effect: page_policy is {self.page_policy!r}; set it to 'timeout'")
        if self.write_low_watermark >= self.write_high_watermark:
            raise ValueError(f"write_low_watermark {self.write_low_watermark} is not below write_high_watermark "
                             f"{self.write_high_watermark}: a drain would end before it begins")
        return self

    def parameters(self) -> dict[int, int]:
        """The controller's part of the parameter array."""
        high, low = self.write_high_watermark * self.write_queue, self.write_low_watermark * self.write_queue
        timeout = {"open": -1, "closed": 0, "timeout": self.page_timeout_cycles}[self.page_policy]
        return {
            at.P_SCHEDULER: _SCHEDULERS[self.scheduler],
            at.P_READ_DEPTH: self.read_queue, at.P_WRITE_DEPTH: self.write_queue,
            # Draining begins above the high watermark and ends below the low one.
            at.P_DRAIN_ON: int(np.floor(high)) + 1 if high < self.write_queue else self.write_queue,
            at.P_DRAIN_OFF: max(0, int(np.ceil(low)) - 1),
            at.P_HIT_FIRST: self.row_hits_first, at.P_HIT_CAP: self.row_hit_cap, at.P_PAGE_TIMEOUT: timeout,
            at.P_MERGE: self.merge_writes, at.P_MERGE_READS: self.merge_reads,
            at.P_KEEP_ORDER: self.keep_order,
            at.P_POSTPONE: self.refresh_postponed_max, at.P_REFRESH_BLOCKS: self.refresh_blocks_channel,
            at.P_PER_BANK: self.refresh == "per_bank",
            at.P_BANK_DEPTH: self.bank_queue if self.scheduler == "banked" else 1,
            at.P_DRAIN_IDLE: self.drain_idle_above, at.P_QUEUE_HIT_CAP: self.bank_queue_hit_cap,
        }

    def over(self, default: ControllerConfig) -> ControllerConfig:
        """*default* with the options that were stated here."""
        return default.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})
