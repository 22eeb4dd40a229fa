"""WordNet's hypernyms of classes, read by NLTK.

    pip install 'hf_relabel[wordnet]' && python -m nltk.downloader wordnet

All classes are identified in the same way, the first of these that fits:

1. by id, where every name is a WordNet id such as n02084071 (`n` and the noun's offset in WordNet 3.0);
2. by ImageNet's list, where every name is one of ImageNet-1k's, as this package names them;
3. by name: the noun's most frequent sense. `tench, Tinca tinca` is the sense that has all of these words.

Groups above the classes are called as in NLTK, such as `carnivore.n.01`.
"""

import functools
import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_relabel.errors import SourceError
from hf_relabel.sources.classes import imagenet_classes

if TYPE_CHECKING:
    from nltk.corpus.reader.wordnet import Synset, WordNetCorpusReader

WORDNET = "wordnet"
"""The value of `--parents` that stands for WordNet instead of a file."""

VERSION = "3.0"
"""The version whose offsets are ImageNet's ids."""

WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Hypernyms:
    """The hypernyms of classes.

    Args:
        origin: Where they come from and how classes were identified, for reports.
        parents: The parents of each class that was found, and of each group above one.
        unknown: Classes that were not found.
    """

    origin: str
    parents: dict[str, list[str]]
    unknown: list[str]


def wordnet_hypernyms(class_names: Sequence[str]) -> Hypernyms:
    """Look up the classes in WordNet.

    Raises:
        SourceError: NLTK or its WordNet data is missing, the data has another version than the ids, or no class is
            found.
    """
    reader = _open()
    synsets, how = _identify(reader, class_names)
    if not synsets:
        raise SourceError(
            f"WordNet: none of the {len(class_names)} classes, such as {class_names[0]!r}, is found {how}; give a file "
            "with lines `child<TAB>parent`"
        )
    name_of: dict[Synset, str] = {}
    for name, synset in synsets.items():
        name_of.setdefault(synset, name)
    parents = {name: [name_of[synset]] for name, synset in synsets.items() if name_of[synset] != name}
    waiting = list(name_of)
    for synset in waiting:  # grows while it is read
        above = sorted({*synset.hypernyms(), *synset.instance_hypernyms()}, key=lambda other: other.offset())
        for other in above:
            if other not in name_of:
                name_of[other] = other.name()
                waiting.append(other)
        parents[name_of[synset]] = [name_of[other] for other in above]
    unknown = [name for name in class_names if name not in synsets]
    origin = f"WordNet {reader.get_version()}, {len(synsets):,} of {len(class_names):,} classes {how}"
    return Hypernyms(origin, parents, unknown)


def data_digest() -> str:
    """SHA-256 of the nouns of the installed WordNet."""
    with _open().open("data.noun") as file:
        return hashlib.sha256(file.read().encode()).hexdigest()


def _identify(reader: "WordNetCorpusReader", names: Sequence[str]) -> "tuple[dict[str, Synset], str]":
    """The noun of each class that is found, and how the classes were identified."""
    imagenet = imagenet_classes()
    wnid_of = dict(zip(imagenet.names, imagenet.keys or [], strict=True))
    if all(map(WNID.fullmatch, names)):
        return _by_id(reader, zip(names, names, strict=True)), "by id"
    if all(name in wnid_of for name in names):
        return _by_id(reader, ((name, wnid_of[name]) for name in names)), "by the ids of ImageNet-1k"
    found = {name: synset for name in names if (synset := _by_name(reader, name)) is not None}
    return found, "by name, in the most frequent sense"


def _by_id(reader: "WordNetCorpusReader", wnids: Iterable[tuple[str, str]]) -> "dict[str, Synset]":
    if (found := reader.get_version()) != VERSION:
        raise SourceError(
            f"WordNet: the installed data is version {found}, but ids are those of version {VERSION}; install it with "
            "`python -m nltk.downloader wordnet`"
        )
    synsets = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NLTK warns where no noun has the offset
        for name, wnid in wnids:
            synsets[name] = reader.synset_from_pos_and_offset("n", int(wnid[1:]))
    return {name: synset for name, synset in synsets.items() if synset is not None}


def _by_name(reader: "WordNetCorpusReader", name: str) -> "Synset | None":
    words = [word.strip().replace(" ", "_") for word in name.split(",")]
    senses = [reader.synsets(word, "n") for word in words if word]
    return next((synset for synset in senses[0] if all(synset in other for other in senses)), None) if senses else None


@functools.cache
def _open() -> "WordNetCorpusReader":
    """Open NLTK's WordNet.

    Raises:
        SourceError: NLTK or the data is missing, or the data is damaged.
    """
    try:
        import nltk.data
        from nltk.corpus.reader.wordnet import WordNetCorpusReader
    except ImportError as error:
        raise SourceError(
            f"WordNet: needs NLTK ({error}); install it with `pip install 'hf_relabel[wordnet]'`, or give a file with "
            "lines `child<TAB>parent`"
        ) from error

    class Reader(WordNetCorpusReader):
        """Without the maps between versions, which take seconds and serve other languages only."""

        def map_wn(self, version: str = "wordnet") -> Any:
            return None

    for place in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            root = nltk.data.find(place)
        except LookupError:
            continue
        try:
            return Reader(root, omw_reader=object())
        except (OSError, ValueError, AssertionError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise SourceError(
                f"{root}: NLTK cannot read this WordNet ({reason}); run `python -m nltk.downloader --force wordnet`"
            ) from error
    raise SourceError(
        "WordNet: NLTK has no data; run `python -m nltk.downloader wordnet` (the variable NLTK_DATA names its folder), "
        "or give a file with lines `child<TAB>parent`"
    )
