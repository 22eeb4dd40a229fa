"""Ways to label the images of a run: with masks and without, with a labeler and without.

    bootstrap             the pipeline's default
    label maps            the pipeline with ReLabel's label maps, given ones or those of a classifier of whole images
    label map, no labeler the label map's most probable class of each proposal (figure 2d of arXiv 2603.05729)
    masked crops          a classifier of whole images on each proposal, cut out (figure 2c)
    assume negative       multi-label learning of whole images, without masks (`single_positive.py`)
    EM + APL              the same with a strong method of that literature
    ..., calibrated       with scores that the pipeline's calibration made from the given labels

All start from the given labels and from the features that `propose` stored, and every image is labeled by models that
were not fitted on it, as far as the method allows it.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hf_relabel.comparison.crops import Encoder, encode_all, masked_crop
from hf_relabel.comparison.single_positive import FOLDS, Method, predict_single_positive
from hf_relabel.comparison.whole_image import WholeImageClassifier, write_label_map
from hf_relabel.config import Config, RunConfig, ScoreConfig, SourceConfig
from hf_relabel.errors import ImageReadError, StageError
from hf_relabel.labeling.assignment import is_primary
from hf_relabel.labeling.calibration import EvidenceCounts
from hf_relabel.labeling.discriminant import folds_of
from hf_relabel.labeling.image_labels import calibrated_scores
from hf_relabel.labeling.label_maps import LabelMapError, label_map_path, read_label_map, score_under_mask
from hf_relabel.labeling.regions import ShardRegions, read_regions
from hf_relabel.labeling.scoring import choose
from hf_relabel.review.photos import Photos
from hf_relabel.run.job import Job
from hf_relabel.run.ranks import current_rank
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.store import read_record
from hf_relabel.schema import NO_LABEL
from hf_relabel.stages.pipeline import STAGES
from hf_relabel.vision import masks

SIDE = 1024
"""A large photo may be decoded smaller before it is cropped, but to no fewer pixels per side than this."""

CROSS_FITS = 20
"""Folds of the classifier of whole images, as many as the pipeline's discriminants have."""


def job_with_proposals(run: Path, work: Path, score: ScoreConfig, seed: int) -> Job:
    """A job in a new folder with the proposals of another run."""
    manifest = read_record(run / "proposals" / "manifest.json")
    if manifest is None:
        raise StageError(f"{run}: its `propose` stage is not complete; run `hf-relabel propose --run.dir {run}`")
    config = Config(
        source=SourceConfig(path=str(run)),
        score=score,
        run=RunConfig(dir=str(work), shard_size=manifest["inputs"]["run"]["shard_size"], seed=seed),
    )
    rank = current_rank(config.run)
    snapshot = Job(dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(run))), rank).snapshot
    work.mkdir(parents=True)
    snapshot.save(work)
    os.symlink((run / "proposals").resolve(), work / "proposals")
    return Job(config, rank)


@dataclass(frozen=True)
class Images:
    """The N images that a labeler can be trained on.

    Args:
        shards: The shards' numbers and, for each, which of its images could be read.
        image_ids: Their ids.
        sha256: Hashes of their files.
        labels: Their given labels, int64 [N].
        whole: Features of the whole images, float16 [N, dim].
        class_names: Names of the classes.
        proposals: The propose stage.
    """

    shards: list[tuple[int, np.ndarray]]
    image_ids: list[str]
    sha256: list[str | None]
    labels: np.ndarray
    whole: np.ndarray
    class_names: list[str]
    proposals: ShardFolder

    @classmethod
    def read(cls, job: Job) -> "Images":
        proposals, _ = job.finished("proposals", "propose")
        columns = ["image_id", "sha256", "label", "error", "feature_row"]
        shards, ids, hashes, labels, whole = [], [], [], [], []
        for shard in job.training.shards:
            rows = proposals.read(shard.index, columns).to_pylist()
            read = np.array([row["error"] is None for row in rows])
            kept = [row for row in rows if row["error"] is None]
            shards.append((shard.index, read))
            ids += [row["image_id"] for row in kept]
            hashes += [row["sha256"] for row in kept]
            labels += [row["label"] for row in kept]
            whole.append(np.array(proposals.features(shard.index)[[row["feature_row"] for row in kept]]))
        if NO_LABEL in labels:
            raise StageError(f"{job.folder}: {labels.count(NO_LABEL)} images have no label; nothing to compare with")
        return cls(shards, ids, hashes, np.array(labels), np.concatenate(whole), job.snapshot.class_names, proposals)

    def folds(self, count: int, seed: int) -> np.ndarray:
        """Fold of each image, int64 [N]."""
        return folds_of(self.sha256, count, seed)

    def regions(self) -> Iterator[tuple[int, ShardRegions, np.ndarray]]:
        """The regions of each shard, its number, and the index of each of its images among the N; -1 if unreadable."""
        start = 0
        for shard, read in self.shards:
            places = np.where(read, start + np.cumsum(read) - 1, -1)
            start += int(read.sum())
            yield shard, read_regions(self.proposals, shard), places


