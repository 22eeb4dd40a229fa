"""Labels compared with the truth along a hierarchy: naming a parent counts at the parent's level.

Labels and truth are extended by all of their ancestors, and precision, recall and F1 are taken over the extended sets
(hierarchical precision and recall, Kiritchenko et al., "Functional Annotation of Genes Using Hierarchical Text
Categorization", 2005), in all and by the depth of the classes and groups.
"""

from dataclasses import astuple, dataclass

import numpy as np

from hf_relabel.evaluation.metrics import PRF, prf
from hf_relabel.evaluation.report import render
from hf_relabel.sources.hierarchy import Hierarchy

_BLOCK = 8192  # images at a time, to limit memory


@dataclass(frozen=True)
class RolledUp:
    """Label sets compared with the truth at every level.

    Args:
        all: Micro-averaged over classes and groups.
        by_depth: The same by depth; 0 are the roots.
        conflicts: Number of images whose labels contain a class and one of its ancestors.
    """

    all: PRF
    by_depth: dict[int, PRF]
    conflicts: int


def rolled_up(rows: np.ndarray, classes: np.ndarray, truth: np.ndarray, hierarchy: Hierarchy) -> RolledUp:
    """Compare label sets along a hierarchy.

    Args:
        rows: Image of each listed label, ascending, int64 [M].
        classes: Class of each listed label, int64 [M].
        truth: True label sets, bool [N, C].
        hierarchy: The ancestors of the C classes.
    """
    counts = np.zeros((3, len(hierarchy.nodes)))  # found, claimed and true labels of each node
    conflicts = 0
    for start in range(0, len(truth), _BLOCK):
        true = truth[start : start + _BLOCK]
        first, last = np.searchsorted(rows, [start, start + len(true)])
        predicted = np.zeros(true.shape, bool)
        predicted[rows[first:last] - start, classes[first:last]] = True
        found, real = hierarchy.roll_up(predicted), hierarchy.roll_up(true)
        counts += np.stack([(found & real).sum(axis=0), found.sum(axis=0), real.sum(axis=0)])
        both = np.zeros(len(true), bool)
        for label, ancestors in hierarchy.ancestors.items():
            both |= predicted[:, label] & predicted[:, sorted(ancestors)].any(axis=1)
        conflicts += int(both.sum())
    by_depth = {
        depth: prf(*counts[:, hierarchy.depth == depth].sum(axis=1).tolist())
        for depth in range(int(hierarchy.depth.max()) + 1)
    }
    return RolledUp(prf(*counts.sum(axis=1).tolist()), by_depth, conflicts)


def describe_levels(origin: str, levels: RolledUp) -> str:
    """Format the comparison as text; `origin` is that of the hierarchy."""
    rows = [("classes and groups", *astuple(levels.all))]
    rows += [(f"depth {depth}", *astuple(level)) for depth, level in levels.by_depth.items()]
    return (
        f"Along {origin}, with all ancestors of each label; roots have depth 0:\n"
        + render(["level", "precision", "recall", "F1"], rows)
        + f"\n{levels.conflicts} images list a class and one of its ancestors"
    )
