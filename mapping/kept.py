"""What a search chose, kept: layers and design points ask for the same shapes again and again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

ChoiceT = TypeVar("ChoiceT")


class Kept(Generic[ChoiceT]):
    """Choices by what decides them; once there are *most*, all are forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._choices: dict[Hashable, ChoiceT] = {}

    def get(self, key: Hashable, choose: Callable[[], ChoiceT]) -> ChoiceT:
        """The choice for *key*; *choose* makes it the first time."""
        found = self._choices.get(key)
        if found is None:
            if len(self._choices) >= self._most:
                self._choices.clear()
            found = self._choices[key] = choose()
        return found
