import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.models.rope import Llama3Scaling, rope_frequencies, rotate, rotations
from tests.oracles import transformer_twin as twin
from tests.oracles.tiny_transformers import quick

LLAMA = Llama3Scaling(32.0, 1.0, 4.0, 8192)  # Llama 3.2, with base 500,000 and head_dim 64


@pytest.mark.parametrize("scaling", [None, LLAMA])
def test_frequencies_match_the_reference_cases(scaling):
    got = rope_frequencies(64, base=500_000.0, scaling=scaling)
    expected = [twin.rope_frequency(i, 64, 500_000.0, scaling) for i in range(32)]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_llama_scaling_keeps_mixes_and_slows():
    plain = rope_frequencies(64, base=500_000.0, scaling=None)
    ratio = plain / rope_frequencies(64, base=500_000.0, scaling=LLAMA)
    assert ratio[0] == 1.0
    np.testing.assert_allclose(ratio[-1], 32.0)
    assert np.any((ratio > 1.01) & (ratio < 31.9))
    assert np.all(np.diff(ratio) >= 0)


@pytest.mark.parametrize("field", range(4))
def test_every_part_of_the_scaling_is_alive(field):
    values = [32.0, 1.0, 4.0, 8192]
    values[field] *= 1.5
    changed = rope_frequencies(64, base=500_000.0, scaling=Llama3Scaling(*values))
    assert np.any(changed != rope_frequencies(64, base=500_000.0, scaling=LLAMA))


def turned(heads, positions, base=100.0):
    frequencies = rope_frequencies(heads.shape[-1], base=base, scaling=None)
    return quick(lambda h, p: rotate(h, rotations(p, frequencies)))(heads, np.array(positions))


def test_rotation_matches_complex_numbers():
    rng = np.random.default_rng(0)
    heads = rng.normal(size=(2, 5, 3, 8)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3, 4], [7, 8, 90, 10, 1000]])
    out = turned(heads, positions)
    for b, t, h in np.ndindex(2, 5, 3):
        expected = twin.rotate(heads[b, t, h], int(positions[b, t]), 100.0)
        np.testing.assert_allclose(out[b, t, h], expected, atol=2e-4 if b else 2e-6)


def test_scores_depend_on_the_distance_only():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    ats, others = [5, 25, 3], [3, 23, 5]
    rows = [np.broadcast_to(x[0], (3, 1, 1, 8)) for x in (query, key)]
    q, k = (turned(x, np.array(p)[:, None]) for x, p in zip(rows, (ats, others), strict=True))
    near, far, back = np.sum(np.asarray(q) * k, axis=(1, 2, 3))
    np.testing.assert_allclose(near, far, rtol=1e-5)
    assert abs(near - back) > 1e-3


def test_position_zero_and_the_type_are_kept():
    heads = np.random.default_rng(0).normal(size=(1, 1, 2, 4)).astype(jnp.bfloat16)
    out = turned(heads, [[0]])
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, heads)


@pytest.mark.parametrize("values", [(8.0, 4.0, 1.0, 64), (8.0, 1.0, 1.0, 64), (0.0, 1.0, 4.0, 64)])
def test_impossible_scaling_is_refused(values):
    with pytest.raises(ValueError, match="rope scaling needs"):
        Llama3Scaling(*values)
