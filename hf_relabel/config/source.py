"""Settings of the source: which images, which labels, which classes."""

from dataclasses import dataclass
from typing import Literal

from hf_relabel.config.checks import require


@dataclass(frozen=True)
class SourceConfig:
    """The single-label dataset to relabel.

    Args:
        kind: `folder` has one subfolder per class, or any layout and a file of labels; `dataset` is anything that
            `datasets.load_dataset` opens.
        path: The image folder, or the dataset's local folder or Hub id, or a file: a CSV, JSONL or Parquet file of
            labels next to its images (`folder`) or a file with the rows of a dataset (`dataset`).
        config_name: Configuration of the Hub dataset.
        split: Split to relabel; for a folder only the name of the result's split. A list relabels several: the labeler
            is trained on the first and labels the others. Their images are in splits of these names, or in folders
            below the path (`val` for validation), or where `NAME:PLACE` says: a folder, or another dataset.
            `NAME:PLACE:STORED` is a split that is called STORED in that dataset, `NAME::STORED` in this one.
        revision: Branch, tag or commit of the Hub dataset.
        streaming: Read a Parquet or WebDataset dataset part by part instead of downloading it first.
        labels: For a folder without class subfolders: CSV, TSV, JSONL or Parquet file with a row per image, its name in
            `image_column` (or a column such as `file_name`) and its class in `label_column`.
        image_column: Column with the image, as `datasets.Image`, bytes, {bytes, path} or a path.
        image_root: Folder that the paths in `image_column` start from; by default the dataset's folder.
        label_column: Column with the class; `json.label` is the field `label` of the column `json`.
        id_column: Column with a unique name for each image; by default the stored path, or split and row number.
        id_from: `row` takes split and row number as ids even where paths are stored, which streaming reads fastest.
        class_names: File with the classes, one per line: a class name (.txt), or folder name, tab, class name (.tsv).
            A column with the header `parent` may follow, for --build.parents.
        unlabeled: What to do with an image whose label is missing, -1 or not among the classes: `refuse` the dataset,
            `skip` the image and list it in the run's `source-excluded.jsonl`, or `keep` it for a finished labeler
            (`--labeler`).
        labeled: Whether the images have labels. If false, labels are ignored, and a folder's images may be anywhere
            below it; such images need a finished labeler (`--labeler`).
        only_classes: Use only these classes: a list of names or folder names, or a .txt file with one per line.
        only_ids: Use only the images whose ids are in this .txt file, one per line.
        limit: Use only the first images in the order of their ids.
        max_pixels: Number of pixels above which an image counts as unreadable; it protects against images that fill the
            memory.
    """

    kind: Literal["folder", "dataset"] = "folder"
    path: str = ""
    config_name: str | None = None
    split: list[str] | str = "train"
    revision: str | None = None
    streaming: bool = False
    labels: str | None = None
    image_column: str = "image"
    image_root: str | None = None
    label_column: str = "label"
    id_column: str | None = None
    id_from: Literal["auto", "row"] = "auto"
    class_names: str | None = None
    unlabeled: Literal["refuse", "skip", "keep"] = "refuse"
    labeled: bool = True
    only_classes: list[str] | str | None = None
    only_ids: str | None = None
    limit: int | None = None
    max_pixels: int = 178_956_970

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit > 0, "source.limit", self.limit, "1 or more, or null")
        names = self.split_names
        require(len(set(names)) == len(names) > 0, "source.split", self.split, "one name or more, each once")
        require(self.max_pixels > 0, "source.max_pixels", self.max_pixels, "1 or more")
        is_folder = self.kind == "folder"
        require(not (is_folder and self.streaming), "source.streaming", True, "false for source.kind folder")
        require(is_folder or self.labels is None, "source.labels", self.labels, "null for source.kind dataset")
        require(not is_folder or self.id_column is None, "source.id_column", self.id_column, "null for a folder")
        ok = self.id_column is None or self.id_from == "auto"
        require(ok, "source.id_from", self.id_from, "auto if source.id_column is set")

    @property
    def split_names(self) -> list[str]:
        """Names of the splits, the one to train on first."""
        entries = [self.split] if isinstance(self.split, str) else self.split
        return [entry.partition(":")[0] for entry in entries]
