"""Label maps in ReLabel's layout from a labeler's dense predictions, for training code that reads ReLabel's maps.

The backbone's patches are averaged to a grid of 15 x 15 cells, and the labeler classifies each cell as it does a
region. A logit in a map is the cell's logit above that of the background, and 0 where the background is likelier, as a
class outside a cell's top counts as 0 in ReLabel (Yun et al., CVPR 2021). Images that the labeler was trained on are
classified by the head that has not seen them.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path

import torch
from torch.nn import functional

from hf_relabel.config import Config
from hf_relabel.labeling.label_map_folder import RECORD, check_folder, label_map_paths, write_label_map
from hf_relabel.labeling.labeler import Labeler
from hf_relabel.run.ranks import Rank
from hf_relabel.run.shard_folder import MANIFEST, ShardFolder
from hf_relabel.run.snapshot import Snapshot
from hf_relabel.run.store import Fingerprint, atomic_open, read_record, write_json
from hf_relabel.sources.loader import BatchLoader
from hf_relabel.sources.source import Source
from hf_relabel.stages.finished import FinishedLabeler
from hf_relabel.stages.propose import STAGE as PROPOSALS
from hf_relabel.vision.families import resolve
from hf_relabel.vision.pair import identify_backbone, load_backbone

GRID = 15
"""Cells per side, as in ReLabel."""

CLASSES = "classes.txt"


@dataclass
class DenseMaps:
    """What was written: maps, maps that existed, images classified by a fold's head, and unreadable ones by reason."""

    written: int = 0
    kept: int = 0
    held_out: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)


def write_dense_maps(
    finished: FinishedLabeler,
    config: Config,
    source: Source,
    folder: Path,
    rank: Rank,
    *,
    top_k: int = 5,
    overwrite: bool = False,
    tick: Callable[[int], None] = lambda count: None,
) -> DenseMaps:
    """Write `<image id without suffix>.pt`, [2, top_k, 15, 15], for each image, and `classes.txt`.

    Args:
        finished: The labeler.
        config: Settings of a run; the labeler's backbone replaces that of the settings.
        source: The images.
        folder: Folder of the maps; maps that exist are kept.
        rank: Where to compute.
        top_k: Classes per cell.
        overwrite: Make maps that exist again.
        tick: Called with the number of images that were done.

    Raises:
        LabelerError: The labeler is damaged or belongs to another backbone.
        SourceError: Two images would have the same map.
        StageError: The folder has other files, or maps that were made with other settings.
    """
    config = resolve(finished.configure(config))
    identity = identify_backbone(config.backbone)
    labeler = Labeler.load(finished.folder, identity)
    paths = label_map_paths(source.image_ids, folder)
    record = {"labeler": labeler.weights_sha256, "backbone": identity, "grid": GRID, "top_k": top_k}
    check_folder(folder, record, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RECORD, record)
    with atomic_open(folder / CLASSES, "w") as file:
        file.write("\n".join(labeler.class_names) + "\n")
    todo = [index for index, path in enumerate(paths) if overwrite or not path.exists()]
    made = DenseMaps(kept=len(paths) - len(todo))
    tick(made.kept)
    if not todo:
        return made
    backbone = load_backbone(config.backbone, rank.device)
    labeler.heads.to(rank.device)
    trained = _trained_on(finished.folder.parent) if labeler.folds else set()
    loader = BatchLoader(source, backbone.preprocess, backbone.preprocess.side, config.run.batch_size)
    for batch in chain.from_iterable(map(loader.read, _ranges(todo))):
        read = [image for image in batch.images if image.error is None]
        made.unreadable.update(image.error for image in batch.images if image.error is not None)
        if batch.pixels is not None:
            features = backbone(batch.pixels).region
            for image, patches in zip(read, features, strict=True):
                head = 1 + int(labeler.folds_of([image.sha256])[0]) if image.sha256 in trained else 0
                label_map = dense_map(labeler, patches, backbone.grid, head, top_k)
                write_label_map(paths[image.index], label_map, len(labeler.class_names))
                made.written += 1
                made.held_out += int(head > 0)
        tick(len(batch.images))
    return made


def _ranges(indices: list[int]) -> Iterator[range]:
    """Join sorted indices to ranges without gaps."""
    for _, several in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        own = [index for _, index in several]
        yield range(own[0], own[-1] + 1)


@torch.inference_mode()
def dense_map(labeler: Labeler, patches: torch.Tensor, grid: tuple[int, int], head: int, top_k: int) -> torch.Tensor:
    """The label map of an image.

    Args:
        labeler: The labeler.
        patches: Features of the patches, float32 [h * w, dim].
        grid: (h, w).
        head: The labeler's head to use; 0 is the one for new images.
        top_k: Classes per cell.

    Returns:
        The highest logits of each cell and their classes, [2, k, 15, 15] with k <= top_k.
    """
    classes = len(labeler.class_names)
    cells = functional.adaptive_avg_pool2d(patches.T.unflatten(1, grid)[None], GRID)[0].flatten(1).T
    logits = labeler.heads.one(cells, head).float()
    rest = logits[:, classes:] if logits.shape[1] > classes else logits.mean(dim=1, keepdim=True)
    above = (logits[:, :classes] - rest).clamp(min=0)
    top = above.topk(min(top_k, classes), dim=1)
    found = torch.stack([top.values, top.indices.float()]).transpose(1, 2).unflatten(2, (GRID, GRID))
    return found.contiguous()


def _trained_on(run: Path) -> set[str | None]:
    """The hashes of the images that the labeler of a run was trained on; empty if the run's tables are not there."""
    snapshot, manifest = Snapshot.load(run), read_record(run / PROPOSALS / MANIFEST)
    if snapshot is None or manifest is None:
        return set()
    proposals = ShardFolder(run / PROPOSALS, PROPOSALS, Fingerprint(manifest["inputs"]))
    found: list[str | None] = []
    for shard in range(len(manifest["shards"])):
        if len(found) >= snapshot.training_images:  # its split comes first, in shards of its own
            break
        found += proposals.read(shard, ["sha256"])["sha256"].to_pylist()
    return set(found)