@dataclass(frozen=True)
class Ways:
    """The ways to label images; each returns scores, float [N, classes]."""

    run: Path
    work: Path
    data: Images
    label_maps: Path | None
    photos: Photos | None
    encoder: Encoder | None
    seed: int

    def all(self) -> dict[str, Callable[[], np.ndarray]]:
        """The ways by name, in the order of the table."""
        single: dict[str, Callable[[], np.ndarray]] = {}
        methods: tuple[Method, ...] = ("assume negative", "EM + APL")
        for method in methods:
            single[method] = partial(self._single_positive, method, calibrated=False)
            single[f"{method}, calibrated"] = partial(self._single_positive, method, calibrated=True)
        return {
            "bootstrap": lambda: self._pipeline("bootstrap", ScoreConfig()),
            "label maps": self._label_map_pipeline,
            "label map, no labeler": self._label_map_alone,
            "masked crops": self._masked_crops,
            **single,
        }

    @property
    def classes(self) -> int:
        return len(self.data.class_names)

    def _pipeline(self, name: str, score: ScoreConfig) -> np.ndarray:
        job = job_with_proposals(self.run, self.work / name, score, self.seed)
        for stage in ("score", "train", "label"):
            STAGES[stage](job)
        folder, _ = job.finished("regions", "label")
        scores = np.zeros((len(self.data.image_ids), self.classes))
        place = 0
        for shard, _read in self.data.shards:
            for row in folder.read(shard).to_pylist():
                if row["error"] is None:
                    for label, value in calibrated_scores(row).items():
                        scores[place, label] = value
                    place += 1
        return scores

    def _label_map_pipeline(self) -> np.ndarray:
        return self._pipeline("label maps", ScoreConfig(method="label_map", label_maps=str(self._maps())))

    def _label_map_alone(self) -> np.ndarray:
        folder = self._maps()
        scores = np.zeros((len(self.data.image_ids), self.classes))
        for _, regions, places in self.data.regions():
            for image, mine in _proposals(regions):
                try:
                    label_map = read_label_map(label_map_path(folder, regions.image_ids[image]), self.classes)
                except LabelMapError as error:
                    raise StageError(f"{folder}: {regions.image_ids[image]}: {error}") from error
                for region in mine:
                    mask = regions.masks[region].reshape(regions.grid)
                    _keep_top(scores[places[image]], score_under_mask(label_map, mask, self.classes).numpy())
        return scores

    def _maps(self) -> Path:
        """The folder of label maps; without given ones, those of a classifier of whole images.

        Each patch has the logits of the smallest region that covers it.
        """
        if self.label_maps is not None:
            return self.label_maps
        folder = self.work / "maps"
        if folder.exists():
            return folder
        folds = self.data.folds(CROSS_FITS, self.seed)
        teacher = WholeImageClassifier.fit(self.data.whole, self.data.labels, folds, self.classes)
        for _, regions, places in self.data.regions():
            logits = teacher.logits(regions.features, np.maximum(folds[places[regions.image]], 0))
            sizes = regions.masks.sum(axis=1)
            for image in np.flatnonzero(places >= 0):
                mine = np.flatnonzero(regions.image == image)
                if not regions.masks[mine].any(axis=0).all():
                    raise StageError(f"{self.run}: has no windows to make label maps from; give some with --label-maps")
                covering = np.where(regions.masks[mine], sizes[mine, None], np.iinfo(np.int64).max)
                cells = logits[mine[covering.argmin(axis=0)]]
                write_label_map(folder, regions.image_ids[image], cells.reshape(*regions.grid, -1))
        return folder

    def _masked_crops(self) -> np.ndarray:
        if self.photos is None or self.encoder is None:
            raise StageError("the images cannot be read; name their folder with --images")
        data, scores = self.data, np.zeros((len(self.data.image_ids), self.classes))
        whole, crops, owner = [], [], []
        for _, regions, places in data.regions():
            mine = dict(_proposals(regions))
            for image in np.flatnonzero(places >= 0):
                try:
                    picture = self.photos.load(regions.image_ids[image], SIDE).image
                except ImageReadError as error:
                    raise StageError(f"an image cannot be read: {error}") from error
                on_grid = [regions.masks[at].reshape(regions.grid) for at in mine.get(int(image), ())]
                found = [masks.to_image(mask, picture.size) for mask in on_grid]
                images = [picture, *(masked_crop(picture, mask) for mask in found if mask.any())]
                features = encode_all(self.encoder, images)
                whole.append(features[0])
                crops.append(features[1:])
                owner += [places[image]] * (len(images) - 1)
        folds = data.folds(CROSS_FITS, self.seed)
        classifier = WholeImageClassifier.fit(np.stack(whole), data.labels, folds, self.classes)
        logits = classifier.logits(np.concatenate(crops), folds[owner])
        for place, probability in zip(owner, torch.softmax(torch.from_numpy(logits), dim=1).numpy(), strict=True):
            _keep_top(scores[place], probability)
        return scores

    def _single_positive(self, method: Method, calibrated: bool) -> np.ndarray:
        folds = self.data.folds(FOLDS, self.seed)
        logits = predict_single_positive(self.data.whole, self.data.labels, folds, self.classes, method, self.seed)
        if not calibrated:
            return 1 / (1 + np.exp(-logits))
        counts = EvidenceCounts()
        counts.add(logits, self.data.labels)
        chosen = choose({"object": counts})
        if chosen.calibration is None or not chosen.adds:
            return np.zeros(logits.shape)
        return chosen.calibration.of_other(logits)


def _proposals(regions: ShardRegions) -> Iterator[tuple[int, np.ndarray]]:
    """The images of a shard that have proposals of objects, and the indices of these."""
    primary = np.flatnonzero(is_primary(regions))
    for image in np.unique(regions.image[primary]):
        yield int(image), primary[regions.image[primary] == image]


def _keep_top(scores: np.ndarray, probability: np.ndarray) -> None:
    """Take over the most probable class of a region, if no other region shows it more clearly."""
    top = int(probability.argmax())
    scores[top] = max(scores[top], probability[top])
