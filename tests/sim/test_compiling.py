"""A compiled function has one form for each set of types, and every way of calling it gives what its source gives."""

import uuid
from typing import Any

from tilesim.sim.compiling import compile_cached


def _weighed(value: int, weight: int, more: int = 3, sign: bool = False) -> int:
    return -value * weight - more if sign else value * weight + more


def test_constants_and_left_out_arguments_make_no_further_forms() -> None:
    weighed: Any = compile_cached(_weighed, str(uuid.uuid4()))  # a stamp of its own: compiled here, not read back

    def all_ways(x: int, y: int) -> Any:
        return weighed(x, 0) + weighed(x, 7) + weighed(x, y, 5) + weighed(x, y, more=y) + weighed(weight=y, value=2, sign=True)

    compiled = compile_cached(all_ways, str(uuid.uuid4()))
    result = compiled(11, 13)
    assert len(weighed.signatures) == 1
    assert result == all_ways(11, 13) == 3 + 80 + 148 + 156 - 29


def test_a_new_stamp_makes_what_is_cached_stale() -> None:
    first = compile_cached(_weighed, "first")
    first(1, 2)
    again: Any = compile_cached(_weighed, "first")
    other: Any = compile_cached(_weighed, str(uuid.uuid4()))
    again(1, 2)
    other(1, 2)
    assert again.stats.cache_hits
    assert not other.stats.cache_hits
