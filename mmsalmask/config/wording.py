"""Suggest what a misspelt name was meant to be."""

import difflib


def nearest(word: str, choices: dict[str, str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the values whose keys look most like the word, whatever their case."""

    def likeness(choice: str) -> float:
        return difflib.SequenceMatcher(None, word.lower(), choice.lower()).ratio()

    ranked = sorted(((likeness(c), c) for c in choices), key=lambda pair: -pair[0])
    return [choices[choice] for ratio, choice in ranked[:count] if ratio >= cutoff]


def ask(near: list[str]) -> str:
    if not near:
        return ""
    *others, last = (f"'{name}'" for name in near)
    return f": did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
