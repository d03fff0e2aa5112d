"""Address mappings: which bits of an address choose the channel, the bank, the row and the column.

A mapping is a string of fields from the most to the least significant, Ramulator style: ``RoBaBgRaSidPcCoCh``. A field may
stand twice with a width (``Co3`` = three bits of the column at that place); without one it takes the bits that are left.
``^Ba`` or ``^Bg`` (appended after ``/``) permutes those bits with low row bits (permutation-based interleaving: Zhang, Zhu and
Zhang, MICRO 2000), which spreads rows that would collide in one bank.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import layout as at
from .standard import Organisation

Int64Array = npt.NDArray[np.int64]
#: Field names of a mapping and the level each means; channel bits are taken out before a channel sees the address.
FIELDS = {"Ro": "row", "Co": "column", "Ch": "channel", "Pc": "pseudo_channel", "Ra": "rank", "Sid": "stack_id",
          "Bg": "bank_group", "Ba": "bank"}
_TOKEN = re.compile(r"(Ro|Co|Ch|Pc|Ra|Sid|Bg|Ba)(\d*)")
#: Patterns of ranges that are kept with what they ask, and the most ranges of one that is kept.
_KNOWN, _KNOWN_RANGES = 64, 1 << 11
_TREE = ("pseudo_channel", "rank", "stack_id", "bank_group", "bank")


class MappingError(ValueError):
    """A mapping string that does not fit its organisation."""


def bits_of(size: int, what: str) -> int:
    """How many address bits *size* nodes take."""
    if size & (size - 1):
        raise MappingError(f"{what} is {size}, not a power of two, so it cannot be a field of address bits")
    return size.bit_length() - 1


def _field(level: str) -> str:
    """The name of *level* in a mapping."""
    return next(name for name, meant in FIELDS.items() if meant == level)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a set of ranges asks of the channels: the channels of one kind are asked for the same channel-local bursts."""

    kind: Int64Array                     # [channel]
    runs: tuple[Int64Array, ...]         # for each kind (n, 2): first local burst and number of runs that are apart
    bursts: int                          # of all runs of all kinds

    def shifted(self, bursts: int) -> Asked:
        """The same, so many local bursts further."""
        further = np.array((bursts, 0))
        return Asked(self.kind, tuple(runs + further for runs in self.runs), self.bursts) if bursts else self


