import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from wordnet_files import write_wordnet

from hf_relabel.errors import SourceError
from hf_relabel.sources import wordnet
from hf_relabel.sources.classes import imagenet_classes, read_class_list
from hf_relabel.sources.hierarchy import Hierarchy, identity, read_hierarchy

NAMES = ["poodle", "dog", "cat", "car"]


def hierarchy(tmp_path: Path, *lines: str, names: list[str] = NAMES) -> Hierarchy:
    path = tmp_path / "parents.tsv"
    path.write_text("\n".join(lines) + "\n")
    return read_hierarchy(str(path), names)


def test_ancestors_may_be_classes_or_groups_of_any_height(tmp_path: Path):
    found = hierarchy(tmp_path, "poodle\tdog", "dog\tcarnivore", "cat\tcarnivore", "carnivore\tanimal", "bus\tvehicle")
    assert found.nodes == [*NAMES, "carnivore", "animal"]
    assert found.ancestors == {0: frozenset({1})}
    assert dict(zip(found.nodes, found.depth, strict=True)) == {
        "poodle": 3, "dog": 2, "cat": 2, "car": 0, "carnivore": 1, "animal": 0
    }  # fmt: skip
    rolled = found.roll_up(np.array([[True, False, False, False], [False, False, True, True]]))
    assert rolled.tolist() == [[True, True, False, False, True, True], [False, False, True, True, True, True]]


def test_a_class_with_two_parents_has_the_ancestors_of_both(tmp_path: Path):
    found = hierarchy(tmp_path, "poodle\tdog", "poodle\ttoy", "dog\tanimal")
    assert set(np.array(found.nodes)[found.above[0]]) == {"poodle", "dog", "toy", "animal"}


def test_a_long_chain_is_read(tmp_path: Path):
    lines = [f"{'car' if step == 0 else step}\t{step + 1}" for step in range(3000)]
    assert hierarchy(tmp_path, *lines).depth.max() == 3000


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["poodle\tdog", "dog\tanimal", "animal\tpoodle"], "is an ancestor of itself"),
        (["poodle dog"], "line 1: needs the form `child<TAB>parent`"),
        (["poodle\tdog\tanimal"], "line 1: needs the form"),
        (["bus\tvehicle"], "none of the 4 classes, such as 'poodle', is a child"),
    ],
)
def test_files_that_are_no_hierarchy_are_refused(tmp_path: Path, lines: list[str], message: str):
    with pytest.raises(SourceError, match=message):
        hierarchy(tmp_path, *lines)


def test_a_missing_file_is_one_line(tmp_path: Path):
    with pytest.raises(SourceError, match="cannot be read"):
        read_hierarchy(str(tmp_path / "none.tsv"), NAMES)


def test_the_class_list_may_have_a_column_with_the_parents(tmp_path: Path):
    lines = ["folder\tname\tparent", "d1\tpoodle\td2", "d2\tdog\tanimal", "c\tcat\tanimal", "v\tcar\t"]
    found = hierarchy(tmp_path, *lines)
    assert found.nodes == [*NAMES, "animal"]
    assert found.ancestors == {0: frozenset({1})}, "a parent may be named by its folder"
    assert found.depth.tolist() == [2, 1, 1, 0, 0]
    classes = read_class_list(str(tmp_path / "parents.tsv"))
    assert classes.indices(["v", "c", "d1", "d2"], "folder") == {"v": 3, "c": 2, "d1": 0, "d2": 1}
    names_only = hierarchy(tmp_path, "name\tparent", "poodle\tdog", "dog\t", "cat\t", "car\t")
    assert names_only.ancestors == {0: frozenset({1})}
    with pytest.raises(SourceError, match=r"line 2: .* must have 3 columns like the header"):
        hierarchy(tmp_path, "folder\tname\tparent", "d1\tpoodle")


