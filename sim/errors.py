"""The one error that bad input gives: where it stands, what it says, what is allowed, how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class TilesimError(Exception):
    """Base of every error that the input, not our code, has caused; the command line prints it and exits with 2."""


class ConfigError(TilesimError):
    """A config (file, key, flag) that is wrong, with its place and its mend.

    ``message`` says what is wrong; ``file``, ``line`` and ``key`` say where; ``allowed`` lists what would be right and
    the nearest spelling to ``value`` is offered.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
        value: object = None,
        allowed: Sequence[str] = (),
        mend: str | None = None,
    ) -> None:
        self.message, self.file, self.line, self.key = message, file, line, key
        self.value, self.allowed, self.mend = value, tuple(allowed), mend
        super().__init__(self.render())

    def render(self) -> str:
        """The text a user sees: ``file:line: key …``, then what is allowed and the mend."""
        place = self.file or ""
        if self.file and self.line is not None:
            place += f":{self.line}"
        head = ": ".join(part for part in (place, self.message) if part)
        lines = [head]
        if self.allowed:
            lines.append("  allowed: " + ", ".join(self.allowed) + "." + self._nearest())
        if self.mend:
            lines.append("  " + self.mend)
        return "\n".join(lines)

    def _nearest(self) -> str:
        near = nearest(str(self.value), self.allowed) if self.value is not None else None
        return f"  Did you mean {near!r}?" if near else ""


def nearest(word: str, allowed: Sequence[str]) -> str | None:
    """The spelling of *allowed* closest to *word*, or None when none is close."""
    lowered = {item.lower(): item for item in allowed}
    found = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[found[0]] if found else None
