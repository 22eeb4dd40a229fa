"""The input transform of the classifiers that we train, without the import of transformers, which takes seconds."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hf_relabel.run.store import write_json
from hf_relabel.vision.backbone import Preprocess


@dataclass(frozen=True)
class ClassifierTransform(Preprocess):
    """The input transform of a classifier that we train; other tools can repeat it from its file."""

    filter: Image.Resampling = Image.Resampling.BILINEAR

    def save(self, folder: Path) -> None:
        """Write `preprocessor_config.json`, which makes transformers' ViT image processor do the same steps."""
        value = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": self.side, "width": self.side},
            "resample": int(self.filter),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        write_json(folder / "preprocessor_config.json", value)
