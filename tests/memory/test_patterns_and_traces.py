"""Requests from patterns and files: right counts, same seed same requests, every bad line refused with its place."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from tilesim.memory.patterns import PATTERNS, make_requests
from tilesim.memory.replay import serve
from tilesim.memory.standard import load_memory
from tilesim.memory.trace_file import read_trace
from tilesim.sim.errors import ConfigError


@pytest.mark.parametrize("pattern", PATTERNS)
def test_same_seed_same_requests_inside_the_memory(pattern: str) -> None:
    made = [make_requests(pattern, 500, burst_bytes=64, capacity_bytes=1 << 20, read_share=0.5, seed=s) for s in (3, 3, 4)]
    assert (made[0].address == made[1].address).all()
    assert (made[0].write == made[1].write).all()
    assert (made[0].write != made[2].write).any()
    assert made[0].address.min() >= 0
    assert made[0].address.max() < 1 << 20
    assert (made[0].address % 64 == 0).all()


def test_read_share_and_interval_are_kept() -> None:
    made = make_requests("random", 20_000, burst_bytes=64, capacity_bytes=1 << 30, read_share=0.7, interval_ticks=2.5)
    assert 1 - made.write.mean() == pytest.approx(0.7, abs=0.02)
    assert made.tick[:5].tolist() == [0, 2, 5, 7, 10]


@pytest.mark.parametrize(("key", "value"), [("pattern", "zigzag"), ("count", 0), ("read_share", 1.2), ("interval_ticks", -1.0)])
def test_bad_patterns_are_refused(key: str, value: object) -> None:
    arguments = {"pattern": "random", "count": 10, "read_share": 1.0, "interval_ticks": 0.0} | {key: value}
    with pytest.raises(ConfigError):
        make_requests(burst_bytes=64, capacity_bytes=1 << 20, **arguments)  # type: ignore[arg-type]


def test_forms_of_a_trace_line(tmp_path: Path) -> None:
    file = tmp_path / "t.trace"
    file.write_text("LD 0x40\nST 128\n# a comment\n\n0x100 R 7\n512 write 9   # and one here\n")
    requests = read_trace(file)
    assert requests.address.tolist() == [64, 128, 256, 512]
    assert requests.write.tolist() == [False, True, False, True]
    assert requests.tick.tolist() == [0, 0, 7, 9]


def test_gzip_is_read_whatever_its_name(tmp_path: Path) -> None:
    file = tmp_path / "t.trace"
    file.write_bytes(gzip.compress(b"LD 64\nST 0\n"))
    assert read_trace(file).address.tolist() == [64, 0]


@pytest.mark.parametrize(("line", "word"), [
    ("LD", "no request"), ("FETCH 0x40", "FETCH|kind"), ("LD 0xzz", "0xzz"), ("LD -64", "address"), ("LD 64 soon", "soon"),
    ("LD 64 7 8", "no request")])
def test_a_bad_line_is_named(tmp_path: Path, line: str, word: str) -> None:
    file = tmp_path / "bad.trace"
    file.write_text(f"LD 0\n{line}\n")
    with pytest.raises(ConfigError, match=word) as caught:
        read_trace(file)
    assert caught.value.line == 2


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\x1f\x8b but not gzip", b"\xff\xfe\x00"])
def test_what_is_no_trace_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "t.trace"
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        read_trace(file)


def test_clocks_must_not_go_back(tmp_path: Path) -> None:
    file = tmp_path / "t.trace"
    file.write_text("LD 0 5\nLD 64 4\n")
    with pytest.raises(ConfigError, match="clock"):
        read_trace(file)


def test_an_address_beyond_the_memory_is_refused_with_its_number() -> None:
    memory = load_memory("lpddr5-6400")
    requests = make_requests("sequential", 3, burst_bytes=32, capacity_bytes=1 << 40)
    requests.address[2] = memory.organisation.channel_bytes
    with pytest.raises(ConfigError, match="request 3"):
        serve(memory, requests, channels=1)


def test_every_request_ends_after_it_was_admitted_and_in_its_channel() -> None:
    memory = load_memory("hbm2-2000")
    requests = make_requests("random", 4000, burst_bytes=32, capacity_bytes=memory.channels * memory.organisation.channel_bytes,
                             read_share=0.5)
    run = serve(memory, requests)
    assert sum(len(channel.finish) for channel in run.channels) == 4000
    for channel in run.channels:
        assert (channel.admit >= channel.tick).all()
        assert (np.diff(channel.admit) >= 1).all()
        assert (channel.finish > channel.admit).all()
