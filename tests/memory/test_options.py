"""Controller options: what a scheduler does not look at is refused, not ignored."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from tilesim.memory.options import ControllerConfig


@pytest.mark.parametrize(("options", "named"), [
    ({"scheduler": "fcfs", "row_hits_first": True}, "row_hits_first"),
    ({"scheduler": "fcfs", "row_hit_cap": 4}, "row_hit_cap"),
    ({"bank_queue": 4}, "bank_queue"),
    ({"merge_reads": True}, "merge_reads"),
    ({"scheduler": "banked", "page_policy": "closed"}, "page_policy"),
    ({"scheduler": "banked", "write_high_watermark": 0.5}, "write_high_watermark"),
    ({"page_timeout_cycles": 30}, "page_timeout_cycles"),
    ({"page_policy": "closed", "page_timeout_cycles": 30}, "page_timeout_cycles"),
])
def test_option_without_effect_is_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=f"{named} would have no effect"):
        ControllerConfig.model_validate(options)


@pytest.mark.parametrize("options", [
    {"scheduler": "fcfs", "row_hits_first": False}, {"scheduler": "banked", "bank_queue": 4, "merge_reads": True},
    {"page_policy": "timeout", "page_timeout_cycles": 30}, {"row_hits_first": True, "row_hit_cap": 4},
])
def test_option_with_effect_or_at_its_default_is_taken(options: dict[str, object]) -> None:
    assert ControllerConfig.model_validate(options).model_fields_set == options.keys()
