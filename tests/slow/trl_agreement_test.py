"""Losses and advantages against TRL's own methods, on the same log-probabilities.

TRL's trainers need a model, a tokenizer and a data set, but their loss methods only ask `self` for
numbers: here it is a namespace of them, whose model is the log-probabilities.
"""

import collections
import functools
import types

import jax
import numpy as np
import pytest

from rlrazor.losses.dpo import dpo
from rlrazor.losses.gspo import gspo
from rlrazor.losses.gspo_token import gspo_token
from rlrazor.losses.kl_estimate import kl_k3, kl_k3_weighted
from rlrazor.losses.ppo_clip import ppo_clip
from rlrazor.ops.advantages import centred, leave_one_out, standardised, studentised, whitened
from rlrazor.ops.aggregate import scaled_sum, sequence_mean, token_mean

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # what importing torch warns of is not ours
]

B, G, T = 2, 4, 6
LOW, HIGH, LONGEST = 0.2, 0.28, 9


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def trl():
    return pytest.importorskip("trl")


def batch():
    rng = np.random.default_rng(0)
    logprobs = -rng.exponential(size=(B * G, T)).astype(np.float32)
    behaviour = logprobs + rng.uniform(-0.5, 0.5, size=(B * G, T)).astype(np.float32)
    base = logprobs + rng.normal(size=(B * G, T)).astype(np.float32)
    mask = np.arange(T) < rng.integers(1, T + 1, size=(B * G, 1))
    return logprobs, behaviour, base, rng.normal(size=B * G).astype(np.float32), mask


class OneProcess:
    """An accelerator that is alone."""

    num_processes, device = 1, "cpu"

    def reduce(self, x, **_):
        return x

    gather = gather_for_metrics = reduce


def their_grpo(torch, trl, *, beta=0.0, level="token", loss_type="grpo", weighted=False):
    """TRL's loss and its gradient by the log-probabilities."""
    logprobs, behaviour, base, advantages, mask = (torch.tensor(x) for x in batch())
    logprobs.requires_grad_()
    mask = mask.int()
    zeros = torch.zeros_like(logprobs)
    trainer = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, zeros, None),
        args=types.SimpleNamespace(
            delta=None, use_bias_correction_kl=weighted, steps_per_generation=1
        ),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=level,
        beta=beta,
        loss_type=loss_type,
        epsilon_low=LOW,
        epsilon_high=HIGH,
        use_vllm=False,
        model=types.SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        accelerator=OneProcess(),
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
    )
    inputs = {
        "prompt_ids": mask[:, :1],
        "prompt_mask": mask[:, :1],
        "completion_ids": mask,
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": behaviour,
        "ref_per_token_logps": base,
        "num_items_in_batch": mask.sum(),
    }
    loss = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    return loss.item(), logprobs.grad.numpy()


def agree(ours, theirs, *arguments):
    (value, _), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(*arguments)
    np.testing.assert_allclose(value, theirs[0], rtol=2e-5)
    np.testing.assert_allclose(gradient, theirs[1], rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("loss_type", "aggregate"),
    [
        ("grpo", sequence_mean),
        ("dapo", token_mean),
        ("bnpo", token_mean),
        ("dr_grpo", functools.partial(scaled_sum, length=float(LONGEST))),
    ],
)
def test_grpo_dapo_and_dr_grpo(torch, trl, loss_type, aggregate):
    logprobs, behaviour, _, advantages, mask = batch()
    ours = functools.partial(ppo_clip, clip_low=LOW, clip_high=HIGH, aggregate=aggregate)
    spread = np.repeat(advantages[:, None], T, axis=1)
    agree(ours, their_grpo(torch, trl, loss_type=loss_type), logprobs, behaviour, spread, mask)


def test_gspo(torch, trl):
    logprobs, behaviour, _, advantages, mask = batch()
    theirs = their_grpo(torch, trl, level="sequence")
    knobs = {"clip_low": LOW, "clip_high": HIGH}
    agree(functools.partial(gspo, **knobs), theirs, logprobs, behaviour, advantages, mask)
    spread = np.repeat(advantages[:, None], T, axis=1)
    agree(functools.partial(gspo_token, **knobs), theirs, logprobs, behaviour, spread, mask)


@pytest.mark.parametrize("weighted", [False, True])
def test_k3_penalty(torch, trl, weighted):
    logprobs, behaviour, base, _, mask = batch()
    with_penalty = their_grpo(torch, trl, beta=0.3, weighted=weighted)
    without = their_grpo(torch, trl)
    penalty = [(x - y) / 0.3 for x, y in zip(with_penalty, without, strict=True)]

    def ours(x):
        if weighted:
            return kl_k3_weighted(x, behaviour, base, mask, aggregate=sequence_mean)
        return kl_k3(x, base, mask, aggregate=sequence_mean)

    (value, _), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(logprobs)
    np.testing.assert_allclose(value, penalty[0], rtol=1e-4)
    np.testing.assert_allclose(gradient, penalty[1], rtol=1e-4, atol=1e-6)


