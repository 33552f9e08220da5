"""Alleviating Semantic-level Shift (ASS, arXiv 2004.00794) in JAX: semi-supervised domain adaptation for segmentation.

The public names are `Predictor`, `open_run`, `class_means`, `train` and `evaluate`. Each is imported when it is first
used, so that `import ass_jax` takes no time.

Shapes in all docstrings: B batch, H W pixels, h w feature cells, C classes, D feature channels.
"""

import importlib

_MODULES = {
    "Predictor": "ass_jax.inference.predictor",
    "class_means": "ass_jax.method.class_means",
    "evaluate": "ass_jax.evaluation.evaluate",
    "open_run": "ass_jax.weights.trained_model",
    "train": "ass_jax.training.loop",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    """Imports a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(_MODULES)}.")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Lists the public names beside the loaded modules."""
    return sorted([*globals(), *_MODULES])
