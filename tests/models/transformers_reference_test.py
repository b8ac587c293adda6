"""Logits of random small models against Hugging Face's own code; needs torch and transformers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.models.cache import init_cache
from rlrazor.models.rope import Llama3Scaling
from rlrazor.models.transformer import Transformer
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.runtime.mesh import compile_once

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

T = 40
OURS = TransformerConfig(
    vocabulary=101,
    width=48,
    layers=3,
    heads=6,
    kv_heads=2,
    head_dim=8,
    mlp_width=80,
    rope_base=10_000.0,
)
SCALING = Llama3Scaling(8.0, 1.0, 4.0, 32)
FAMILIES = {
    "Qwen2": dataclasses.replace(OURS, qkv_bias=True, tied_head=True),
    "Qwen3": dataclasses.replace(OURS, qk_norm=True, head_dim=16),
    "Llama": dataclasses.replace(OURS, norm_epsilon=1e-5, rope_scaling=SCALING),
}


def reference(family: str, config: TransformerConfig):
    """A model of the family with random weights, biases and scales."""
    rope = {"rope_type": "default", "rope_theta": config.rope_base}
    if config.rope_scaling is not None:
        rope |= {"rope_type": "llama3", **dataclasses.asdict(config.rope_scaling)}
    theirs = getattr(transformers, f"{family}Config")(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        intermediate_size=config.mlp_width,
        rms_norm_eps=config.norm_epsilon,
        rope_parameters=rope,
        max_position_embeddings=4096,
        tie_word_embeddings=config.tied_head,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(theirs).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def imported(model, config: TransformerConfig):
    """Its parameters under our names."""
    weights = {name: w.detach().numpy() for name, w in model.state_dict().items()}

    def stacked(name, turn=True):
        layers = [weights[f"model.layers.{n}.{name}"] for n in range(config.layers)]
        return jnp.asarray(np.stack([w.T if turn else w for w in layers]))

    attention = {}
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
        attention[ours] = {"kernel": stacked(f"self_attn.{theirs}_proj.weight")}
        if config.qkv_bias and ours != "output":
            attention[ours]["bias"] = stacked(f"self_attn.{theirs}_proj.bias")
        if config.qk_norm and ours in ("query", "key"):
            attention[f"{ours}_norm"] = {"scale": stacked(f"self_attn.{theirs}_norm.weight")}
    mlp = {n: {"kernel": stacked(f"mlp.{n}_proj.weight")} for n in ("gate", "up", "down")}
    params = {
        "embed": {"embedding": jnp.asarray(weights["model.embed_tokens.weight"])},
        "layers": {
            "attention_norm": {"scale": stacked("input_layernorm.weight")},
            "attention": attention,
            "mlp_norm": {"scale": stacked("post_attention_layernorm.weight")},
            "mlp": mlp,
        },
        "final_norm": {"scale": jnp.asarray(weights["model.norm.weight"])},
    }
    if not config.tied_head:
        params["head"] = {"kernel": jnp.asarray(weights["lm_head.weight"].T)}
    return {"params": params}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_agree(family):
    config = FAMILIES[family]
    theirs, model = reference(family, config), Transformer(config)
    params = imported(theirs, config)
    tokens = np.random.default_rng(0).integers(0, config.vocabulary, (2, T))
    expected = jax.tree.map(jnp.shape, jax.eval_shape(model.init, jax.random.key(0), tokens))
    assert jax.tree.map(jnp.shape, params) == expected
    with torch.no_grad():
        reference_logits = theirs(torch.from_numpy(tokens)).logits.numpy()

    def score(params, tokens):
        return model.apply(params, model.apply(params, tokens)[0], method="logits")

    def append(params, tokens, cache):
        hidden, cache = model.apply(params, tokens, cache=cache)
        return model.apply(params, hidden, method="logits"), cache

    logits = compile_once(score)(params, tokens)
    assert np.abs(reference_logits).max() > 1
    np.testing.assert_allclose(logits, reference_logits, atol=1e-4)

    cache, step = init_cache(config, 2, T, jnp.float32), compile_once(append)
    first, cache = step(params, tokens[:, : T // 2], cache)
    parts = [first]
    for t in range(T // 2, T):
        one, cache = step(params, tokens[:, t : t + 1], cache)
        parts.append(one)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), reference_logits, atol=1e-4)