class TestWordNet:
    """With a small WordNet in Princeton's format."""

    SENSES = (
        *(
            "entity",
            "animal",
            "dog,domestic_dog",
            "poodle,poodle_dog",
            "cat",
            "true_cat,cat",
            "machine",
            "crane",
            "bird",
        ),
        "crane,crane_bird",
    )
    ABOVE: ClassVar = {
        **{"animal": "entity", "dog,domestic_dog": "animal", "poodle,poodle_dog": "dog,domestic_dog", "cat": "animal"},
        **{"true_cat,cat": "animal", "machine": "entity", "crane": "machine", "bird": "animal"},
        "crane,crane_bird": "bird",
    }

    @pytest.fixture(autouse=True)
    def wnids(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
        ids = write_wordnet(tmp_path / "data", self.SENSES, self.ABOVE)
        self.use(tmp_path / "data", monkeypatch)
        return dict(zip(self.SENSES, ids, strict=True))

    @staticmethod
    def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        nltk_data = pytest.importorskip("nltk.data")
        monkeypatch.setattr(nltk_data, "path", [str(folder)])
        wordnet._open.cache_clear()

    def test_classes_named_by_ids(self, wnids: dict[str, str], caplog: pytest.LogCaptureFixture):
        names = [wnids["poodle,poodle_dog"], wnids["dog,domestic_dog"], "n99999999"]
        found = read_hierarchy("wordnet", names)
        assert found.ancestors == {0: frozenset({1})}
        assert found.nodes[3:] == ["animal.n.01", "entity.n.01"]
        assert found.depth.tolist() == [3, 2, 0, 1, 0]
        assert found.origin == "WordNet 3.0, 2 of 3 classes by id"
        assert "1 of 3 classes are not in it and have no parents, such as 'n99999999'" in caplog.text

    def test_other_classes_are_looked_up_by_their_words(self):
        names = ["domestic dog", "crane", "crane, crane bird", "Poodle"]
        found = read_hierarchy("wordnet", names)
        above = {
            name: {found.nodes[node] for node in np.flatnonzero(found.above[row])} for row, name in enumerate(names)
        }
        assert above["crane"] == {"crane", "machine.n.01", "entity.n.01"}, "the most frequent sense"
        assert above["crane, crane bird"] == {"crane, crane bird", "bird.n.01", "animal.n.01", "entity.n.01"}
        assert above["Poodle"] == {"Poodle", "domestic dog", "animal.n.01", "entity.n.01"}
        assert "by name" in found.origin

    def test_names_of_imagenets_list_stand_for_its_ids(self):
        """Their words do not count: "cock" is a noun of this WordNet, but not with ImageNet's id."""
        message = "none of the 2 classes, such as 'cock', is found by the ids of ImageNet-1k"
        with pytest.raises(SourceError, match=message):
            read_hierarchy("wordnet", ["cock", "tench"])

    def test_what_is_missing_is_said_in_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        with pytest.raises(SourceError, match="none of the 1 classes, such as 'qqq', is found by name"):
            read_hierarchy("wordnet", ["qqq"])
        self.use(tmp_path / "nowhere", monkeypatch)
        with pytest.raises(SourceError, match=r"NLTK has no data; run `python -m nltk\.downloader wordnet`"):
            read_hierarchy("wordnet", ["dog"])
        ids = write_wordnet(tmp_path / "new", ["dog"], {}, version="3.1")
        self.use(tmp_path / "new", monkeypatch)
        with pytest.raises(SourceError, match=r"data is version 3\.1, but ids are those of version 3\.0"):
            read_hierarchy("wordnet", ids)
        (tmp_path / "new" / "corpora" / "wordnet" / "index.noun").unlink()
        self.use(tmp_path / "new", monkeypatch)
        with pytest.raises(SourceError, match="NLTK cannot read this WordNet"):
            read_hierarchy("wordnet", ["dog"])
        monkeypatch.setitem(sys.modules, "nltk", None)
        wordnet._open.cache_clear()
        with pytest.raises(SourceError, match=r"needs NLTK .*`pip install 'hf_relabel\[wordnet\]'"):
            read_hierarchy("wordnet", ["dog"])

    def test_the_record_of_a_build_names_the_data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        first = identity("wordnet")
        assert first["name"] == "wordnet"
        write_wordnet(tmp_path / "other", ["dog"], {})
        self.use(tmp_path / "other", monkeypatch)
        assert identity("wordnet") != first


def test_imagenets_classes_in_the_real_wordnet():
    """All 1000 ids are nouns of WordNet 3.0, and none of these is above another."""
    wordnet._open.cache_clear()
    imagenet = imagenet_classes()
    try:
        found = read_hierarchy("wordnet", imagenet.keys or [])
    except SourceError as error:
        pytest.skip(f"no WordNet on this machine: {error}")
    assert found.origin == "WordNet 3.0, 1,000 of 1,000 classes by id"
    assert found.ancestors == {}
    by_name = read_hierarchy("wordnet", imagenet.names)
    assert by_name.above.tolist() == found.above.tolist()
    bird = found.nodes.index("bird.n.01")
    assert found.above[:, bird].sum() == 59
