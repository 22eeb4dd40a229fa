"""Settings that several commands share: where the images are, and where the true labels are."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_relabel.commands.options import option
from hf_relabel.config import SourceConfig
from hf_relabel.errors import UsageError

if TYPE_CHECKING:
    from hf_relabel.evaluation.datasets import LabeledImages
    from hf_relabel.evaluation.ground_truth import Truth


@dataclass(frozen=True)
class TruthSettings:
    """True labels.

    Args:
        truth: ReaL's real.json (or a file of the same form, as ImageNet-Segments has), a .json, .jsonl or .parquet
            file by image id or file name, or a dataset user/name@revision.
        truth_column: Column with the classes.
        truth_id_column: Column with the image ids.
        truth_split: Split of a truth dataset.
    """

    truth: str | None = option(None, "FILE")
    truth_column: str = option("labels", "NAME")
    truth_id_column: str = option("image_id", "NAME")
    truth_split: str | None = option(None, "NAME")

    def read(self) -> "Truth":
        """Read the true labels."""
        from hf_relabel.evaluation.ground_truth import read_truth

        if self.truth is None:
            raise UsageError("--truth is missing; name the file or dataset with the true labels")
        return read_truth(self.truth, self.truth_column, self.truth_id_column, self.truth_split)


@dataclass(frozen=True)
class ImageSettings:
    """Images.

    Args:
        images: Image folder with one subfolder per class, or a dataset.
        dataset: --images is a dataset's folder or Hub id, not an image folder.
        images_config: Configuration of the dataset.
        images_split: Split of the dataset.
        images_revision: Branch, tag or commit of the dataset.
        image_column: Column with the image.
        label_column: Column with the class.
        labels_column: Column of a dataset with a list of classes, or of objects with one class each.
        id_column: Column with a unique name for each image.
        class_names: File with the classes, one per line (.txt), or folder and name (.tsv).
        limit: Use only the first images in the order of their ids.
    """

    images: str | None = option(None, "PATH")
    dataset: bool = False
    images_config: str | None = option(None, "NAME")
    images_split: str | None = option(None, "NAME")
    images_revision: str | None = option(None, "REVISION")
    image_column: str = option("image", "NAME")
    label_column: str = option("label", "NAME")
    labels_column: str | None = option(None, "NAME")
    id_column: str | None = option(None, "NAME")
    class_names: str | None = option(None, "FILE")
    limit: int | None = None

    def source_config(self, split: str) -> SourceConfig:
        """Return the source that these settings name; `split` is used if they name none.

        Raises:
            SourceError: There is no such folder or dataset.
        """
        from hf_relabel.sources.path import check_source_path

        config = SourceConfig(
            kind="dataset" if self.dataset else "folder",
            path=self.images or "",
            config_name=self.images_config,
            split=self.images_split or split,
            revision=self.images_revision,
            image_column=self.image_column,
            label_column=self.label_column,
            id_column=self.id_column,
            class_names=self.class_names,
            limit=self.limit,
        )
        check_source_path(config, option="--images")
        return config

    def open_labeled(self, split: str) -> "LabeledImages":
        """Open the images with their own labels; `split` is used if the settings name none."""
        from hf_relabel.evaluation.datasets import from_dataset, from_source
        from hf_relabel.sources.path import check_source_path

        if not self.labels_column:
            return from_source(self.source_config(split))
        if not self.dataset:
            raise UsageError("--labels-column: only a dataset has columns; add --dataset")
        check_source_path(SourceConfig("dataset", (self.images or "").partition("@")[0]), option="--images")
        path = f"{self.images}@{self.images_revision}" if self.images_revision else self.images or ""
        return from_dataset(
            path,
            self.images_split or split,
            config_name=self.images_config,
            labels_column=self.labels_column,
            image_column=self.image_column,
            id_column=self.id_column,
        )
