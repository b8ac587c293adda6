"""What is minimised: each term beside a loop over rows and tokens, and every knob alive."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.general_points.language import END
from experiments.rule_shift.arms import METHODS
from experiments.rule_shift.batches import Rows, with_demonstration
from experiments.rule_shift.objectives import OBJECTIVES, Others
from tests.oracles import tiny_shift
from tests.oracles.tiny_shift import FORMULA_TOKEN, V, make_toy, tiny_config

pytestmark = pytest.mark.usefixtures("quick_compiles")

B, T, K = 4, 9, 2
TOKENS, MASK = tiny_shift.rows_of(B, T)
RNG = np.random.default_rng(1)
ADVANTAGES = np.array([1.0, -0.5, 2.0, -1.0], np.float32)


def context_of(**changes):
    return tiny_shift.toy().context(tiny_config(**changes))


@functools.cache
def scored(policy):
    """log pi of every token, and its gradient in every parameter: [B, T] and leaves [B, T, ...]."""
    context = context_of()

    def logprobs(params):
        return context.logprobs(params, jnp.asarray(TOKENS))

    params = tiny_shift.toy().params[policy]
    return jax.device_get((logprobs(params), jax.jit(jax.jacrev(logprobs))(params)))


@functools.cache
def behaviour():
    """Of a policy near the one that learns: some ratios are clipped, most are not."""
    logprobs, _ = scored(0)
    return (logprobs + RNG.normal(0, 0.25, (B, T)) * MASK).astype(np.float32)


def rows(**columns):
    return Rows(
        tokens=jnp.asarray(TOKENS),
        mask=jnp.asarray(MASK),
        behaviour_logprobs=jnp.asarray(behaviour()),
        advantages=jnp.asarray(ADVANTAGES),
        **columns,
    )


def others():
    return Others(*tiny_shift.toy().params[1:4])


def params_of(context, objective="grpo"):
    params = {"policy": tiny_shift.toy().params[0]}
    if objective == "ppo":
        hidden = jnp.zeros((1, 1, context.model.config.width))
        params["critic"] = context.critic.init(jax.random.key(3), hidden)
    return params


@functools.cache
def gradient_program(name, **changes):
    context, objective = context_of(**changes), OBJECTIVES[name]
    params = params_of(context, name)

    @jax.jit
    def gradient(params, batch):
        added = jax.lax.stop_gradient(objective.prepare(context, params, others(), batch))
        batch = batch.replace(added=added)
        return jax.grad(lambda p: objective.loss(context, p, others(), batch)[0])(params)

    return lambda batch: jax.device_get(gradient(params, batch))


def gradient_of(name, batch, **changes):
    return gradient_program(name, **changes)(batch)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


# GRPO: a sum over tokens that have not moved too far, divided by the longest answer.


def test_the_gradient_of_grpo_is_the_loops():
    logprobs, jacobian = scored(0)
    knobs = tiny_config().objective.grpo
    gradient, clipped = 0.0, 0
    for b in range(B):
        for t in range(T):
            if not MASK[b, t]:
                continue
            ratio = np.exp(np.float64(logprobs[b, t]) - behaviour()[b, t])
            too_high = ADVANTAGES[b] > 0 and ratio > 1 + knobs.clip_high
            too_low = ADVANTAGES[b] < 0 and ratio < 1 - knobs.clip_low
            if too_high or too_low:
                clipped += 1
                continue
            mine = flat(jax.tree.map(lambda leaf, b=b, t=t: leaf[b, t], jacobian))
            gradient = gradient - ADVANTAGES[b] * ratio * mine
    assert 0 < clipped < MASK.sum() / 2
    found = flat(gradient_of("grpo", rows())["policy"])
    longest = tiny_config().answer_tokens
    np.testing.assert_allclose(found, gradient / (B * longest), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["grpo", *(pytest.param(n, marks=pytest.mark.slow) for n in ("nll", "reinforce"))]
)
def test_a_token_outside_the_mask_is_not_learnt_from(name):
    """What follows the last answer changes nothing, and neither does a score outside the mask."""
    batch = rows()
    outside = ~MASK
    after = np.cumsum(MASK[:, ::-1], axis=1)[:, ::-1] == 0
    tokens = np.where(after, (TOKENS + 5) % V, TOKENS)
    assert (tokens != TOKENS).any()
    scores = np.where(outside, 9.0, behaviour()).astype(np.float32)
    changed = batch.replace(tokens=jnp.asarray(tokens), behaviour_logprobs=jnp.asarray(scores))
    np.testing.assert_allclose(
        flat(gradient_of(name, changed)), flat(gradient_of(name, batch)), rtol=1e-5, atol=1e-7
    )


# PPO: turns.


@functools.cache
def of_turns():
    """Rows of two turns, each mask split in two, one row of one turn."""
    turn, start = np.full((B, T), -1, np.int32), np.zeros((B, K), np.int32)
    played = np.array([[True, True]] * (B - 1) + [[True, False]])
    for b in range(B):
        (places,) = np.nonzero(MASK[b])
        cut = len(places) // 2 if played[b, 1] else len(places)
        turn[b, places[:cut]], turn[b, places[cut:]] = 0, 1
        start[b] = places[0], places[cut] if played[b, 1] else 0
    rewards = np.where(played, RNG.integers(0, 4, (B, K)), 0).astype(np.float32)
    extra = {"turn": turn, "answer_start": start, "played": played, "rewards": rewards}
    tokens = TOKENS.copy()
    tokens[0, start[0, 0]] = FORMULA_TOKEN + 0  # the first token of the formula counts in full
    tokens[1, start[1, 0] :] = 5
    return rows(**{k: jnp.asarray(v) for k, v in extra.items()}).replace(tokens=jnp.asarray(tokens))


def test_ppos_sums_values_and_advantages_are_the_loops():
    batch, context = of_turns(), context_of()
    knobs = context.knobs.ppo
    params = params_of(context, "ppo")
    seen = OBJECTIVES["ppo"].prepare(context, params, others(), batch)
    hidden = np.asarray(context.hidden(params["policy"], batch.tokens))
    logprobs = np.asarray(context.logprobs(params["policy"], batch.tokens), np.float64)
    start, played = np.asarray(batch.answer_start), np.asarray(batch.played)
    sums, old_sums, values = np.zeros((3, B, K))
    for b in range(B):
        for k in range(K):
            if not played[b, k]:
                continue
            values[b, k] = context.critic.apply(params["critic"], hidden[b, start[b, k] - 1])
            weight = knobs.thought_weight
            for t in range(T):
                if batch.turn[b, t] == k:
                    if batch.tokens[b, t] == FORMULA_TOKEN:
                        weight = 1.0
                    sums[b, k] += weight * logprobs[b, t]
                    old_sums[b, k] += weight * behaviour()[b, t]
    advantages = np.zeros((B, K))
    for b in range(B):
        following = next_value = 0.0
        for k in reversed(range(K)):
            if played[b, k]:
                delta = batch.rewards[b, k] + knobs.discount * next_value - values[b, k]
                following = delta + knobs.discount * knobs.decay * following
                advantages[b, k], next_value = following, values[b, k]
    np.testing.assert_allclose(np.where(played, seen.values, 0), values, atol=1e-5)
    targets = np.where(played, seen.targets, 0)
    np.testing.assert_allclose(targets, advantages + values, atol=1e-5)
    kept = advantages[played]
    white = np.where(played, (advantages - kept.mean()) / (kept.std() + 1e-8), 0)
    np.testing.assert_allclose(seen.advantages, white, atol=1e-4)

    ratio = np.exp(sums - old_sums)
    assert ratio[played].max() < knobs.fallback_above
    clipped = np.clip(ratio, 1 - knobs.clip, 1 + knobs.clip)
    policy = -np.minimum(ratio * white, clipped * white)[played].mean()
    critic = 0.5 * np.square(advantages)[played].mean()  # nothing has moved yet
    loss, metrics = OBJECTIVES["ppo"].loss(context, params, others(), batch.replace(added=seen))
    np.testing.assert_allclose(loss, policy + knobs.value_coefficient * critic, rtol=1e-4)
    np.testing.assert_allclose(metrics["value_error"], 2 * critic, rtol=1e-4)


# SDFT: the teacher saw a demonstration, so its rows are longer.


def test_the_teachers_row_beside_each_token_is_that_of_scoring_the_shown_row():
    context, task = context_of(), make_toy()
    keys = jax.random.split(jax.random.key(5), B)
    batch = rows()
    batch = batch.replace(shown=jax.jit(functools.partial(with_demonstration, task))(keys, batch))
    beside = OBJECTIVES["sdft"].prepare(context, {}, others(), batch)  # i.e. rows.added
    assert beside.shape == (B, T - 1, V)
    model, average = tiny_shift.toy().model, others().average
    score = jax.jit(lambda tokens: jax.nn.log_softmax(
        model.apply(average, model.apply(average, tokens)[0], method="logits")))  # fmt: skip
    checked = 0
    for b, key in enumerate(keys):
        state = task.reset(jax.random.fold_in(key, 0))
        said = task.opening(state)
        answer, length = task.demonstrate(jax.random.fold_in(key, 2), state)
        before = [*said.tokens[: said.length].tolist(), *answer[:length].tolist(), END]
        for t in np.flatnonzero(MASK[b]):
            # Read up to the token before: what would the teacher say now?
            read = [*before, *TOKENS[b, :t].tolist()]
            padded = jnp.array([read + [0] * (24 - len(read))])
            np.testing.assert_allclose(
                beside[b, t - 1], score(padded)[0, len(read) - 1], rtol=1e-4, atol=1e-5
            )
            checked += 1
    assert checked == MASK.sum()


def test_sdft_is_the_divergence_from_the_teachers_rows():
    context, params = context_of(), params_of(context_of())
    log_p = np.asarray(context.distributions(params["policy"], TOKENS), np.float64)
    log_q = np.asarray(jax.nn.log_softmax(RNG.normal(size=(B, T - 1, V))))
    loss, _ = OBJECTIVES["sdft"].loss(
        context, params, others(), rows(added=jnp.asarray(log_q, jnp.float32))
    )
    at = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    np.testing.assert_allclose(loss, at[MASK[:, 1:]].mean(), rtol=1e-4)


# The others: sums by hand.


def by_hand(name):
    """The loss in numpy, in float64, from log-probabilities alone."""
    knobs = tiny_config().objective
    log_policy, log_base = (np.float64(scored(i)[0]) for i in (0, 1))
    log_teacher = np.float64(scored(2)[0])
    old = np.float64(behaviour())
    full = [
        np.asarray(context_of().distributions(tiny_shift.toy().params[i], TOKENS), np.float64)
        for i in (0, 1)
    ]
    mask, inner, A = MASK, MASK[:, 1:], np.float64(ADVANTAGES)[:, None]

    def surrogate(ratio, low, high):
        return np.minimum(ratio * A, np.clip(ratio, 1 - low, 1 + high) * A)

    def of_rows(x):
        return (x * mask).sum(1)

    def divergence(p, q):
        return (np.exp(p) * (p - q)).sum(-1)[inner].mean()

    ratio = np.exp(log_policy - old)
    tokens, longest = mask.sum(1), tiny_config().answer_tokens
    grpo = -of_rows(surrogate(ratio, **clips(knobs.grpo))).mean() / longest
    match name:
        case "nll":
            return -log_policy[mask].mean()
        case "grpo":
            return grpo
        case "grpo_std":
            return -(of_rows(surrogate(ratio, **clips(knobs.grpo))) / tokens).mean()
        case "dapo":
            return -surrogate(ratio, **clips(knobs.dapo))[mask].mean()
        case "rloo":
            whole = np.exp(of_rows(log_policy) - of_rows(old))[:, None]
            return -surrogate(whole, **clips(knobs.grpo)).mean()
        case "gspo":
            whole = np.exp((of_rows(log_policy) - of_rows(old)) / tokens)[:, None]
            return -surrogate(whole, **clips(knobs.gspo)).mean()
        case "anchored_nll":
            return -log_policy[mask].mean() + knobs.anchor.coefficient * divergence(*full[::-1])
        case "anchored_grpo":
            scale = mask.sum() / (B * longest)
            return grpo + knobs.kl.coefficient * scale * divergence(*full)
        case "on_policy_distillation":
            return (log_policy - log_teacher)[mask].mean()
        case "dpo":
            gap = of_rows(log_policy - log_base)
            return np.log1p(np.exp(-knobs.dpo.beta * (gap - gap[::-1]))).mean()
        case "simpo":
            sums = of_rows(log_policy)  # as in RL's Razor; SimPO's own paper takes means
            gap = knobs.simpo.beta * (sums - sums[::-1]) - knobs.simpo.margin
            return np.log1p(np.exp(-gap)).mean()


def clips(section):
    return {"low": section.clip_low, "high": section.clip_high}


@pytest.mark.parametrize(
    "name",
    ["nll", "grpo", "grpo_std", "dapo", "rloo", "gspo", "anchored_nll", "anchored_grpo", "dpo",
     "simpo"],
)  # fmt: skip
def test_losses_are_those_of_numpy(name):
    context, objective = context_of(), OBJECTIVES[name]
    params = params_of(context)
    batch = rows(rejected=(jnp.asarray(TOKENS[::-1]), jnp.asarray(MASK[::-1])))
    batch = batch.replace(added=objective.prepare(context, params, others(), batch))
    loss, _ = objective.loss(context, params, others(), batch)
    np.testing.assert_allclose(loss, by_hand(name), rtol=1e-4)


def test_distillation_reads_the_teacher():
    context = context_of()
    added = OBJECTIVES["on_policy_distillation"].prepare(context, {}, others(), rows())
    np.testing.assert_allclose(added, scored(2)[0], rtol=1e-5, atol=1e-5)


# Knobs.

KNOBS = {  # field -> another value, and the objectives that read it
    "grpo.clip_low": (0.9, ("grpo", "grpo_std", "rloo", "anchored_grpo")),
    "grpo.clip_high": (9.0, ("grpo", "grpo_std", "rloo", "anchored_grpo")),
    "dapo.clip_low": (0.9, ("dapo",)),
    "dapo.clip_high": (9.0, ("dapo",)),
    "gspo.clip_low": (3.0, ("gspo",)),
    "gspo.clip_high": (3.0, ("gspo",)),
    "psft.clip_high": (-0.5, ("psft",)),
    "simpo.beta": (2.0, ("simpo",)),
    "simpo.margin": (0.1, ("simpo",)),
    "dpo.beta": (0.5, ("dpo",)),
    "anchor.coefficient": (0.7, ("anchored_nll",)),
    "kl.coefficient": (0.7, ("anchored_grpo",)),
    "ppo.clip": (10.0, ("ppo",)),
    "ppo.fallback_above": (0.3, ("ppo",)),
    "ppo.value_coefficient": (0.1, ("ppo",)),
    "ppo.thought_weight": (1.0, ("ppo",)),
    "ppo.discount": (0.1, ("ppo",)),
    "ppo.decay": (0.1, ("ppo",)),
    "ppo.widths": ((4, 4), ("ppo",)),
}
ELSEWHERE = {"sdft.average_decay"}  # rule_shift_programs_test


def test_the_table_of_knobs_is_complete():
    sections = tiny_config().objective.to_dict()
    names = {f"{section}.{name}" for section, knobs in sections.items() for name in knobs}
    assert names == set(KNOBS) | ELSEWHERE
    readers = {objective for _, objectives in KNOBS.values() for objective in objectives}
    assert readers <= set(OBJECTIVES)


@functools.cache
def plain_gradient(name):
    return flat(gradient_of(name, knob_rows()))


def knob_rows():
    rejected = jnp.asarray(TOKENS[::-1]), jnp.asarray(MASK[::-1])
    far = behaviour() + np.array([[1.5], [-1.5], [-1.5], [1.5]], np.float32) * MASK / 3
    return of_turns().replace(rejected=rejected, behaviour_logprobs=jnp.asarray(far))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "objective"), [(f, o) for f, (_, readers) in KNOBS.items() for o in readers]
)
def test_every_knob_of_an_objective_is_alive(field, objective):
    other = flat(gradient_of(objective, knob_rows(), **{f"objective.{field}": KNOBS[field][0]}))
    plain = plain_gradient(objective)
    assert np.isfinite(other).all()
    assert len(other) != len(plain) or np.abs(other - plain).max() > 1e-6


def test_every_objective_is_a_methods():
    assert {method.objective for method in METHODS.values()} == set(OBJECTIVES)