@dataclass(frozen=True, slots=True)
class AddressMap:
    """A bijection between byte addresses and (channel, pseudo-channel … column) of *channels* equal channels.

    The channel field may be any number of channels (5 stacks of 16): it is taken out by division at its place; the rest, the
    channel-local burst index, is split by shifts. Rows are the most significant field and need not be a power of two.
    """

    organisation: Organisation
    channels: int
    granule_bursts: int                  # consecutive bursts that stay in one channel
    segments: Int64Array                 # (n, A_SIZE), then the xors
    xors: int
    _known: dict[bytes, Asked] = dataclasses.field(default_factory=dict, compare=False, repr=False)    # what was asked lately

    def local(self, burst: Int64Array) -> tuple[Int64Array, Int64Array]:
        """(channel, channel-local burst index) of global burst numbers."""
        block, inside = np.divmod(burst, self.granule_bursts)
        high, channel = np.divmod(block, self.channels)
        return channel, high * self.granule_bursts + inside

    def burst(self, channel: Int64Array, local: Int64Array) -> Int64Array:
        """The inverse of :meth:`local`."""
        high, inside = np.divmod(local, self.granule_bursts)
        return (high * self.channels + channel) * self.granule_bursts + inside

    def decode(self, local: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        """(flat bank, row, column) of channel-local burst indices; the kernel's own decoding, vectorised."""
        fields = [np.zeros_like(local) for _ in range(3)]
        count = len(self.segments) - self.xors
        for low, mask, field, to in self.segments[:count]:
            fields[field] |= ((local >> low) & mask) << to
        for low, mask, _, to in self.segments[count:]:
            fields[at.FIELD_BANK] ^= ((fields[at.FIELD_ROW] >> low) & mask) << to
        return fields[at.FIELD_BANK], fields[at.FIELD_ROW], fields[at.FIELD_COLUMN]

    def encode(self, bank: Int64Array, row: Int64Array, column: Int64Array) -> Int64Array:
        """The inverse of :meth:`decode`."""
        count = len(self.segments) - self.xors
        bank = bank.copy()
        for low, mask, _, to in self.segments[count:]:
            bank ^= ((row >> low) & mask) << to
        local = np.zeros_like(bank)
        for low, mask, field, to in self.segments[:count]:
            local |= (((bank, row, column)[field] >> to) & mask) << low
        return local

    def channel_ranges(self, ranges: Int64Array) -> list[tuple[Int64Array, Int64Array]]:
        """For each channel, (local start, number) of the bursts that cover the byte *ranges* (n, 2: address, bytes)."""
        size = self.organisation.bytes_per_burst
        start = ranges[:, 0] // size
        end = -(-(ranges[:, 0] + ranges[:, 1]) // size)
        low, high = self.local_bounds(start), self.local_bounds(end)
        return [(low[c], high[c] - low[c]) for c in range(self.channels)]

    def local_bounds(self, burst: Int64Array, channels: Int64Array | None = None) -> Int64Array:
        """[channel, i]: how many channel-local bursts lie before global *burst[i]*; ranges stay contiguous in each channel.

        Of all channels, or of those in *channels*.
        """
        block, inside = np.divmod(burst, self.granule_bursts)
        high, channel = np.divmod(block, self.channels)
        own = (np.arange(self.channels, dtype=np.int64) if channels is None else channels)[:, None]
        part = np.where(own < channel, self.granule_bursts, np.where(own == channel, inside, 0))
        return high * self.granule_bursts + part

    def asked(self, start: Int64Array, end: Int64Array) -> Asked:
        """What the global bursts [*start*, *end*) of each range ask of the channels.

        Tiles come again and again at other addresses: what lies whole rounds of all channels further asks the same, shifted.
        """
        size = self.granule_bursts * self.channels
        rounds = int(start[0]) // size
        start, end = start - rounds * size, end - rounds * size
        key = start.tobytes() + end.tobytes()
        known = self._known.pop(key, None) or self._asked(start, end)
        if len(start) <= _KNOWN_RANGES:
            self._known[key] = known                    # the last one asked for stands last
            if len(self._known) > _KNOWN:
                del self._known[next(iter(self._known))]
        return known.shifted(rounds * self.granule_bursts)

    def _asked(self, start: Int64Array, end: Int64Array) -> Asked:
        """:meth:`asked`: bounds change from one channel to the next only where a range begins or ends, and behind it."""
        edges = np.concatenate((start, end)) // self.granule_bursts % self.channels
        changes = np.zeros(self.channels + 1, np.bool_)
        changes[0] = changes[edges] = changes[edges + 1] = True
        heads = np.flatnonzero(changes[:-1])
        numbers: dict[bytes, int] = {}
        kinds: list[int] = []
        runs: list[Int64Array] = []
        bursts = 0
        for first, behind in zip(self.local_bounds(start, heads), self.local_bounds(end, heads), strict=True):
            own = _joined(first, behind)
            kind = numbers.setdefault(own.tobytes(), len(runs))
            kinds.append(kind)
            if kind == len(runs):
                runs.append(own)
                bursts += int(own[:, 1].sum())
        return Asked(np.repeat(np.array(kinds), np.diff(np.append(heads, self.channels))), tuple(runs), bursts)


def _joined(first: Int64Array, behind: Int64Array) -> Int64Array:
    """(n, 2) of start and length: the runs [*first*, *behind*) in their order, those joined that follow each other."""
    some = behind > first
    first, behind = first[some], behind[some]
    apart = np.flatnonzero(first[1:] != behind[:-1]) + 1
    start, end = np.append(first[:1], first[apart]), np.append(behind[apart - 1], behind[-1:])
    return np.stack((start, end - start), axis=1)


def parse_mapping(text: str, organisation: Organisation, channels: int = 1) -> AddressMap:
    """The map that *text* means for *channels* channels of *organisation*."""
    order, _, permuted = text.partition("/")
    tokens = [(FIELDS[name], int(width) if width else None) for name, width in _TOKEN.findall(order)]
    if "".join(f"{name}{width}" for name, width in _TOKEN.findall(order)) != order or not tokens:
        raise MappingError(f"'{order}' is no address mapping; write fields such as RoBaBgCoCh, of {', '.join(FIELDS)}")
    sizes = dict(organisation.level_sizes) | {"column": organisation.bursts_per_row, "row": organisation.rows}
    bits = {level: bits_of(size, level) for level, size in sizes.items() if level not in ("channel", "row")}
    bits["row"] = max(1, (organisation.rows - 1).bit_length())
    bits["channel"] = 0
    for level, count in bits.items():
        if count and level not in {name for name, _ in tokens}:
            named, some = level.replace("_", " "), "bit" if count == 1 else "bits"
            raise MappingError(f"'{text}' has no place for the {named} ({_field(level)}), which takes {count} address {some}; "
                               f"write every field that has bits: {', '.join(_field(name) for name, n in bits.items() if n)}")
    _check_widths(tokens, bits, text)
    if tokens[0][0] != "row":
        raise MappingError(f"'{text}' must begin with Ro: rows are the most significant bits")
    bank_shift, shift = {}, 0
    for level in reversed(_TREE):
        bank_shift[level] = shift
        shift += bits[level]
    segments, granule = _segments(tokens, bits, bank_shift)
    if channels > 1 and granule is None:
        raise MappingError(f"'{text}' does not place the channel (Ch), of which there are {channels}")
    xors = _permutations(permuted, bits, bank_shift, text)
    return AddressMap(organisation, channels, granule or 1, np.array(segments + xors, np.int64).reshape(-1, at.A_SIZE),
                      len(xors))


def _check_widths(tokens: list[tuple[str, int | None]], bits: dict[str, int], text: str) -> None:
    for level, count in bits.items():
        widths = [width for name, width in tokens if name == level]
        given = sum(width for width in widths if width is not None)
        if level == "channel":
            if len(widths) > 1:
                raise MappingError(f"'{text}' places the channel {len(widths)} times; one place is supported")
        elif widths.count(None) > 1 or given > count or (None not in widths and given != count):
            raise MappingError(f"'{text}' gives the {level} {given} bits in {len(widths)} places; it has {count}")


def _segments(
    tokens: list[tuple[str, int | None]], bits: dict[str, int], bank_shift: dict[str, int],
) -> tuple[list[tuple[int, int, int, int]], int | None]:
    """Address segments from the least significant field up, and the bursts below the channel field (None: no such field)."""
    left, segments, position, granule = dict(bits), [], 0, None
    placed = dict.fromkeys(bits, 0)
    explicit = {level: sum(w for name, w in tokens if name == level and w is not None) for level in bits}
    for level, width in reversed(tokens):
        if level == "channel":
            granule = 1 << position
            continue
        size = width if width is not None else bits[level] - explicit[level]
        if size:
            field = {"row": at.FIELD_ROW, "column": at.FIELD_COLUMN}.get(level, at.FIELD_BANK)
            mask = (1 << size) - 1 if level != "row" else (1 << 40) - 1
            segments.append((position, mask, field, bank_shift.get(level, 0) + placed[level]))
        placed[level] += size
        left[level] -= size
        position += size
    return segments, granule


def _permutations(
    permuted: str, bits: dict[str, int], bank_shift: dict[str, int], text: str,
) -> list[tuple[int, int, int, int]]:
    """Xor segments: the named bank fields, low to high, take consecutive row bits."""
    names = [name for name in permuted.split("^") if name]
    xors, row_bit = [], 0
    for name in names:
        level = FIELDS.get(name)
        if level not in bank_shift:
            raise MappingError(f"'{text}' permutes {name!r}, which is no field of banks; after ^ write one of "
                               f"{', '.join(n for n in FIELDS if FIELDS[n] in bank_shift)}")
        if bits[level]:
            xors.append((row_bit, (1 << bits[level]) - 1, at.FIELD_BANK, bank_shift[level]))
        row_bit += bits[level]
    return xors
