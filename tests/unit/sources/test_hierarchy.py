from pathlib import Path

import numpy as np
import pytest

from hf_relabel.errors import SourceError
from hf_relabel.sources.hierarchy import Hierarchy, read_hierarchy

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
