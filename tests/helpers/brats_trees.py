"""Miniature volumes in the folders and encoding of BraTS 2018."""

from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest

from configs import brats
from data.datasets import brats2018

SHAPE = (20, 24, 7)
AFFINE = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64)
COUNTS = {"source": 2, "train": 3, "validation": 2, "test": 1}  # Volumes.


class Tree(NamedTuple):
    """A set on disk.

    Attributes:
      root: its folder.
      names: split -> names of its volumes, sorted.
      volumes: name -> sequence -> int16 [X, Y, Z].
      labels: name -> raw ids [X, Y, Z].
    """

    root: Path
    names: dict[str, list[str]]
    volumes: dict[str, dict[str, np.ndarray]]
    labels: dict[str, np.ndarray]

    def file(self, name, kind):
        """Returns the file of a sequence of a patient, or of "seg"."""
        return self.root / "HGG" / name / f"{name}_{kind}.nii.gz"


def names_of(split, count):
    """Returns names of `count` volumes of a split, sorted."""
    made = (f"Brats18_TCIA{number // 600 + 1:02}_{number}_1" for number in range(2000))
    return sorted(name for name in made if brats2018.split_of(name) == split)[:count]


def scene(seed):
    """Returns the four sequences of a patient and the labels: a brain in slices 1 to 5, a tumour in 2 to 4."""
    random = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    brain = ((x - 10) ** 2 / 64 + (y - 12) ** 2 / 100 < 1) & (z >= 1) & (z <= 5)
    centre = random.uniform((7, 8), (12, 15))
    away = np.hypot(x - centre[0], y - centre[1])
    inside = brain & (z >= 2) & (z <= 4)
    labels = np.zeros(SHAPE, np.int16)
    for raw_id, radius in ((2, 4.5), (4, 2.5), (1, 1.0)):
        labels[inside & (away < radius)] = raw_id
    bright = {"t2": (0, 150, 250, 0, 150), "flair": (0, 100, 300, 0, 180), "t1": (0, -60, -40, 0, -50)}
    bright["t1ce"] = (0, -60, -40, 0, 300)
    volumes = {}
    for place, (sequence, shifts) in enumerate(bright.items()):
        values = 400 + 50 * place + 20 * random.standard_normal(SHAPE) + np.array(shifts)[labels]
        volumes[sequence] = np.where(brain, values, 0).astype(np.int16)
    return volumes, labels


def save(file, voxels, affine=AFFINE):
    """Writes voxels of their own type as NIfTI."""
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(voxels, affine).to_filename(file)


def write(root, counts=COUNTS) -> Tree:
    """Writes HGG/NAME/NAME_{flair,t1,t1ce,t2,seg}.nii.gz, and an empty LGG."""
    tree = Tree(root, {split: names_of(split, count) for split, count in counts.items()}, {}, {})
    (root / "LGG").mkdir(parents=True)
    for seed, name in enumerate(name for names in tree.names.values() for name in names):
        tree.volumes[name], tree.labels[name] = scene(seed)
        for kind, voxels in {**tree.volumes[name], "seg": tree.labels[name]}.items():
            save(tree.file(name, kind), voxels)
    return tree


@pytest.fixture
def tree(tmp_path):
    return write(tmp_path / "brats")


@pytest.fixture
def config(tmp_path, tree):
    """T2 to FLAIR in miniature."""
    config = brats.get_config("ass,2")
    config.data.update(directory=str(tmp_path / "prepared"), source_root=str(tree.root), target_root=str(tree.root))
    config.data.update(source_size=(SHAPE[1], SHAPE[0]), target_size=(SHAPE[1], SHAPE[0]), readers=2)
    config.evaluation.batch = 4
    return config


def normalised(volume):
    """Returns what a slice's channels should hold: whole volumes of grey values by the formula alone."""
    values = volume[volume != 0].astype(float)
    scaled = (volume - values.mean()) / values.std()
    return np.where(volume == 0, 0, 1 + np.round(254 * np.clip((scaled + 4) / 10, 0, 1)))


def expected_image(volume, z):
    grey = normalised(volume)
    below, above = max(z - 1, 0), min(z + 1, volume.shape[2] - 1)
    return np.stack([grey[:, :, below].T, grey[:, :, z].T, grey[:, :, above].T], axis=-1)
