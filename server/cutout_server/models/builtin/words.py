"""The words that the built-in model knows. It imports nothing heavy: models are described before they are loaded."""

from types import MappingProxyType

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")

# What is looked for -> what callers may call it, in the singular; the first is its usual name.
_NAMES: dict[str, tuple[str, ...]] = {
    "face": ("face", "human face", "head"),
    "person": ("person", "people", "human", "man", "men", "woman", "women", "child", "children", "pedestrian"),
    "upper body": ("upper body", "torso"),
    "eye": ("eye",),
    "smile": ("smile", "mouth"),
    "cat": ("cat", "kitten"),
    "cat face": ("cat face",),
    "plate": ("plate", "licence plate", "license plate", "number plate"),
    "object": ("object", "foreground", "subject", "thing", "salient object"),
    **{colour: (colour,) for colour in COLOURS},
}
_NAMES["grey"] = ("grey", "gray")

CONCEPTS = MappingProxyType({name: concept for concept, names in _NAMES.items() for name in names})
VOCABULARY: tuple[str, ...] = tuple(CONCEPTS)


def concept_of(phrase: str) -> str | None:
    """What a phrase asks for, whatever its case, spacing, closing punctuation, article and plural.

    Returns:
        A value of CONCEPTS, or None when the phrase is outside the vocabulary.
    """
    name = " ".join(phrase.casefold().rstrip(" \t\r\n.,;:!?").split())
    for article in ("a ", "an ", "the "):
        name = name.removeprefix(article)
    singular = ("", "s"), ("bodies", "body"), ("es", "")
    candidates = [name, *(name.removesuffix(end) + new for end, new in singular if end and name.endswith(end))]
    candidates.append(name.removesuffix("s"))
    return next((CONCEPTS[candidate] for candidate in candidates if candidate in CONCEPTS), None)
