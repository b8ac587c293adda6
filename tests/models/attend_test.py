import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.models import attend
from rlrazor.models.cache import init_cache
from rlrazor.models.partition import transformer_rules
from rlrazor.models.transformer import Transformer
from rlrazor.runtime.mesh import compile_once, layout, make_mesh
from rlrazor.types import Layout
from tests.oracles.tiny_transformers import FULL, make, quick

B, T, H, K, Dh = 2, 5, 4, 2, 6
RNG = np.random.default_rng(0)
QKV = [RNG.normal(size=(B, T, heads, Dh)).astype(np.float32) for heads in (H, K, K)]
WEIGHT = RNG.normal(size=(B, T, H, Dh)).astype(np.float32)
CAUSAL = np.tri(T, dtype=bool)[None]


def on(platform):
    return dataclasses.replace(LAYOUT, platform=platform)


def refuse(*arguments):
    raise AssertionError("nothing is laid out here")


LAYOUT = Layout("cpu", refuse, lambda fn, in_axes, out_axes: fn, refuse)


def value_and_gradient(fn):
    return quick(jax.value_and_grad(lambda *qkv: jnp.sum(fn(*qkv) * WEIGHT), (0, 1, 2)))(*QKV)


@pytest.mark.parametrize("how", ["dot_product", "splash"])
def test_every_kernel_computes_the_same(how):
    """Grouped heads of an odd size, rows that fill no block."""
    kernel = attend.causal_kernel(how, None, jnp.float32)
    expected = functools.partial(attend.attend, visible=CAUSAL)
    np.testing.assert_allclose(quick(kernel)(*QKV), expected(*QKV), atol=1e-5)
    found, wanted = value_and_gradient(kernel), value_and_gradient(expected)
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)


def test_splash_takes_rows_of_several_blocks(monkeypatch):
    monkeypatch.setattr(attend, "BLOCK", 128)
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(1, 200, heads, 8)).astype("f4") for heads in (2, 1, 1))
    out = quick(attend.causal_kernel("splash", None, jnp.float32))(query, key, value)
    expected = attend.attend(query, key, value, np.tri(200, dtype=bool)[None])
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_auto_is_the_best_of_the_platform():
    def chosen(platform, dtype):
        kernel = attend.causal_kernel("auto", on(platform), dtype)
        return kernel and (kernel.func.__name__, *kernel.args)

    assert chosen("cpu", jnp.bfloat16) is None
    assert chosen("gpu", jnp.float32) is None
    assert chosen("gpu", jnp.bfloat16) == ("_dot_product", "gpu")
    assert chosen("tpu", jnp.float32) == ("_splash", "tpu")
    assert attend.causal_kernel("auto", None, jnp.float32) is None  # on this machine
    assert attend.causal_kernel("einsum", on("tpu"), jnp.float32) is None


@pytest.mark.parametrize(
    ("platform", "dtype", "expected"),
    [("gpu", jnp.bfloat16, "cudnn"), ("gpu", jnp.float32, "xla"), ("cpu", jnp.bfloat16, "xla")],
)
def test_cudnn_is_asked_for_where_it_is(monkeypatch, platform, dtype, expected):
    asked = {}
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *qkv, **options: asked.update(options)
    )
    query, key, value = (jnp.asarray(x, dtype) for x in QKV)
    attend.causal_kernel("dot_product", on(platform), dtype)(query, key, value)
    assert asked == {"is_causal": True, "implementation": expected}


def test_a_model_uses_it_on_a_mesh_and_only_without_a_cache(monkeypatch):
    """Cut by rows and by heads: a kernel sees its part alone."""
    seen = []

    def spy(query, key, value, **options):
        seen.append(query.shape)
        return attend.attend(query, key, value, np.tri(query.shape[1], dtype=bool)[None])

    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    config = dataclasses.replace(FULL, vocabulary=30)
    plain, params = make(config)
    config = dataclasses.replace(config, attention="dot_product")
    tokens = RNG.integers(0, 29, (4, T))
    mesh = make_mesh(data=1, fsdp=2, tensor=2)
    model = Transformer(config, layout(mesh, transformer_rules(config)))
    out = compile_once(lambda p: model.apply(p, tokens)[0])(params)
    assert set(seen) == {(2, T, 2, 6)}
    np.testing.assert_allclose(out, plain.apply(params, tokens)[0], atol=1e-5)

    seen.clear()
    cache = init_cache(config, 4, T, jnp.float32)
    cached = quick(lambda p: Transformer(config).apply(p, tokens, cache=cache)[0])(params)
    assert not seen
    np.testing.assert_allclose(cached, out, atol=1e-5)
