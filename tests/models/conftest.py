"""Parameters without compilation."""

import numpy as np
import pytest

from flashjax import trees


@pytest.fixture(scope="session")
def random_params():
    """A random parameter tree with the shapes of an abstract one."""

    def fill(abstract, *, std=0.1):
        random = np.random.default_rng(0)
        return trees.unflatten(
            {
                path: (std * random.normal(size=leaf.shape)).astype(np.float32)
                for path, leaf in trees.flatten(abstract).items()
            }
        )

    return fill
