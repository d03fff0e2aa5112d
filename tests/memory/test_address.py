"""Address mappings are bijections, keep ranges contiguous in each channel, and say what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilesim.memory.address import MappingError, parse_mapping
from tilesim.memory.standard import Organisation

HBM = Organisation(pseudo_channels=2, stack_ids=2, bank_groups=4, banks_per_group=4, rows=64, bursts_per_row=32, bytes_per_burst=32)
MAPPINGS = ("RoBaBgSidPcCoCh", "RoSidBaCo4BgPcCo1Ch", "RoChBaBgSidPcCo", "RoCo3SidBaChBgPcCo2", "RoSidBaCoBgPcCh/^Bg^Ba^Sid")


@pytest.mark.parametrize("text", MAPPINGS)
@pytest.mark.parametrize("channels", [1, 4, 5])
def test_mapping_is_a_bijection(text: str, channels: int) -> None:
    mapping = parse_mapping(text, HBM, channels)
    bursts = np.arange(channels * HBM.channel_bytes // HBM.bytes_per_burst)
    channel, local = mapping.local(bursts)
    assert (mapping.burst(channel, local) == bursts).all()
    own = np.sort(local[channel == channels - 1])
    assert (own == np.arange(len(own))).all()
    bank, row, column = mapping.decode(own)
    assert bank.max() < HBM.banks
    assert row.max() < HBM.rows
    assert column.max() < HBM.bursts_per_row
    assert len(np.unique((bank * HBM.rows + row) * HBM.bursts_per_row + column)) == len(own)
    assert (mapping.encode(bank, row, column) == own).all()


@given(start=st.integers(0, 4000), count=st.integers(1, 3000), channels=st.sampled_from([1, 3, 4]), text=st.sampled_from(MAPPINGS))
def test_a_range_is_one_run_in_each_channel(start: int, count: int, channels: int, text: str) -> None:
    mapping = parse_mapping(text, HBM, channels)
    channel, local = mapping.local(np.arange(start, start + count))
    edges = mapping.local_bounds(np.array([start, start + count]))
    for c in range(channels):
        assert np.array_equal(np.sort(local[channel == c]), np.arange(edges[c, 0], edges[c, 1]))


@given(ranges=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 700)), min_size=1, max_size=4),
       channels=st.sampled_from([1, 3, 4, 96]), text=st.sampled_from(MAPPINGS), rounds=st.integers(0, 5))
def test_channels_of_a_kind_are_asked_for_the_same_bursts(
    ranges: list[tuple[int, int]], channels: int, text: str, rounds: int,
) -> None:
    """The bursts of each channel, one by one and in order; also for the same ranges whole rounds further, known by then."""
    mapping = parse_mapping(text, HBM, channels)
    for shift in (0, rounds * channels * mapping.granule_bursts):
        start = np.array([first for first, _ in ranges]) + shift
        end = start + np.array([count for _, count in ranges])
        found = mapping.asked(start, end)
        given = [np.concatenate([np.arange(first, first + count) for first, count in [*runs.tolist(), (0, 0)]])
                 for runs in found.runs]
        wanted = [np.concatenate([np.arange(*bounds) for bounds in np.stack((low, high), axis=1)])
                  for low, high in zip(mapping.local_bounds(start), mapping.local_bounds(end), strict=True)]
        assert all(np.array_equal(given[kind], bursts) for kind, bursts in zip(found.kind, wanted, strict=True))
        assert len(found.runs) == len({bursts.tobytes() for bursts in wanted})
        assert found.bursts == sum(map(len, given))


@pytest.mark.parametrize(("text", "told"), [
    ("RoBaXx", "is no address mapping"), ("RoBaBgPcCo", r"no place for the stack id \(Sid\)"),
    ("BaRoBgSidPcCo", "must begin with Ro"),
    ("RoBaBgSidPcCo3Co3", "gives the column 6 bits"), ("RoBaBgSidPcCo", "does not place the channel"),
])
def test_a_wrong_mapping_says_why(text: str, told: str) -> None:
    with pytest.raises(MappingError, match=told):
        parse_mapping(text, HBM, 4)
