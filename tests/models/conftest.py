"""Variables of modules, drawn without compiling their initialisers: on a CPU that takes many seconds."""

import flax
import jax
import numpy as np
import pytest


def _draw(path, shape, generator):
    values = generator.normal(size=shape)
    match path[-1]:
        case "kernel":
            return values * np.sqrt(2 / np.prod(shape[:-1]))
        case "scale" | "var":
            return np.exp(0.2 * values)
        case "bias" | "mean":
            return 0.2 * values
    raise ValueError(f"No distribution for {path}.")


@pytest.fixture(scope="session")
def random_variables():
    """Returns a function of a module and the arguments of its call to variables, all of them random."""

    def variables(module, *arguments):
        generator = np.random.default_rng(0)
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments))
        flat = flax.traverse_util.flatten_dict(shapes)
        drawn = {path: _draw(path, leaf.shape, generator).astype(leaf.dtype) for path, leaf in flat.items()}
        return flax.traverse_util.unflatten_dict(drawn)

    return variables
