import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.models.cache import init_cache, repeat_rows
from rlrazor.models.decoding import init_caches, layers_appender, repeat_caches
from rlrazor.models.lora import apply_beside, init_lora
from rlrazor.models.transformer import appender
from tests.oracles.tiny_transformers import FULL, PLAIN, make, quick

B, T, S = 3, 4, 9


@pytest.mark.parametrize("config", [FULL, PLAIN], ids=["full", "plain"])
@pytest.mark.parametrize("adapted", [False, True])
def test_layers_apart_append_as_layers_stacked(config, adapted):
    """Prompts of any length, repeated, then tokens of which some rows have none."""
    model, params = make(dataclasses.replace(config, scan_layers=False))
    if adapted:
        lora = init_lora(jax.random.key(0), params, targets=("layers/.*", "embed"), rank=2)
        params = apply_beside(params, jax.tree.map(lambda x: x + 0.1, lora), 2.0)
    rng = np.random.default_rng(0)
    opened, said = (rng.integers(0, config.vocabulary, (n, T)) for n in (B, 2 * B))
    count, more = np.array([4, 1, 2]), np.array([1, 0, 4, 2, 3, 0])

    def run(start, empty, repeat, params):
        append = start(model, params)
        logits, cache = append(empty(config, B, S, "float32"), jnp.asarray(opened), count)
        later, cache = append(repeat(cache, 2), jnp.asarray(said), more)
        filled = cache[0].filled if isinstance(cache, tuple) else cache.filled
        return logits, later[more > 0], filled

    apart = quick(lambda p: run(layers_appender, init_caches, repeat_caches, p))(params)
    stacked = quick(lambda p: run(appender, init_cache, repeat_rows, p))(params)
    for one, other in zip(apart, stacked, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_no_layer_is_copied_in_the_loop():
    """Neither weights nor cache of all layers are arguments of what is done for a token."""
    model, params = make(dataclasses.replace(FULL, scan_layers=False))
    append = layers_appender(model, params)
    caches = init_caches(FULL, B, S, "float32")
    jaxpr = jax.make_jaxpr(append)(caches, jnp.zeros((B, 1), jnp.int32), jnp.ones(B, jnp.int32))
    assert f"[{FULL.layers},{B},{FULL.kv_heads},{S},{FULL.head_dim}]" not in str(jaxpr)
    assert len(caches) == FULL.layers
