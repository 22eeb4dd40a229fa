"""A finished labeler for photos in memory.

relabeler = Relabeler.from_pretrained("runs/demo")
result = relabeler("photo.jpg")
result.labels, result.scores, result.regions[0].mask
"""

import os
from typing import Any, Literal, overload

import numpy as np
from PIL import Image

from hf_relabel.api.inputs import GivenImages, read_input
from hf_relabel.api.result import Result
from hf_relabel.config import BackboneConfig, BuildConfig, Config, ProposeConfig, RunConfig
from hf_relabel.errors import ImageReadError, UsageError
from hf_relabel.labeling.image_labels import LabelRule
from hf_relabel.run.quiet import quiet_libraries
from hf_relabel.run.ranks import current_rank
from hf_relabel.sources.decoding import decode
from hf_relabel.stages.annotate import Annotator
from hf_relabel.stages.finished import find_labeler

IMAGES_AT_ONCE = 64
"""Images whose features are in memory at the same time."""

ImageInput = str | os.PathLike[str] | Image.Image | np.ndarray
"""A path, a PIL image, or uint8 [H, W], [H, W, 3] or [H, W, 4]."""

SETTINGS = ("threshold", "calibrated", "class_thresholds", "exclude_classes", "region_score", "include_global")
"""Settings of `build` that apply to single images."""


class Relabeler:
    """Labels photos with a finished labeler and its backbone, which stay loaded.

    The labels, scores and masks are those that `hf-relabel run --labeler` gives the same photos without labels.

    Attributes:
        class_names: Names of the classes.
    """

    def __init__(self, annotator: Annotator, rule: LabelRule):
        """Use `from_pretrained`."""
        self._annotator = annotator
        self._rule = rule

    @property
    def class_names(self) -> list[str]:
        """Names of the classes that the labeler knows."""
        return list(self._annotator.class_names)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        backbone: str | None = None,
        region_backbone: str | None = None,
        threads: int | None = None,
        batch_size: int = 16,
        **build: Any,
    ) -> "Relabeler":
        """Load a labeler and its backbone.

        Args:
            name: A run's folder, a labeler's folder, or `user/name` on the Hub.
            revision: Branch, tag or commit on the Hub.
            backbone: Folder of the backbone, if the labeler was trained on a local one and its run does not say where
                it is.
            region_backbone: Likewise the folder of the second backbone, if the labeler has one (`region_model`).
            threads: Images that are computed in parallel on a CPU; by default one per core.
            batch_size: Images in one forward pass on a GPU.
            **build: Settings of `build`: threshold, calibrated, class_thresholds, exclude_classes, region_score,
                include_global.

        Raises:
            RelabelError: The labeler or its backbone cannot be loaded, or a setting is not valid.

        Example:
            >>> relabeler = Relabeler.from_pretrained("runs/demo", threshold=0.7)
        """
        if unknown := sorted(set(build) - set(SETTINGS)):
            raise UsageError(f"{unknown[0]}: no such setting of a Relabeler; it has {', '.join(SETTINGS)}")
        quiet_libraries()
        path = os.fspath(name)
        finished = find_labeler(f"{path}@{revision}" if revision else path)
        config = Config(
            backbone=BackboneConfig(model=backbone or BackboneConfig().model, region_model=region_backbone),
            propose=ProposeConfig(),
            build=BuildConfig(**build),
            run=RunConfig(threads=threads, batch_size=batch_size, workers=0),
        )
        annotator = Annotator(finished, config, current_rank(config.run, sets_threads=False))
        return cls(annotator, annotator.rule(config.build))

    @overload
    def __call__(self, images: ImageInput, *, on_error: Literal["raise", "return"] = "raise") -> Result: ...

    @overload
    def __call__(
        self, images: list[Any] | tuple[Any, ...], *, on_error: Literal["raise", "return"] = "raise"
    ) -> list[Result]: ...

    def __call__(
        self, images: ImageInput | list[Any] | tuple[Any, ...], *, on_error: Literal["raise", "return"] = "raise"
    ) -> Result | list[Result]:
        """Label an image or several.

        Args:
            images: A path, a PIL image or an array (uint8 [H, W], RGB [H, W, 3] or RGBA [H, W, 4]), or a list of
                these.
            on_error: What to do with an image that cannot be read: raise, or return a result with its `error`.

        Returns:
            A result for an image, a list of results for a list.

        Raises:
            ImageReadError: An image cannot be read.
            UsageError: An input is not an image.
        """
        if isinstance(images, list | tuple):
            return self._label(list(images), on_error)
        return self._label([images], on_error)[0]

    def _label(self, images: list[Any], on_error: str) -> list[Result]:
        found: list[Result] = []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            part = images[start : start + IMAGES_AT_ONCE]
            found += self._label_part([read_input(image, start + at) for at, image in enumerate(part)], on_error)
        return found

    def _label_part(self, inputs: list[tuple[str, str | bytes]], on_error: str) -> list[Result]:
        names = [name for name, _ in inputs]
        opened = GivenImages([item for _, item in inputs])
        results = []
        for number, annotated in enumerate(self._annotator(names, opened, self._rule)):
            if annotated.row is not None:
                with opened.open(number) as file:
                    image = decode(file).image
                results.append(Result.of_row(names[number], annotated.row, image, self._annotator.class_names))
            elif on_error == "raise":
                raise ImageReadError(f"{names[number]}: {annotated.error}")
            else:
                results.append(Result(names[number], [], [], [], annotated.error, None, self._annotator.class_names))
        return results
