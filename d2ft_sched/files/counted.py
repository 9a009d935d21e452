"""Numbers with their nouns."""

_WITH_E = ("s", "x", "ch", "sh")


def counted(number: int, what: str) -> str:
    """A number with its noun: "1 class", "2 classes", "1,000 samples".

    Args:
        number: of things.
        what: one of them, a word that takes s or es in the plural.
    """
    if number == 1:
        return f"1 {what}"
    return f"{number:,} {what}{'es' if what.endswith(_WITH_E) else 's'}"
