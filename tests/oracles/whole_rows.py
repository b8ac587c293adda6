"""Distributions of a model's every token, from one plain forward pass on one device."""

import dataclasses

import jax
import numpy as np
import scipy.special

import rlrazor as rr
from rlrazor.models.transformer import Transformer
from rlrazor.runtime.mesh import make_mesh


def distribution_of(folder, size=64):
    """A function of a row of at most `size` ids -> f64[size, V]: what follows each of them."""
    base = rr.load(folder, mesh=make_mesh(data=1, devices=jax.devices()[:1]))
    config = dataclasses.replace(base.policy.model.config, compute_dtype="float32")

    @jax.jit
    def forward(tokens, count):
        hidden = Transformer(config).apply(base.params, tokens, count=count)[0]
        return Transformer(config).apply(base.params, hidden, method="logits")[0]

    def of(row):
        tokens = np.zeros((1, size), np.int32)
        tokens[0, : len(row)] = row
        logits = np.asarray(forward(tokens, np.array([len(row)])), np.float64)
        return logits - scipy.special.logsumexp(logits, axis=-1, keepdims=True)

    return of


def ending_by_hand(distribution, context, ending):
    """Its log-likelihood, and whether each of its tokens is the likeliest."""
    said = distribution([*context, *ending])[len(context) - 1 : len(context) + len(ending) - 1]
    return said[np.arange(len(ending)), ending].sum(), bool((said.argmax(-1) == ending).all())
