"""Turn a single-label image dataset into a multi-label one, with masks, and publish it on the Hugging Face Hub.

From Python, `Relabeler` labels photos with a finished labeler, and `hf_relabel.run(config)` runs the pipeline:

    from hf_relabel import Relabeler

    result = Relabeler.from_pretrained("runs/demo")("photo.jpg")

Nothing heavy is imported before it is needed: help of the command line must be immediate.
"""

from collections.abc import Mapping
from os import PathLike
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hf_relabel import run as _run_package

if TYPE_CHECKING:
    from hf_relabel.api.relabeler import Relabeler as Relabeler
    from hf_relabel.api.result import Region as Region
    from hf_relabel.api.result import Result as Result
    from hf_relabel.config import Config as Config
    from hf_relabel.release.reader import Release

__version__ = "0.1.0"

__all__ = ["Config", "Region", "Relabeler", "Result", "__version__", "run"]

_MODULES = {"Config": "config", "Region": "api.result", "Relabeler": "api.relabeler", "Result": "api.result"}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _MODULES:
        raise AttributeError(f"module 'hf_relabel' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hf_relabel.{_MODULES[name]}"), name)


class _CallablePackage(ModuleType):
    """The package `hf_relabel.run` (shards, claims, ranks), which can be called to run the pipeline."""

    def __call__(self, config: "Config | Mapping[str, Any] | str | PathLike[str]") -> "Release":
        """Run the pipeline, like `hf-relabel run`, and return the release.

        Args:
            config: A `Config`, nested dictionaries such as `{"source": {"path": "photos"}}`, or a YAML file.

        Raises:
            RelabelError: The configuration is not valid, or a stage fails.
        """
        from hf_relabel.commands.pipeline import run_from_python

        return run_from_python(config)


# The package's name is also that of the function; Python allows a module to have a class of its own.
_run_package.__class__ = _CallablePackage
run = _run_package