def test_rloo(torch, trl):
    """A position of `ppo_clip` is then a whole answer."""
    logprobs, behaviour, _, advantages, mask = batch()
    x = torch.tensor(logprobs, requires_grad=True)
    kept = torch.tensor(mask).int()
    trainer = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (x, torch.zeros_like(x), None),
        epsilon_low=LOW,
        epsilon_high=HIGH,
        model=types.SimpleNamespace(training=True),
        accelerator=OneProcess(),
        aux_loss_enabled=False,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
    )
    inputs = {
        "prompt_ids": kept[:, :1],
        "prompt_mask": kept[:, :1],
        "completion_ids": kept,
        "completion_mask": kept,
        "advantages": torch.tensor(advantages),
        "old_logps": torch.tensor(np.where(mask, behaviour, 0).sum(1)),
    }
    loss = trl.RLOOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()

    def ours(x):
        answers = (np.where(mask, behaviour, 0).sum(1), advantages, mask.any(1))
        columns = (answer[:, None] for answer in answers)
        whole = (x * mask).sum(1)[:, None]
        return ppo_clip(whole, *columns, clip_low=LOW, clip_high=HIGH, aggregate=token_mean)

    agree(ours, (loss.item(), x.grad.numpy()), logprobs)


def test_dpo(torch, trl):
    logprobs, _, base, _, mask = batch()
    x = torch.tensor(logprobs, requires_grad=True)
    reference = torch.tensor(np.where(mask, base, 0))
    kept = torch.tensor(mask)

    def model_of(rows):
        blank = torch.zeros_like(rows)
        outputs = {"entropy": blank, "mean_logits": blank, "is_top1": kept}
        return lambda **_: types.SimpleNamespace(log_probs=rows, **outputs)

    model = model_of(x * kept)  # TRL's models report 0 where there is no label
    trainer = types.SimpleNamespace(
        model=types.SimpleNamespace(training=False),
        ref_model=model_of(reference),
        accelerator=OneProcess(),
        args=types.SimpleNamespace(gradient_checkpointing_kwargs=None),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        beta=0.3,
        use_weighting=False,
        _total_train_tokens=0,
        _tp_size=1,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
    )
    shifted = torch.nn.functional.pad(kept.int(), (1, 0))  # a prompt of one token
    chosen_base, rejected_base = reference.sum(1).chunk(2)
    inputs = {
        "input_ids": shifted,
        "attention_mask": shifted,
        "completion_mask": shifted,
        "ref_chosen_logps": chosen_base,
        "ref_rejected_logps": rejected_base,
    }
    loss = trl.DPOTrainer._compute_loss(trainer, model, inputs, False)
    loss.backward()

    def ours(x):
        pairs = B * G // 2
        chosen, rejected = slice(0, pairs), slice(pairs, None)
        halves = ((y[half] for y in (x, base, mask)) for half in (chosen, rejected))
        return dpo(*next(halves), *next(halves), beta=0.3)

    agree(ours, (loss.item(), x.grad.numpy()), logprobs)


REWARDS = np.float32([[1.0, 0.0, 0.0, 1.0], [0.5, -1.0, 2.0, 0.25]])


def test_advantages(torch):
    """TRL computes these inside long methods; the few lines that count are repeated here."""
    r = torch.tensor(REWARDS)
    mean = r.mean(1, keepdim=True)
    theirs = ((r - mean) / (r.std(1, keepdim=True) + 1e-4)).numpy()  # scale_rewards="group"
    np.testing.assert_allclose(studentised(REWARDS, epsilon=1e-4), theirs, rtol=1e-5)
    # Of the paper's std, which divides by G, it is this much:
    shrunk = ((G - 1) / G) ** 0.5
    ours = shrunk * np.asarray(standardised(REWARDS, epsilon=1e-4 * shrunk))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(centred(REWARDS), (r - mean).numpy(), rtol=1e-5)  # "none"
    others = (r.sum(1, keepdim=True) - r) / (G - 1)
    np.testing.assert_allclose(leave_one_out(REWARDS), (r - others).numpy(), rtol=1e-5)
    a = r - others
    theirs = ((a - a.mean()) / (a.std(correction=0) + 1e-4)).numpy()
    everything = np.ones(REWARDS.shape, bool)
    ours = whitened(np.asarray(a), everything, epsilon=1e-4)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
