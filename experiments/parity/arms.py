"""The arms of the parity study: where the answers come from, a loss, and perhaps an anchor.

Offline arms imitate a teacher's labels, fixed before training as a data set would be; on-policy
arms learn from answers that the policy gave in the very step.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlrazor.losses.dft import dft
from rlrazor.losses.kl_penalty import kl_penalty
from rlrazor.losses.nll import nll
from rlrazor.losses.policy_gradient import policy_gradient
from rlrazor.losses.simpo import simpo
from rlrazor.losses.soft_cross_entropy import soft_cross_entropy
from rlrazor.ops.advantages import centred, standardised
from rlrazor.ops.logprobs import token_logprobs
from rlrazor.studies.study import Family
from rlrazor.tasks.parity.labels import first_correct, oracle_log_probs
from rlrazor.tasks.parity.verifier import judge

TEACHERS = ("fixed_digit", "random_pair", "oracle", "self_sft", "distilled")


@struct.dataclass
class Batch:
    inputs: jax.Array  # f32[B, D]
    digits: jax.Array  # i32[B] digit in the image
    base_logits: jax.Array  # f32[B, 10] of the run's own base
    labels: jax.Array  # i32[B] of the run's own teacher, see parity/bases.py
    has_label: jax.Array  # bool[B] whether that teacher found a right answer
    wrong_labels: jax.Array  # i32[B] what the external teacher answers when it errs


Loss = Callable[[jax.Array, Batch, jax.Array], jax.Array]  # (log_policy f32[B, 10], batch, answers)


@dataclasses.dataclass(frozen=True)
class Arm:
    label: str  # as reports print it
    family: Family
    loss: str  # a name in `build_losses`
    teacher: str | None = None  # whose labels it reads, one of TEACHERS
    anchor: str | None = None  # a name in ANCHORS
    reads_base: bool = False  # needs the base's (or an RL teacher's) answer to every image
    knobs: dict[str, str] = dataclasses.field(default_factory=dict)  # its line in results.jsonl
    roles: str = ""  # its parts in comparisons; an arm with an anchor stands for no family


NO_STD, STD = {"advantage_norm": "none"}, {"advantage_norm": "std"}
ARMS = {
    "sft1": Arm("SFT-1", "outside", "nll", "fixed_digit", roles="plain"),
    "sft2": Arm("SFT-2", "outside", "nll", "random_pair", roles="plain"),
    "oracle": Arm(
        "Oracle SFT, sampled", "near", "nll", "oracle",
        reads_base=True, knobs={"oracle": "sampled"}, roles="kl_minimal",
    ),
    "oracle_soft": Arm(
        "Oracle SFT, soft", "near", "oracle_soft",
        reads_base=True, knobs={"oracle": "soft"}, roles="kl_minimal_soft",
    ),
    "grpo": Arm("GRPO", "reward", "grpo", knobs=NO_STD, roles="plain two_sided unnormalised"),
    "grpo_std": Arm(
        "GRPO, std-normalised", "reward", "grpo_std", knobs=STD, roles="plain normalised"
    ),
    "grpo_kl": Arm(
        "GRPO + KL penalty", "reward", "grpo",
        anchor="kl_policy_base", reads_base=True, knobs=NO_STD,
    ),
    "grpo_std_kl": Arm(
        "GRPO, std + KL penalty", "reward", "grpo_std",
        anchor="kl_policy_base", reads_base=True, knobs=STD,
    ),
    "reinforce": Arm("1-0 REINFORCE", "reward", "reinforce", roles="plain one_sided"),
    "simpo": Arm("SimPO", "outside", "simpo", "random_pair", roles="two_sided"),
    "distilled": Arm("SFT distilled from RL", "near", "nll", "distilled", reads_base=True),
    "self_sft": Arm("Self-SFT, frozen samples", "near", "nll", "self_sft", reads_base=True),
    "iterative_sft": Arm("Iterative SFT", "near", "iterative_sft"),
    "dft": Arm("DFT", "outside", "dft", "random_pair"),
    "sft_kl_base_policy": Arm(
        "SFT + KL(base‖policy)", "outside", "nll", "random_pair",
        anchor="kl_base_policy", reads_base=True,
    ),
    "sft_kl_policy_base": Arm(
        "SFT + KL(policy‖base)", "outside", "nll", "random_pair",
        anchor="kl_policy_base", reads_base=True,
    ),
}  # fmt: skip
# The choices that the paper leaves open and its replications make differently: the arm that each
# value of `config.advantage_norm` and `config.oracle` stands for.
VARIANTS = {
    "grpo": ("advantage_norm", {"none": "grpo", "std": "grpo_std"}),
    "grpo_kl": ("advantage_norm", {"none": "grpo_kl", "std": "grpo_std_kl"}),
    "oracle": ("oracle", {"sampled": "oracle", "soft": "oracle_soft"}),
}
ON_POLICY_LOSSES = ("grpo", "grpo_std", "reinforce", "iterative_sft")


def _one_token(mask_like: jax.Array) -> jax.Array:  # bool[B, 1]
    return jnp.ones((mask_like.shape[0], 1), bool)


def imitate(log_policy, batch, answers, *, loss=nll):
    """Follows the teacher's label; images for which it found none are left out."""
    logprobs = token_logprobs(log_policy, batch.labels)
    return loss(logprobs[:, None], batch.has_label[:, None])[0]


def imitate_oracle_softly(log_policy, batch, answers):
    """Cross-entropy to q* itself rather than to a sample of it (a replication's choice)."""
    target = jnp.exp(jax.vmap(oracle_log_probs)(batch.base_logits, batch.digits))
    return soft_cross_entropy(log_policy[:, None], target[:, None], _one_token(log_policy))[0]


