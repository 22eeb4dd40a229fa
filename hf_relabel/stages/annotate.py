"""Annotate: propose, label and build for a few images in memory, with a finished labeler; nothing is written.

It calls what the stages call, so an image gets the labels, scores and masks that a run with `--labeler` gives it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hf_relabel.config import BuildConfig, Config
from hf_relabel.errors import LabelerError
from hf_relabel.labeling.image_labels import LabelRule
from hf_relabel.labeling.labeler import Labeler
from hf_relabel.labeling.regions import layout_of
from hf_relabel.run.job import Job
from hf_relabel.run.ranks import Rank, thread_pool
from hf_relabel.run.shards import Shard, ShardResult
from hf_relabel.schema import NO_LABEL, REGIONS, release_schema
from hf_relabel.sources.source import Images, Source
from hf_relabel.stages.build import label_rule, release_row
from hf_relabel.stages.finished import FinishedLabeler
from hf_relabel.stages.label import NEW, label_images
from hf_relabel.stages.propose import Proposer
from hf_relabel.vision.families import resolve
from hf_relabel.vision.pair import load_backbone

NOT_THE_FIRST = 1
"""Number of the shard of images: in a run's first shard, images without proposals mean that the settings are wrong."""


@dataclass(frozen=True)
class Annotated:
    """What was found in an image.

    Args:
        row: Its row of a release (`schema.release_features`), with null as its original label; None with an error.
        error: Why the image could not be read; None if it was read.
    """

    row: dict[str, Any] | None
    error: str | None


class Annotator:
    """A loaded backbone and labeler.

    Attributes:
        class_names: Names of the classes.
        labeler: The labeler.
    """

    def __init__(self, finished: FinishedLabeler, config: Config, rank: Rank):
        """Load the labeler and its backbone.

        Args:
            finished: The labeler.
            config: Settings of a run; the labeler's backbone and settings of `propose` replace those.
            rank: Where to compute.

        Raises:
            LabelerError: The labeler is damaged or belongs to another backbone.
            BackboneError: The backbone cannot be loaded.
        """
        self._config = resolve(finished.configure(config))
        self._rank = rank
        self._backbone = load_backbone(self._config.backbone, rank.device)
        self.labeler = Labeler.load(finished.folder, self._backbone.identity)
        self.labeler.heads.to(rank.device)
        self.class_names = self.labeler.class_names
        self._name = finished.name

    def rule(self, build: BuildConfig) -> LabelRule:
        """The rule that decides which labels are listed.

        Raises:
            LabelerError: Calibrated scores are asked for, but the labeler has none.
            UsageError: The settings name a class that the labeler does not have.
        """
        if build.calibrated and self.labeler.scores.calibration is None:
            raise LabelerError(
                f"{self._name}: its scores could not be calibrated, because it was trained on too few images or "
                "without folds; --no-calibrated (in Python: calibrated=False) takes its softmax scores, which are far "
                "too high on photos"
            )
        return label_rule(build, self.class_names)

    def __call__(self, image_ids: Sequence[str], images: Images, rule: LabelRule) -> list[Annotated]:
        """Annotate images.

        Args:
            image_ids: A name for each.
            images: Opens them.
            rule: Which labels are listed.
        """
        labels = np.full(len(image_ids), NO_LABEL, np.int32)
        source = Source("folder", "new", self.class_names, list(image_ids), labels, images)
        job = Job(self._config, self._rank)
        job.__dict__["source"] = source
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a run: the last bits of a sum depend on it
        try:
            with thread_pool(self._rank.threads) as pool:
                shard = Shard(NOT_THE_FIRST, 0, len(image_ids))
                proposed = Proposer(job, self._backbone, pool).process(shard, lambda done: None)
            return self._describe(proposed, rule)
        finally:
            torch.set_num_threads(threads)

    def _describe(self, proposed: ShardResult, rule: LabelRule) -> list[Annotated]:
        """Label the proposals, and make the rows of a release."""
        assert proposed.features is not None
        rows = proposed.table.to_pylist()
        regions = layout_of(proposed.table).load(proposed.features)
        whole = _rows_of(proposed.features, [row["feature_row"] for row in rows])
        labeled = label_images(self.labeler, rows, regions, whole, np.full(len(rows), NEW), self._config.label.top_k)
        stored = pa.Table.from_pylist(labeled, schema=REGIONS).to_pylist()  # scores are stored as float32
        schema = release_schema("regions", self.class_names)
        found = []
        for image, of_image in zip(rows, stored, strict=True):
            if image["error"] is not None:
                found.append(Annotated(None, image["error"]))
                continue
            row = pa.Table.from_pylist([release_row(image, of_image, rule)], schema=schema).to_pylist()[0]
            found.append(Annotated(row, None))
        return found


def _rows_of(features: np.ndarray, rows: list[int]) -> np.ndarray:
    """Rows of features, float16 [n, dim]; zeros where the row is -1."""
    found = np.zeros((len(rows), features.shape[1]), features.dtype)
    for place, row in enumerate(rows):
        if row >= 0:
            found[place] = features[row]
    return found
