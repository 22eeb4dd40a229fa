"""A small WordNet in the files and the format of Princeton's (wndb(5WN)), where NLTK finds it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

LICENSE = "  1 This software and database is being provided to you, the LICENSEE.\n  2 WordNet {version} Copyright\n"


def write_wordnet(folder: Path, nouns: Sequence[str], hypernyms: Mapping[str, str], version: str = "3.0") -> list[str]:
    """Write nouns with one sense each, or several where a word is repeated.

    Args:
        folder: The folder that NLTK_DATA will name.
        nouns: Of each sense its words, separated by commas, such as `dog,domestic_dog`.
        hypernyms: The words of the sense above each sense; senses that are not in it are roots.
        version: Version that the files state.

    Returns:
        The WordNet id of each noun, such as n00000090.
    """
    place = folder / "corpora" / "wordnet"
    place.mkdir(parents=True)
    license_text = LICENSE.format(version=version)
    offsets, start = {}, len(license_text)
    for words in nouns:
        offsets[words] = start
        start += len(_line(words, 0, hypernyms.get(words) and 0))
    lines = [_line(words, offsets[words], offsets.get(hypernyms.get(words, ""))) for words in nouns]
    (place / "data.noun").write_text(license_text + "".join(lines))
    senses: dict[str, list[int]] = {}
    for words, offset in offsets.items():
        for word in words.split(","):
            senses.setdefault(word, []).append(offset)
    index = [
        f"{word} n {len(found)} 0 {len(found)} 0 {' '.join(f'{offset:08d}' for offset in found)}  \n"
        for word, found in sorted(senses.items())
    ]
    (place / "index.noun").write_text(license_text + "".join(index))
    for kind in ("verb", "adj", "adv"):
        (place / f"data.{kind}").write_text(license_text)
        (place / f"index.{kind}").write_text(license_text)
    for kind in ("noun", "verb", "adj", "adv"):
        (place / f"{kind}.exc").write_text("")
    (place / "lexnames").write_text("00\tnoun.Tops\t1\n")
    return [f"n{offset:08d}" for offset in offsets.values()]


def _line(words: str, offset: int, above: int | None) -> str:
    each = " ".join(f"{word} 0" for word in words.split(","))
    pointers = "000" if above is None else f"001 @ {above:08d} n 0000"
    return f"{offset:08d} 00 n {len(words.split(',')):02x} {each} {pointers} | a gloss  \n"
