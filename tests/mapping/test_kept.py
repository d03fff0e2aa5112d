"""Choices are made once for what decides them, and forgotten when there are too many."""

from tilesim.mapping.kept import Kept


def test_a_choice_is_made_once_until_there_are_too_many() -> None:
    made: list[str] = []

    def choose(key: str) -> str:
        def make() -> str:
            made.append(key)
            return key.upper()

        return kept.get(key, make)

    kept: Kept[str] = Kept(2)
    assert [choose(key) for key in "abab"] == ["A", "B", "A", "B"]
    assert made == ["a", "b"]
    assert choose("c") == "C"
    assert choose("a") == "A"
    assert made == ["a", "b", "c", "a"]
