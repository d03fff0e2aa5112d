"""Suite `systolic`: cycles, stalls and SRAM accesses of GEMMs against SCALE-Sim 3.0.0, in the mode that follows its law.

Upstream prints the index of the last cycle, one less than their number (its issue 125); expected and got are both that index. A
row that also says how large the SRAMs are and at what rates they are filled holds totals with stalls: groups ``stalled:*``.
A row that makes no sense is skipped with its reason; the others count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..arch.scalesim_stalls import Scratchpads, StalledRun, stalled_run
from ..arch.systolic import gemm_accesses
from ..arch.systolic_folds import Dataflow, scalesim_times, spatial_and_temporal
from .contract import Row, ValidationResult, skip, summarise
from .tables import UNPREDICTABLE, compared, find_tables, number, reason_of, records, whole

COLUMNS = ("array_rows", "array_cols", "dataflow", "M", "N", "K", "total_cycles")
DATAFLOWS: dict[str, Dataflow] = {"ws": "weight_stationary", "os": "output_stationary", "is": "input_stationary"}
#: Sizes in KiB and rates in words a cycle, of ifmap, filter and ofmap; ``stall_cycles`` may stand beside them.
STALL_COLUMNS = ("ifmap_kib", "filter_kib", "ofmap_kib", "ifmap_words_per_cycle", "filter_words_per_cycle", "ofmap_words_per_cycle")
SRAM_COLUMNS = ("sram_ifmap_reads", "sram_filter_reads", "sram_ofmap_writes")
SHIPPED = tuple(Path(__file__).parent / "data" / name for name in ("systolic.csv", "systolic_stalls.csv"))
#: Every os row that we have says M·N + folds·(rows + cols), of which M·N words are results; any other count is an error.
PADDED_WRITES = "SCALE-Sim counts padding words as output writes of output-stationary folds"


def validate(reference: Path | None = None) -> ValidationResult:
    """Compare with the shipped table, or with every file of those columns at *reference* (a file or a folder)."""
    tables = SHIPPED if reference is None else find_tables(reference, COLUMNS, "systolic reference table")
    rows = tuple(row for path in tables for _, record in records(path) for row in _compared(record))
    groups = {row.group for row in rows}
    return ValidationResult("systolic", rows, tuple(summarise(rows, dict.fromkeys(groups, 0.0))))


@dataclass(frozen=True, slots=True)
class _Product:
    """One GEMM [m, k]·[k, n] on one array."""

    rows: int
    cols: int
    m: int
    n: int
    k: int
    dataflow: Dataflow

    def printed_cycles(self) -> int:
        """SCALE-Sim's total: the index of the last cycle."""
        return int(scalesim_times(self.m, self.k, self.n, rows=self.rows, cols=self.cols, dataflow=self.dataflow, arrays=1,
                                  batch=1).end) - 1

    def sram_words(self, column: str) -> int:
        """The words behind one of SRAM_COLUMNS."""
        found = gemm_accesses(self.m, self.k, self.n, rows=self.rows, cols=self.cols, dataflow=self.dataflow)
        return dict(zip(SRAM_COLUMNS, (found.input_reads, found.weight_reads, found.output_writes), strict=True))[column]

    def padding_words(self) -> int:
        """Output writes that SCALE-Sim counts beyond the results: a side of each kind for every output-stationary fold."""
        on_rows, on_cols, _ = spatial_and_temporal(self.m, self.k, self.n, self.dataflow)
        folds = -(-on_rows // self.rows) * -(-on_cols // self.cols)
        return folds * (self.rows + self.cols) if self.dataflow == "output_stationary" else 0


def _compared(record: Mapping[str, str]) -> Iterator[Row]:
    """The rows of one line: its total, with stalls where it says what memory it has, and its SRAM counts where it has them."""
    short = _short(record["dataflow"])
    texts = [record[name] if whole(record[name]) is None else str(whole(record[name])) for name in COLUMNS]
    case = f"{texts[0]}x{texts[1]}:{short or texts[2]}:{texts[3]}x{texts[4]}x{texts[5]}"
    stalled = any(record.get(name) for name in STALL_COLUMNS)
    where = "@" + "-".join(record.get(name, "") for name in STALL_COLUMNS) if stalled else ""
    group = f"stalled:{short or 'unknown'}" if stalled else short or "unknown"
    asked = [(f"{case}:total_cycles{where}", group, "total_cycles")]
    asked += [(f"{case}:stall_cycles{where}", group, "stall_cycles")] if stalled and record.get("stall_cycles") else []
    asked += [(f"{case}:{name}{where}", name.replace("_", ":", 1), name) for name in SRAM_COLUMNS if record.get(name)]
    reason = _lacking(record, stalled)
    found: StalledRun | None = None
    if reason is None:
        rows, cols, m, n, k = (whole(record[name]) or 0 for name in COLUMNS if name not in ("dataflow", "total_cycles"))
        product = _Product(rows, cols, m, n, k, DATAFLOWS[short])
        try:
            found = _stalled(product, record) if stalled else None
        except UNPREDICTABLE as error:
            reason = f"cannot be predicted: {reason_of(error)}"
    for quantity, group, name in asked:
        if reason is not None:
            yield skip(quantity, group, number(record[name]), reason)
        elif name in SRAM_COLUMNS:
            padding = product.padding_words()
            if name == "sram_ofmap_writes" and padding and whole(record[name]) == product.sram_words(name) + padding:
                yield skip(quantity, group, whole(record[name]), PADDED_WRITES)
            else:
                yield compared(quantity, group, record[name], partial(product.sram_words, name), 0.0, {})
        elif found is None:
            yield compared(quantity, group, record[name], product.printed_cycles, 0.0, {})
        else:
            yield compared(quantity, group, record[name], partial(getattr, found, {"stall_cycles": "stalls"}.get(name, "total")),
                           0.0, {})


def _short(dataflow: str) -> str:
    """``ws``, ``os`` or ``is``, however it is spelled (``WS``, ``weight-stationary``); "" for what is none."""
    spelled = dataflow.lower().replace("-", "_").replace(" ", "_")
    return next((short for short, long in DATAFLOWS.items() if spelled in (short, long)), "")


def _lacking(record: Mapping[str, str], stalled: bool) -> str | None:
    """Why a line says nothing that could be run, or None."""
    if not _short(record["dataflow"]):
        return f"dataflow is {record['dataflow']!r}, which is none"
    counts = [name for name in COLUMNS if name not in ("dataflow", "total_cycles")]
    for name in (*counts, *(STALL_COLUMNS if stalled else ())):
        value = whole(record.get(name, ""))
        if value is None or value < 1:
            return f"{name} is {record.get(name, '')!r}; it must be a whole number of at least 1"
    return None


def _stalled(product: _Product, record: Mapping[str, str]) -> StalledRun:
    """Total and stalls of a run at a finite rate of memory."""
    *kib, ifmap_rate, filter_rate, ofmap_rate = (whole(record[name]) or 0 for name in STALL_COLUMNS)
    ifmap_words, filter_words, ofmap_words = (1024 * size for size in kib)
    return stalled_run(product.m, product.k, product.n, rows=product.rows, cols=product.cols, dataflow=product.dataflow,
                       pads=Scratchpads(ifmap_words, filter_words, ofmap_words, ifmap_rate, filter_rate, ofmap_rate))
