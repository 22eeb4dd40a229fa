"""Limits of the sizes in a model's config.json, checked before anything is allocated."""

from typing import Any

from hf_relabel.config import BackboneConfig
from hf_relabel.errors import BackboneError

MAX_SIZES = {
    "hidden_size": 16_384,
    "hidden_sizes": 16_384,
    "num_hidden_layers": 256,
    "depths": 256,
    "num_attention_heads": 256,
    "intermediate_size": 131_072,
    "mlp_ratio": 64,
    "patch_size": 256,
    "image_size": 8_192,
    "num_channels": 16,
    "num_register_tokens": 1_024,
    "num_labels": 1_000_000,
}
"""Limits of the sizes in config.json, far above those of the largest model (DINOv3 7B: 4096, 40 layers)."""


def check_sizes(config: BackboneConfig, settings: Any) -> None:
    """Refuse sizes with which no model that fits in memory can be built; nothing is allocated.

    transformers makes lists of as many items as a model has layers while it reads the file, so this comes before.

    Args:
        config: Names the model.
        settings: Content of its config.json.

    Raises:
        BackboneError: A size is no number, too small or too large.
    """
    for name, limit in MAX_SIZES.items():
        value = settings.get(name) if isinstance(settings, dict) else None
        for size in value if isinstance(value, list | tuple) else [] if value is None else [value]:
            least = 0 if name == "num_register_tokens" else 1
            if not isinstance(size, int | float) or isinstance(size, bool) or not least <= size <= limit:
                raise BackboneError(
                    f"backbone.model: config.json of {config.model} has {name} {str(value)[:60]}, which must be "
                    f"numbers from {least} to {limit}; use a complete checkpoint"
                )
