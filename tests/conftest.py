import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def strict_dtypes():
    """For ops/ and losses/ only: optax and flax do not pass under strict promotion."""
    with jax.numpy_dtype_promotion("strict"):
        yield
