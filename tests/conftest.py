import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# Most of the suite's time is compiling: keep what was compiled for the next run.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
)
# Programs are small and run a few times: optimising them costs more than it gives.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis
import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.oracles.scripts import compile_settings

# A test says what is right, not how fast a machine of others is.
hypothesis.settings.register_profile("untimed")
hypothesis.settings.load_profile("untimed")

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    if config.option.markexpr == "tpu":
        # What was compiled for a topology that is not there cannot be read back.
        jax.config.update("jax_enable_compilation_cache", False)
        jax.config.update("jax_disable_most_optimizations", False)


def few_memory_maps():
    """Linux gives a process 65,530 of them, each program takes some, and XLA crashes without."""
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps_behind_a_file():
    yield
    few_memory_maps()


@pytest.fixture(autouse=True)
def few_memory_maps_behind_a_slow_test(request):
    yield
    if request.node.get_closest_marker("slow"):
        few_memory_maps()


@pytest.fixture
def strict_dtypes():
    """For ops/ and losses/ only: optax and flax do not pass under strict promotion."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Compiled programs of this session, shared by its processes."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def quick_compiles(cache):
    """Tiny programs run once or twice: compiling them is the cost, not running them."""
    settings = compile_settings(cache)
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # it looks at its folder only once
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
