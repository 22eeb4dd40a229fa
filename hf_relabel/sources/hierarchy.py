"""Parents of classes: from a file, or WordNet's hypernyms.

A file has one `child<TAB>parent` per line, or is the list of classes with a column `parent` (`classes.py`). A parent
may be another class or a group that is no class, a group may have parents of its own, and a child several parents (one
line each). Lines about names that have nothing to do with the classes are ignored.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_relabel.config.checks import regular_file
from hf_relabel.errors import SourceError
from hf_relabel.sources.classes import has_parents, read_class_list
from hf_relabel.sources.wordnet import WORDNET, data_digest, wordnet_hypernyms

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hierarchy:
    """The classes and their ancestors.

    Args:
        nodes: Names of the C classes, in their order, and then of the groups above them.
        above: Whether a node is a class or one of its ancestors, bool [C, nodes].
        depth: Steps from each node to the farthest root above it, int64 [nodes]; 0 for a root.
        origin: Where it comes from, for reports.
    """

    nodes: list[str]
    above: np.ndarray
    depth: np.ndarray
    origin: str

    @property
    def ancestors(self) -> dict[int, frozenset[int]]:
        """For each class that has any, the other classes that are its ancestors."""
        classes = len(self.above)
        found = {
            label: frozenset(int(node) for node in np.flatnonzero(self.above[label, :classes]) if node != label)
            for label in range(classes)
        }
        return {label: others for label, others in found.items() if others}

    def roll_up(self, sets: np.ndarray) -> np.ndarray:
        """Label sets with all ancestors of their labels, bool [N, nodes], from bool [N, C]."""
        return (sets.astype(np.float32) @ self.above.astype(np.float32)) > 0


def read_hierarchy(parents: str, class_names: Sequence[str]) -> Hierarchy:
    """Read the parents of classes.

    Args:
        parents: A file, or `wordnet`.
        class_names: Names of the C classes.

    Raises:
        SourceError: The file or WordNet cannot be read, a line has another form, a name is its own ancestor, or no
            class is a child.
    """
    if parents == WORDNET:
        found = wordnet_hypernyms(class_names)
        if found.unknown:
            logger.warning(
                "WordNet: %d of %d classes are not in it and have no parents, such as %r",
                *(len(found.unknown), len(class_names), found.unknown[0]),
            )
        origin, edges = found.origin, found.parents
    else:
        origin, edges = parents, _read_file(parents)
        if not any(name in edges for name in class_names):
            raise SourceError(
                f"{parents}: none of the {len(class_names)} classes, such as {class_names[0]!r}, is a child in it; use "
                "the names of the classes"
            )
    nodes = _with_ancestors(origin, class_names, edges)
    return _hierarchy(origin, nodes, len(class_names), edges)


def identity(parents: str) -> dict[str, str]:
    """Name and SHA-256 of a file of parents or of WordNet's nouns, for the record of a build."""
    if parents == WORDNET:
        return {"name": WORDNET, "sha256": data_digest()}
    return {"name": Path(parents).name, "sha256": hashlib.sha256(regular_file(Path(parents)).read_bytes()).hexdigest()}


def _read_file(path: str) -> dict[str, list[str]]:
    """The parents of each child in a file."""
    try:
        lines = regular_file(Path(path)).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(
            f"{path}: cannot be read ({reason}); give a file with lines `child<TAB>parent`, or {WORDNET}"
        ) from error
    if lines and has_parents(lines[0]):
        classes = read_class_list(path)
        name_of = dict(zip(classes.keys or classes.names, classes.names, strict=True))
        pairs = zip(classes.names, classes.parents or (), strict=True)
        return {name: [name_of.get(parent, parent)] for name, parent in pairs if parent}
    parents: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        child, _, parent = (part.strip() for part in line.partition("\t"))
        if not child or not parent or "\t" in parent:
            raise SourceError(f"{path}, line {number}: needs the form `child<TAB>parent`, got {line[:60]!r}")
        parents.setdefault(child, []).append(parent)
    return parents


def _with_ancestors(origin: str, class_names: Sequence[str], parents: Mapping[str, list[str]]) -> list[str]:
    """The classes and then the groups above them; raises SourceError for a name that is its own ancestor."""
    nodes = list(class_names)
    known = set(nodes)
    for node in nodes:  # grows while it is read
        for parent in parents.get(node, ()):
            if parent not in known:
                known.add(parent)
                nodes.append(parent)
    left = {node: sum(parent in known for parent in parents.get(node, ())) for node in nodes}
    children: dict[str, list[str]] = {}
    for node in nodes:
        for parent in parents.get(node, ()):
            children.setdefault(parent, []).append(node)
    free = [node for node in nodes if not left[node]]
    for node in free:  # grows while it is read
        for child in children.get(node, ()):
            left[child] -= 1
            if not left[child]:
                free.append(child)
    if len(free) < len(nodes):
        stuck = next(node for node in nodes if left[node])
        raise SourceError(f"{origin}: {stuck!r} is an ancestor of itself, or below such a name; remove the circle")
    return nodes


def _hierarchy(origin: str, nodes: list[str], classes: int, parents: Mapping[str, list[str]]) -> Hierarchy:
    place = {node: number for number, node in enumerate(nodes)}
    above: dict[str, set[str]] = {}
    depth: dict[str, int] = {}

    def visit(node: str) -> None:
        waiting = [node]
        while waiting:  # no recursion: WordNet's chains are long
            last = waiting[-1]
            todo = [parent for parent in parents.get(last, ()) if parent not in above]
            if todo:
                waiting += todo
                continue
            waiting.pop()
            own = parents.get(last, ())
            above[last] = {last}.union(*(above[parent] for parent in own))
            depth[last] = max((depth[parent] + 1 for parent in own), default=0)

    for node in nodes:
        visit(node)
    matrix = np.zeros((classes, len(nodes)), bool)
    for label in range(classes):
        matrix[label, [place[node] for node in above[nodes[label]]]] = True
    return Hierarchy(nodes, matrix, np.array([depth[node] for node in nodes], np.int64), origin)
