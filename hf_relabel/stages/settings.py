"""Which settings each stage reads; without heavy imports, as help needs it."""

READS = {
    "propose": ("source", "backbone", "propose", "run", "labeler"),
    "score": (
        "score",
        "run.dir",
        "run.shard_size",
        "run.overwrite",
        "run.max_error_rate",
        "run.threads",
        "run.seed",
        "run.part",
    ),
    "train": (
        "train",
        "score.merge",
        "score.bootstrap.shrinkage",
        "score.bootstrap.temperature",
        "run.dir",
        "run.shard_size",
        "run.overwrite",
        "run.threads",
        "run.seed",
    ),
    "label": ("label", "labeler", "run.dir", "run.shard_size", "run.overwrite", "run.max_error_rate", "run.part"),
    "build": ("build", "run.dir", "run.shard_size"),
}
"""Sections and keys that each stage reads: what its help shows, and what it may change in a run's `config.yaml`."""


def is_read(key: str, sections: tuple[str, ...]) -> bool:
    """Return whether a dotted key is one of these sections or keys, or inside one of them."""
    return any(key == section or key.startswith(f"{section}.") for section in sections)
