import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# Most of the suite's time is compiling: keep what was compiled for the next run.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    if config.option.markexpr == "tpu":
        # What was compiled for a topology that is not there cannot be read back.
        jax.config.update("jax_enable_compilation_cache", False)


@pytest.fixture(autouse=True)
def few_memory_maps(request):
    """Linux gives a process 65,530 of them, each program takes some, and XLA crashes without."""
    yield
    maps = Path("/proc/self/maps")
    slow = request.node.get_closest_marker("slow")
    if slow and maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture
def strict_dtypes():
    """For ops/ and losses/ only: optax and flax do not pass under strict promotion."""
    with jax.numpy_dtype_promotion("strict"):
        yield
