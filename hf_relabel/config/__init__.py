"""One tree of frozen dataclasses: every setting, its default and its meaning.

A YAML file contains only what differs from the defaults; the command line overrides any setting by its dotted name
(`--backbone.image_size 448`). Invalid values are refused, by name, when the configuration is created.
Settings that depend on the backbone are null or `auto` by default, and `vision/families.py` chooses them by its type.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from hf_relabel.config.backbone import REGION_BACKBONE, BackboneConfig, FeatureConfig, FeatureKind
from hf_relabel.config.run import RunConfig
from hf_relabel.config.source import SourceConfig
from hf_relabel.config.stages import BootstrapConfig, BuildConfig, LabelConfig, ProposeConfig, ScoreConfig, TrainConfig
from hf_relabel.errors import UsageError

__all__ = [
    "REGION_BACKBONE",
    "BackboneConfig",
    "BootstrapConfig",
    "BuildConfig",
    "Config",
    "FeatureConfig",
    "FeatureKind",
    "LabelConfig",
    "ProposeConfig",
    "RunConfig",
    "ScoreConfig",
    "SourceConfig",
    "TrainConfig",
    "as_dict",
]


@dataclass(frozen=True)
class Config:
    """All settings of a run, one section per stage and one each for source, backbone and run.

    Args:
        labeler: A finished labeler to use instead of training one: another run's folder, a labeler's folder or a Hub id
            (user/name or user/name@revision). Its backbone and its settings of `propose` apply.
    """

    source: SourceConfig = field(default_factory=SourceConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    propose: ProposeConfig = field(default_factory=ProposeConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    build: BuildConfig = field(default_factory=BuildConfig)
    run: RunConfig = field(default_factory=RunConfig)
    labeler: str | None = None

    def __post_init__(self) -> None:
        source = self.source
        # Of several splits, only the first trains; whether its images have labels is checked when they are read.
        keeps = source.unlabeled == "keep" and len(source.split_names) == 1
        if self.labeler is None and (keeps or not source.labeled):
            key, value = ("labeled", "false") if not source.labeled else ("unlabeled", "keep")
            raise UsageError(
                f"source.{key}: {value}, but no labeler can be trained on images without labels; name a finished one "
                "with --labeler"
            )


def as_dict(config: Any) -> dict[str, Any]:
    """Convert a configuration or one of its sections to nested dictionaries, ready for YAML or JSON."""
    return dataclasses.asdict(config)
