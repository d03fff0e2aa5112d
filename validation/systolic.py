"""Suite `systolic`: cycles, stalls and SRAM accesses of GEMMs against SCALE-Sim 3.0.0, in the mode that follows its law.

Upstream prints the index of the last cycle, one less than their number (its issue 125); expected and got are both that index. A
table that also says how large the SRAMs are and at what rates they are filled holds totals with stalls: groups ``stalled:*``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..arch.scalesim_stalls import Scratchpads, stalled_run
from ..arch.systolic import SystolicConfig, gemm_accesses, gemm_cycles
from ..arch.systolic_folds import Dataflow
from ..sim.errors import ConfigError
from .contract import Row, ValidationResult, compare, skip, summarise

COLUMNS = ("array_rows", "array_cols", "dataflow", "M", "N", "K", "total_cycles")
DATAFLOWS: dict[str, Dataflow] = {"ws": "weight_stationary", "os": "output_stationary", "is": "input_stationary"}
#: Sizes in KiB and rates in words a cycle, of ifmap, filter and ofmap; ``stall_cycles`` may stand beside them.
STALL_COLUMNS = ("ifmap_kib", "filter_kib", "ofmap_kib", "ifmap_words_per_cycle", "filter_words_per_cycle", "ofmap_words_per_cycle")
SHIPPED = tuple(Path(__file__).parent / "data" / name for name in ("systolic.csv", "systolic_stalls.csv"))
#: In every row that we have, upstream's count is M·N + folds·(rows + cols); M·N words are results.
PADDED_WRITES = "SCALE-Sim counts padding words as output writes of output-stationary folds"


def validate(reference: Path | None = None) -> ValidationResult:
    """Compare with the shipped table, or with every file of those columns at *reference* (a file or a folder)."""
    rows = tuple(row for path in _tables(reference) for record in _records(path) for row in _compared(record, path))
    groups = {row.group for row in rows}
    return ValidationResult("systolic", rows, tuple(summarise(rows, dict.fromkeys(groups, 0.0))))


def _tables(reference: Path | None) -> list[Path]:
    """The files to read, recognised by their columns."""
    if reference is None:
        return list(SHIPPED)
    found = sorted(reference.rglob("*.csv")) if reference.is_dir() else [reference]
    tables = [path for path in found if path.is_file() and set(COLUMNS) <= set(_header(path))]
    if not tables:
        raise ConfigError("no systolic reference table here", file=str(reference), allowed=COLUMNS,
                          mend="a table is a CSV file with these columns")
    return tables


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _records(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for record in reader:
            yield reader.line_num, record


def _compared(numbered: tuple[int, Mapping[str, str]], path: Path) -> Iterator[Row]:
    """The rows of one line: its total, and its SRAM counts where the table has them."""
    line, record = numbered
    try:
        rows, cols, m, n, k, printed = (int(record[name]) for name in COLUMNS if name != "dataflow")
    except (TypeError, ValueError):
        raise ConfigError("array, shape and cycles must be whole numbers", file=str(path), line=line) from None
    short = record["dataflow"]
    if short not in DATAFLOWS:
        raise ConfigError(f"dataflow is {short!r}, which is none", file=str(path), line=line, key="dataflow", value=short,
                          allowed=tuple(DATAFLOWS))
    config = SystolicConfig(type="systolic", rows=rows, cols=cols, clock_hz=1.0, dataflow=DATAFLOWS[short], timing="scalesim",
                            dtypes=("int8",), mac_energy_pj={})
    case = f"{rows}x{cols}:{short}:{m}x{n}x{k}"
    if set(STALL_COLUMNS) <= record.keys():
        yield from _stalled(case, record, config, (m, k, n), path, line)
        return
    yield compare(f"{case}:total_cycles", short, printed, gemm_cycles(m, k, n, config).total - 1, 0.0)
    accesses = gemm_accesses(m, k, n, rows=rows, cols=cols, dataflow=config.dataflow)
    counts = {"ifmap_reads": accesses.input_reads, "filter_reads": accesses.weight_reads,
              "ofmap_writes": accesses.output_writes}
    for name, got in counts.items():
        expected = record.get(f"sram_{name}")
        if not expected:
            continue
        quantity = f"{case}:sram_{name}"
        if short == "os" and name == "ofmap_writes" and int(expected) != got:
            yield skip(quantity, f"sram:{name}", int(expected), PADDED_WRITES)
        else:
            yield compare(quantity, f"sram:{name}", int(expected), got, 0.0)


def _stalled(
    case: str, record: Mapping[str, str], config: SystolicConfig, shape: tuple[int, int, int], path: Path, line: int,
) -> Iterator[Row]:
    """Total and stalls of a run at a finite rate of memory."""
    try:
        *kib, ifmap_rate, filter_rate, ofmap_rate = (int(record[name]) for name in STALL_COLUMNS)
        expected = {"total_cycles": int(record["total_cycles"])}
        if record.get("stall_cycles"):
            expected["stall_cycles"] = int(record["stall_cycles"])
    except (TypeError, ValueError):
        raise ConfigError("SRAM sizes, rates and stalls must be whole numbers", file=str(path), line=line) from None
    ifmap_words, filter_words, ofmap_words = (1024 * size for size in kib)
    m, k, n = shape
    found = stalled_run(m, k, n, rows=config.rows, cols=config.cols, dataflow=config.dataflow,
                        pads=Scratchpads(ifmap_words, filter_words, ofmap_words, ifmap_rate, filter_rate, ofmap_rate))
    got = {"total_cycles": found.total, "stall_cycles": found.stalls}
    where = "-".join(record[name] for name in STALL_COLUMNS)
    for quantity, value in expected.items():
        yield compare(f"{case}:{quantity}@{where}", f"stalled:{record['dataflow']}", value, got[quantity], 0.0)
