"""A finished labeler for other images: where it is, and the settings that its images must be prepared with.

The labeler's calibration holds for regions that were proposed as on its training images, so its backbone and its
settings of `propose` apply to the new images too. Its record has all of them but the place of a local backbone, which
the `config.yaml` of its run has.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_relabel.config import REGION_BACKBONE, BackboneConfig, Config, FeatureConfig, ProposeConfig, as_dict
from hf_relabel.config.settings_file import read_yaml
from hf_relabel.errors import LabelerError, UsageError
from hf_relabel.hub.labelers import download_labeler
from hf_relabel.labeling.labeler import CONFIG, read_config
from hf_relabel.run.job import RECORDS

RUN_CONFIG = "config.yaml"

MODEL_CONFIG = "config.json"

GIVEN_BY = {
    "model": "--backbone.model (of annotate: --backbone; in Python: backbone=)",
    "region_model": "--backbone.region_model (of annotate: --region-backbone; in Python: region_backbone=)",
}
"""How to name the folder of a backbone, by its setting."""

OF_PROPOSALS = ("generators", "tau", "max_masks", "merge_masks", "windows")
"""Settings of `propose` that a calibration depends on."""


@dataclass(frozen=True)
class FinishedLabeler:
    """A stored labeler.

    Args:
        name: What the user called it.
        folder: Its folder.
        record: Its `config.json`.
    """

    name: str
    folder: Path
    record: dict[str, Any]

    @property
    def class_names(self) -> list[str]:
        """Its classes."""
        return list(self.record["class_names"])

    def configure(self, config: Config) -> Config:
        """Return the configuration with the labeler's backbone and its settings of `propose`.

        Raises:
            UsageError: A setting of `propose` contradicts those of the labeler, or its masks came from a file.
            LabelerError: The labeler's backbone is a local folder that is not known.
        """
        try:
            backbone, propose = self.backbone(config.backbone), self.propose(config.propose)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise LabelerError(f"{self.name}: its record names no valid backbone or proposals ({error})") from error
        return dataclasses.replace(config, backbone=backbone, propose=propose)

    def backbone(self, given: BackboneConfig) -> BackboneConfig:
        """The labeler's backbone; what the given one sets otherwise than by default is kept, to be checked later.

        Raises:
            LabelerError: The backbone is a local folder that is not known.
        """
        identity = self.record["backbone"]
        default = BackboneConfig()
        found: dict[str, Any] = {key: identity[key] for key in ("image_size", "dtype") if key in identity}
        for key in ("proposal_feature", "region_feature"):
            if key in identity:
                found[key] = FeatureConfig(**identity[key])
        if given.model == default.model:
            found |= {"model": self._model(identity, "model"), "revision": identity.get("revision")}
        if (region := identity.get(REGION_BACKBONE)) is not None:
            found |= {
                "region_feature": FeatureConfig(**region["region_feature"]),
                "region_image_size": region["image_size"],
                "region_revision": region.get("revision"),
                "region_model": given.region_model or self._model(region, "region_model"),
            }
        kept = {key: value for key, value in vars(given).items() if value != getattr(default, key)}
        return dataclasses.replace(default, **(found | kept))

    def _model(self, identity: dict[str, Any], key: str) -> str:
        """The Hub id of a backbone, or the folder that the labeler's run took it from; `key` is its setting."""
        if not identity.get("weights_sha256"):
            return str(identity["model"])
        path = _model_in(self.folder.parent / RUN_CONFIG, key)
        # A relative path started from where the run was started, which is often above its folder.
        places = [Path(), *self.folder.resolve().parents] if path else []
        if found := next((place / str(path) for place in places if (place / str(path) / MODEL_CONFIG).is_file()), None):
            return str(found)
        where = f" (it was {path})" if path else ""
        raise LabelerError(
            f"{self.name}: its backbone is the local model {identity['model']!r}{where}, weights SHA-256 "
            f"{identity['weights_sha256'][:12]}; give its folder with {GIVEN_BY[key]}"
        )

    def propose(self, given: ProposeConfig) -> ProposeConfig:
        """The labeler's settings of `propose`; `masks` is the given one.

        Raises:
            UsageError: A given setting contradicts those of the labeler, or the masks must come from a file.
        """
        made = self.record["training"].get("upstream", {}).get("proposals", {}).get("inputs", {}).get("propose")
        if made is None:  # of an older version
            return given
        if ("masks" in made) != (given.masks is not None):
            way = "from a file; give one for these images with --propose.masks" if "masks" in made else "from no file"
            raise UsageError(f"{self.name}: this labeler was trained on masks {way}")
        default, stored = as_dict(ProposeConfig()), {key: made[key] for key in OF_PROPOSALS if key in made}
        for key, value in stored.items():
            if getattr(given, key) not in (value, default[key]):
                raise UsageError(
                    f"propose.{key}: is {getattr(given, key)!r}, but {self.name} was trained and calibrated with "
                    f"{value!r}; leave it out, or train a labeler with it"
                )
        # Views are only for training.
        return dataclasses.replace(given, **stored, views=0)


def find_labeler(name: str) -> FinishedLabeler:
    """Find a labeler: a run's folder, a labeler's own folder, or `user/name[@revision]` on the Hub.

    Raises:
        LabelerError: There is none, or it is damaged.
        HubError: It cannot be downloaded.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        places = [folder for folder in (path / "labeler", path) if (folder / CONFIG).is_file()]
        if not places:
            raise LabelerError(
                f"{name}: no labeler; give a run whose `train` stage is complete, or a folder with {CONFIG} and "
                "model.safetensors"
            )
        folder = places[0]
    elif path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        what = "is a file" if path.exists() else "no such folder, and not user/name on the Hub"
        raise LabelerError(f"{name}: {what}; give a run, a labeler's folder or a Hub id")
    else:
        folder = download_labeler(name)
    record = read_config(folder)
    if record is None or not {"class_names", "backbone", "training", "weights_sha256"} <= record.keys():
        raise LabelerError(f"{folder / CONFIG}: not a labeler's record; give a run, a labeler's folder or a Hub id")
    return FinishedLabeler(name, folder, record)


def refuse_own(labeler: FinishedLabeler, run: Path) -> None:
    """Refuse to work on other images in the labeler's own run.

    Raises:
        UsageError: The run is the labeler's own.
    """
    own = run / "labeler"
    if (own / RECORDS["labeler"]).exists() and own.resolve() == labeler.folder.resolve():
        raise UsageError(
            f"--labeler {labeler.name}: is the labeler of this run itself; choose another --run.dir for other images"
        )


def _model_in(path: Path, key: str) -> str | None:
    """The backbone's `model` or `region_model` in a run's configuration; None if there is no such file."""
    try:
        content = read_yaml(str(path), str(path))
    except UsageError:
        return None
    backbone = content.get("backbone") if isinstance(content, dict) else None
    model = backbone.get(key) if isinstance(backbone, dict) else None
    return model if isinstance(model, str) else None