def prefer(log_policy, batch, answers):
    """SimPO as RL's Razor prints it: the teacher's right answer against its wrong one."""
    pair = [token_logprobs(log_policy, y)[:, None] for y in (batch.labels, batch.wrong_labels)]
    everywhere = _one_token(log_policy)
    return simpo(pair[0], everywhere, pair[1], everywhere, beta=1.0, margin=1.0)[0]


def reinforce(log_policy, batch, answers, *, advantage: Callable[[jax.Array], jax.Array]):
    """Policy gradient on G fresh answers a prompt.

    With one update a sample, the probability ratio of GRPO is 1 and its clip never binds: GRPO is
    this with group advantages, 1-0 REINFORCE is this with the bare reward.
    """
    rewards = jax.vmap(jax.vmap(judge, in_axes=(0, None)))(answers, batch.digits).reward
    per_answer = jnp.broadcast_to(log_policy[:, None], (*answers.shape, log_policy.shape[-1]))
    return policy_gradient(
        token_logprobs(per_answer, answers).reshape(-1, 1),
        advantage(rewards).reshape(-1),
        jnp.ones((answers.size, 1), bool),
    )[0]


def iterate_sft(log_policy, batch, answers):
    """RAFT: imitates the first right one of G fresh answers; prompts with none are left out."""
    labels, found = jax.vmap(first_correct)(answers, batch.digits)
    return nll(token_logprobs(log_policy, labels)[:, None], found[:, None])[0]


def build_losses(*, std_epsilon: float) -> dict[str, Loss]:
    """The losses by name; several arms share one and differ in teacher or anchor."""
    return {
        "nll": imitate,
        "dft": functools.partial(imitate, loss=dft),
        "oracle_soft": imitate_oracle_softly,
        "simpo": prefer,
        "grpo": functools.partial(reinforce, advantage=centred),
        "grpo_std": functools.partial(
            reinforce, advantage=functools.partial(standardised, epsilon=std_epsilon)
        ),
        "reinforce": functools.partial(reinforce, advantage=lambda rewards: rewards),
        "iterative_sft": iterate_sft,
    }


def kl_base_policy(log_policy, batch):
    """KL(base||policy), exact over the classes."""
    log_base = jax.nn.log_softmax(batch.base_logits)
    return kl_penalty(log_base[:, None], log_policy[:, None], _one_token(log_policy))[0]


def kl_policy_base(log_policy, batch):
    """KL(policy||base), exact over the classes."""
    log_base = jax.nn.log_softmax(batch.base_logits)
    return kl_penalty(log_policy[:, None], log_base[:, None], _one_token(log_policy))[0]


ANCHORS = {
    None: lambda log_policy, batch: jnp.float32(0),
    "kl_base_policy": kl_base_policy,
    "kl_policy_base": kl_policy_base,
}


def sample_answers(
    key: jax.Array,
    log_policy: jax.Array,  # f32[B, V]
    group_size: int,
) -> jax.Array:  # i32[B, G]
    """G answers a prompt by inverting the cumulative distribution.

    One random number an answer where `jax.random.categorical` draws one an answer and class, which
    cost more than the rest of the loss. Probabilities are resolved to about 1e-7.
    """
    cumulative = jnp.cumsum(jnp.exp(log_policy), axis=-1)[:, None]
    draws = jax.random.uniform(key, (log_policy.shape[0], group_size, 1)) * cumulative[..., -1:]
    answers = jnp.sum(draws >= cumulative, axis=-1, dtype=jnp.int32)
    return jnp.minimum(answers, log_policy.shape[-1] - 1)


def make_arm_loss(
    *, group_size: int, kl_coefficient: float, anchor_coefficient: float, std_epsilon: float
) -> Callable[[jax.Array, jax.Array, Batch, jax.Array], jax.Array]:
    """Returns `(arm i32[], log_policy f32[B, 10], batch, key) -> loss`: one program, every arm."""
    losses = build_losses(std_epsilon=std_epsilon)
    arms = list(ARMS.values())
    loss_of = np.array([list(losses).index(arm.loss) for arm in arms])
    anchor_of = np.array([list(ANCHORS).index(arm.anchor) for arm in arms])
    samples = np.array([arm.loss in ON_POLICY_LOSSES for arm in arms])
    # The paper's coefficient penalises RL, the follow-ups' anchors SFT.
    coefficient = np.where(samples, kl_coefficient, anchor_coefficient).astype(np.float32)

    def arm_loss(arm, log_policy, batch, key):
        shape = (log_policy.shape[0], group_size)
        answers = jax.lax.cond(
            jnp.asarray(samples)[arm],
            lambda p: sample_answers(key, p, group_size),
            lambda p: jnp.zeros(shape, jnp.int32),  # an offline arm does not look at them
            jax.lax.stop_gradient(log_policy),
        )
        loss = _one_of(losses, jnp.asarray(loss_of)[arm], log_policy, batch, answers)
        anchor = _one_of(ANCHORS, jnp.asarray(anchor_of)[arm], log_policy, batch)
        return loss + jnp.asarray(coefficient)[arm] * anchor

    return arm_loss


def _one_of(functions: dict, index: jax.Array, log_policy: jax.Array, *rest) -> jax.Array:
    """functions[index](log_policy, *rest), with its gradient in log_policy.

    Each branch returns its own gradient. Differentiating through the switch would have every
    branch carry the residuals of all others: code that grows with the square of their number.
    """
    branches = [jax.value_and_grad(function) for function in functions.values()]
    fixed = jax.lax.stop_gradient(log_policy)
    value, gradient = jax.lax.switch(index, branches, fixed, *rest)
    return value + jnp.sum(gradient * (log_policy - fixed))
