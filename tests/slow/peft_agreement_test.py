"""Adapters of ours in PEFT and of PEFT's here, on models in files; needs the `bench` extra."""

import jax
import numpy as np
import pytest

from rlrazor.models.lora import apply_beside, init_lora, merge
from rlrazor.models.lora_files import load_lora, save_lora
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
peft = pytest.importorskip("peft")

TOKENS = np.random.default_rng(0).integers(0, 40, (2, 16))
TARGETS = {
    "attention": ("attention/(query|value)",),
    "layers": ("layers/.*",),
    "everything": (".*",),
}


def their_logits(model):
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS)).logits.float().numpy()


def our_logits(config, params):
    model = Transformer(config)

    def score(params):
        return model.apply(params, model.apply(params, TOKENS)[0], method="logits")

    return np.asarray(compile_once(score)(params))


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def model(request, tmp_path_factory):
    """A folder of random weights and what we read from it."""
    folder = tmp_path_factory.mktemp("model")
    tiny.write(folder, tiny.fields(request.param), tiny.tensors(request.param))
    return folder, *load_pretrained(folder)[:2]


def trained(config, params, targets, rank):
    rng = np.random.default_rng(1)
    lora = init_lora(jax.random.key(0), params, targets=targets, rank=rank)
    return jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.2).astype(np.float32), lora)


@pytest.mark.parametrize("kind", TARGETS)
def test_peft_loads_ours_and_computes_the_same(model, tmp_path, kind):
    folder, config, params = model
    if kind == "everything" and config.tied_head:
        pytest.skip("peft adapts a tied embedding apart from its head; save_lora refuses")
    lora = trained(config, params, TARGETS[kind], 4)
    save_lora(tmp_path / "adapter", config, lora, 0.5, base=folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    plain = their_logits(theirs)
    wrapped = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    found = their_logits(wrapped)
    errors = [
        float(np.abs(our_logits(config, change(params, lora, 0.5)) - found).max())
        for change in (apply_beside, merge)
    ]
    print(f"\n{folder.name} {kind}: beside {errors[0]:.1e}, merged {errors[1]:.1e}")
    assert max(errors) < 1e-4
    assert np.abs(found - plain).max() > 0.1
    # Merged there and read here, merged here and read there.
    wrapped.merge_and_unload().save_pretrained(tmp_path / "theirs")
    _, read, _ = load_pretrained(tmp_path / "theirs")
    assert np.abs(our_logits(config, read) - found).max() < 1e-4
    save_pretrained(tmp_path / "ours", config, merge(params, lora, 0.5))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert np.abs(their_logits(again) - found).max() < 1e-4


@pytest.mark.parametrize(
    ("targets", "stabilised"), [("all-linear", False), (["up_proj", "self_attn.o_proj"], True)]
)
def test_we_load_pefts_and_compute_the_same(model, tmp_path, targets, stabilised):
    folder, config, params = model
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    wanted = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=3,
        lora_alpha=7,
        target_modules=targets,
        use_rslora=stabilised,
        init_lora_weights=False,  # so that nothing is zero
    )
    wrapped = peft.get_peft_model(theirs, wanted).eval()
    wrapped.save_pretrained(tmp_path)
    lora, scale = load_lora(tmp_path, config)
    assert scale == pytest.approx(7 / (np.sqrt(3) if stabilised else 3))
    found = our_logits(config, apply_beside(params, lora, scale))
    error = float(np.abs(found - their_logits(wrapped)).max())
    print(f"\n{folder.name} from peft: {error:.1e}")
    assert error < 1e-4
    # And back again, to the bit.
    save_lora(tmp_path / "back", config, lora, scale)
    again = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(folder), tmp_path / "back"
    )
    state, same = (peft.get_peft_model_state_dict(m) for m in (wrapped, again))
    assert state.keys() == same.keys()
    assert all(torch.equal(state[name], same[name]) for name in state)


def test_their_new_adapters_are_drawn_as_ours(model):
    folder, _, params = model
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    wanted = peft.LoraConfig(r=8, target_modules=["up_proj"], task_type="CAUSAL_LM")
    state = peft.get_peft_model_state_dict(peft.get_peft_model(theirs, wanted))
    drawn = {kind: [x.numpy() for n, x in state.items() if kind in n] for kind in ("_A", "_B")}
    ours = init_lora(jax.random.key(0), params, targets=("up",), rank=8)["layers"]["mlp"]["up"]
    assert not np.any(drawn["_B"])
    assert not np.any(ours["b"])
    for a in (np.concatenate(drawn["_A"]), np.asarray(ours["a"])):
        assert np.abs(a).max() <= 1 / np.sqrt(32)
        np.testing.assert_allclose(a.var() * 32, 1 / 3, rtol=0.25)
