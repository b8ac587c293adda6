"""Random models of every family against Hugging Face's own code, through files, both ways.

Needs torch and transformers (the `bench` extra). Prints the largest errors: `-m slow -s`.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.models.cache import init_cache
from rlrazor.models.pretrained import load_pretrained, save_pretrained
from rlrazor.models.transformer import Transformer
from rlrazor.runtime.mesh import compile_once
from tests.oracles import tiny_checkpoints as tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # what importing torch warns of is not ours
]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

T = 48
SMALL = {"heads": 6, "kv_heads": 2, "width": 48, "head_dim": 8}
CASES = {
    # Tied, biases, grouped heads, head_dim not width / heads; then each switch the other way.
    "Qwen2": ("Qwen2", {}),
    "Qwen2 untied": ("Qwen2", {"tied_head": False, **SMALL}),
    "Qwen2 scaled": ("Qwen2", {"rope_scaling": tiny.LLAMA.rope_scaling}),
    "Qwen3": ("Qwen3", {}),
    "Qwen3 tied": ("Qwen3", {"tied_head": True, "heads": 4, "kv_heads": 1}),
    "Llama": ("Llama", {}),
    "Llama tied": ("Llama", {"tied_head": True, "rope_scaling": None, **SMALL}),
    "Llama ungrouped": ("Llama", {"kv_heads": 4, "head_dim": 10}),
}


def reference(family, config):
    """Their model with random weights, biases and scales."""
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
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(theirs).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def their_logits(model, tokens, *, cached=False):
    with torch.no_grad():
        if not cached:
            return model(torch.from_numpy(tokens)).logits.float().numpy()
        parts, past = [], None
        for piece in (tokens[:, : T // 2], *np.split(tokens[:, T // 2 :], T - T // 2, axis=1)):
            out = model(torch.from_numpy(piece), past_key_values=past, use_cache=True)
            parts.append(out.logits.float().numpy())
            past = out.past_key_values
        return np.concatenate(parts, axis=1)


def our_logits(config, params, tokens):
    """Of the whole sequence at once, and of its second half token by token from a cache."""
    model = Transformer(config)

    def score(params, tokens):
        return model.apply(params, model.apply(params, tokens)[0], method="logits")

    def append(params, tokens, cache):
        hidden, cache = model.apply(params, tokens, cache=cache)
        return model.apply(params, hidden, method="logits"), cache

    cache = init_cache(config, len(tokens), T, jnp.dtype(config.compute_dtype))
    step = compile_once(append)
    first, cache = step(params, tokens[:, : T // 2], cache)
    parts = [first]
    for t in range(T // 2, T):
        one, cache = step(params, tokens[:, t : t + 1], cache)
        parts.append(one)
    whole = compile_once(score)(params, tokens)
    return np.asarray(whole), np.concatenate(parts, axis=1)


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request, tmp_path_factory):
    """Name, our config, their folder, their model, tokens and their logits."""
    family, change = CASES[request.param]
    config = dataclasses.replace(tiny.FAMILIES[family], vocabulary=101, layers=3, **change)
    theirs = reference(family, config)
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    tokens = np.random.default_rng(0).integers(0, config.vocabulary, (2, T))
    return request.param, config, folder, theirs, tokens, their_logits(theirs, tokens)


def test_logits_agree_in_float32(case):
    name, expected, folder, _, tokens, theirs = case
    config, params, _ = load_pretrained(folder)
    assert config == expected
    whole, cached = our_logits(config, params, tokens)
    assert np.abs(theirs).max() > 1
    errors = [float(np.abs(ours - theirs).max()) for ours in (whole, cached)]
    print(f"\n{name} f32: whole {errors[0]:.1e}, cached {errors[1]:.1e}, of {theirs.std():.2f}")
    assert max(errors) < 1e-5
    if config.rope_scaling is not None:  # and the sequence is long enough to feel it
        unscaled = our_logits(dataclasses.replace(config, rope_scaling=None), params, tokens)[0]
        assert np.abs(unscaled - theirs).max() > 1e-3


def test_logits_agree_in_bfloat16_as_well_as_its_rounding_lets_them(case):
    """Ours are about as near to the f32 logits as theirs are, and as near to theirs."""
    name, _, folder, _, tokens, truth = case
    config, params, _ = load_pretrained(folder, param_dtype="bfloat16", compute_dtype="bfloat16")
    rounded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    for ours, cached in zip(our_logits(config, params, tokens), (False, True), strict=True):
        theirs = their_logits(rounded, tokens, cached=cached)
        mine, his, between = (
            float(np.sqrt(np.mean(np.square(a - b))))
            for a, b in ((ours, truth), (theirs, truth), (ours, theirs))
        )
        print(f"\n{name} bf16 rms: ours {mine:.4f}, theirs {his:.4f}, between {between:.4f}")
        assert 0 < mine < 1.5 * his < 0.03 * truth.std()
        assert between < 1.5 * his


@pytest.mark.parametrize(("dtype", "with_source"), [("float32", True), ("bfloat16", False)])
def test_what_we_save_they_load(case, tmp_path, dtype, with_source):
    _, _, folder, model, tokens, theirs = case
    config, params, _ = load_pretrained(folder)
    source = folder if with_source else None
    out = tmp_path / "ours"
    save_pretrained(out, config, params, source=source, dtype=dtype, max_shard_bytes=60_000)
    again, loading = transformers.AutoModelForCausalLM.from_pretrained(
        out, dtype="auto", output_loading_info=True
    )
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys"))
    assert type(again) is type(model)
    assert again.dtype == getattr(torch, dtype)
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a.to(b.dtype), b), name
    assert again.config.rope_parameters == model.config.rope_parameters
    if dtype == "float32":
        np.testing.assert_array_equal(their_logits(again.eval(), tokens), theirs)
    assert again.config.max_position_embeddings == (
        4096
        if with_source
        else json.loads((out / "config.json").read_text())["max_position_embeddings"]
    )


def test_params_go_there_and_back_unchanged(case, tmp_path):
    _, config, folder, *_ = case
    _, params, _ = load_pretrained(folder)
    save_pretrained(tmp_path / "ours", config, params)
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(tmp_path / "ours")[1], params)
