"""(a) One state, V actions, every policy allowed: the full simplex.

pi_dagger, the optimal policy closest to pi0 in KL(pi||pi0), is pi0 conditioned on being correct.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.theory.records import curve, finding, trace
from rlrazor.ops import projections
from rlrazor.ops.advantages import centred
from rlrazor.ops.kl import kl


def softmax_table(logits: jax.Array) -> jax.Array:  # f[V] -> f[1, V]
    return jax.nn.log_softmax(logits)[None]


def directions(correct: jax.Array) -> dict[str, projections.Direction]:
    gradient = functools.partial(projections.policy_gradient, softmax_table, correct[None])
    return {
        "policy gradient": gradient(),
        "std-normalised (GRPO)": gradient(normaliser=projections.reward_std),
        "natural policy gradient": projections.natural_policy_gradient(
            softmax_table, correct[None]
        ),
    }


@jax.jit
def gap_and_failure(paths: jax.Array, bases: jax.Array, correct: jax.Array):
    """KL(pi(.|correct) || pi_dagger) nats and 1 - J, both f[N, steps], of paths f[N, steps, V].

    Conditioning on being correct keeps the gap finite, and changes nothing in the limit.
    """
    log_policy = jax.nn.log_softmax(paths)
    mask = jnp.broadcast_to(correct, paths.shape)
    dagger = projections.i_projection(jnp.broadcast_to(bases[:, None], paths.shape), mask)
    gap = kl(projections.i_projection(log_policy, mask), dagger)
    return gap, jnp.sum(jnp.exp(log_policy), axis=-1, where=~mask)


def at_failure(values: jax.Array, failures: jax.Array, level: float) -> np.ndarray:
    """Each run's value f[N] the first time its 1 - J is at most `level`; NaN where it never is."""
    reached = np.asarray(failures) <= level
    first = np.take_along_axis(np.asarray(values), reached.argmax(1)[:, None], axis=1)[:, 0]
    return np.where(reached.any(1), first, np.nan)


def check_alternation(bases: jax.Array, correct: jax.Array) -> list[dict]:
    """One round from every base; one-hot features make the log-linear family the whole simplex."""
    one_hot = jnp.eye(correct.size)[None]

    def one_round(base):
        family = functools.partial(projections.log_linear, log_base=base[None], features=one_hot)
        m_projection = functools.partial(
            projections.log_linear_m_projection, log_base=base[None], features=one_hot, steps=60
        )
        start = jnp.zeros_like(base)
        path = projections.alternate(family, m_projection, start, correct[None], rounds=1)
        return jnp.exp(family(path[-1])[0])

    dagger = jnp.exp(projections.i_projection(bases, jnp.broadcast_to(correct, bases.shape)))
    worst = float(jnp.abs(jax.jit(jax.vmap(one_round))(bases) - dagger).max())
    claim = "full simplex: the alternation reaches pi_dagger"
    found = f"in one round, from {len(bases)} random pi0 (largest probability difference)"
    return [finding("a", claim, worst < 1e-6, found, worst)]


def check_flows(config: Any, levels, bases: jax.Array, correct: jax.Array) -> list[dict]:
    """Where the exact gradient flows go."""
    records, paths, gaps = [], {}, {}
    for name, direction in directions(correct).items():
        follow = functools.partial(
            projections.flow, direction, step_length=config.step_length, steps=config.flow_steps
        )
        paths[name] = jax.jit(jax.vmap(follow))(bases)
        gap, failure = gap_and_failure(paths[name], bases, correct)
        gaps[name] = [at_failure(gap, failure, level) for level in levels]
        points = zip(levels, gaps[name], strict=True)
        records += [curve("a", "gap", name, x, values) for x, values in points]

    medians = dict(zip(levels, np.nanmedian(gaps["policy gradient"], axis=1), strict=True))
    dagger = projections.i_projection(bases, jnp.broadcast_to(correct, bases.shape))
    limit = float(np.median(-dagger.max(-1)))
    records.append(curve("a", "gap", "limit of policy gradient", levels[-1], -dagger.max(-1)))
    found = "no: to argmax pi0 among the correct actions; median KL gap in nats at 1-J = "
    found += ", ".join(f"{x:.0e}: {gap:.3f}" for x, gap in medians.items())
    found += f"; its limit is -log max pi_dagger, median {limit:.3f} (number: at 1e-3)"
    claim = "full simplex: policy gradient flow on the logits converges to pi_dagger"
    records.append(finding("a", claim, medians[1e-3] < 1e-6, found, medians[1e-3]))

    policies = {name: jax.nn.softmax(path) for name, path in paths.items()}
    worst = jnp.abs(policies["std-normalised (GRPO)"] - policies["policy gradient"]).max()
    claim = "one state: std-normalised advantages (GRPO) only change the clock"
    found = "the same curve as policy gradient (largest probability difference at unit speed)"
    records.append(finding("a", claim, bool(worst < 1e-6), found, worst))

    worst = np.nanmax(np.abs(gaps["natural policy gradient"]))
    claim = "full simplex: natural policy gradient flow (pi0 exp(tR)) converges to pi_dagger"
    found = "pi(.|correct) never moves (largest KL gap in nats, down to 1-J = 1e-8)"
    return [*records, finding("a", claim, bool(worst < 1e-6), found, worst)]


def check_learning_rates(config: Any, bases: jax.Array, correct: jax.Array) -> list[dict]:
    """Plain gradient ascent, learning rate by learning rate, where 1 - J first reaches 1e-2."""
    records, medians = [], {name: [] for name in directions(correct)}
    for name, direction in directions(correct).items():

        def climb(rate, base, direction=direction):
            steps = config.ascent_steps
            return projections.ascend(direction, base, learning_rate=rate, steps=steps)

        climb_all = jax.jit(jax.vmap(climb, in_axes=(None, 0)))
        for rate in config.learning_rates:
            gap, failure = gap_and_failure(climb_all(rate, bases), bases, correct)
            values = at_failure(gap, failure, 1e-2)
            records.append(curve("a", "learning rate", name, rate, values))
            medians[name].append(float(np.nanmedian(np.abs(values))))
    claim = "full simplex: a smaller learning rate brings policy gradient to pi_dagger"
    found = "no; median KL gap in nats at 1-J = 1e-2, by learning rate: " + ", ".join(
        f"{rate:g}: {gap:.3f}"
        for rate, gap in zip(config.learning_rates, medians["policy gradient"], strict=True)
    )
    smallest = medians["policy gradient"][0]
    records.append(finding("a", claim, smallest < 1e-6, found, smallest))
    worst = max(medians["natural policy gradient"])
    claim = "full simplex: natural policy gradient stays on course at any learning rate"
    found = f"largest median gap over {list(config.learning_rates)}"
    return [*records, finding("a", claim, worst < 1e-6, found, worst)]


def check_partial_m_steps(config: Any, bases: jax.Array, correct: jax.Array) -> list[dict]:
    """Gradient steps per I-projection: 1 is policy gradient, infinity is the alternation."""
    records, medians = [], []
    for inner in config.m_steps:

        def m_projection(logits, log_q, inner=inner):
            def towards_q(z):  # the gradient of -KL(q||pi)
                return jnp.exp(log_q[0]) - jax.nn.softmax(z)

            return projections.ascend(towards_q, logits, learning_rate=1.0, steps=inner)[-1]

        rounds = -(-config.ascent_steps // inner)
        path = jax.jit(
            jax.vmap(
                lambda z, m=m_projection, r=rounds: projections.alternate(
                    softmax_table, m, z, correct[None], rounds=r
                )
            )
        )(bases)
        gap, failure = gap_and_failure(path, bases, correct)
        values = at_failure(gap, failure, 1e-2)
        medians.append(float(np.nanmedian(values)))
        records.append(curve("a", "m steps", "policy gradient", inner, values))
    claim = "full simplex: one gradient step per I-projection stands for the M-projection"
    found = "no, it takes many; median KL gap at 1-J = 1e-2, by steps per I-projection: "
    found += ", ".join(f"{k}: {g:.4f}" for k, g in zip(config.m_steps, medians, strict=True))
    return [*records, finding("a", claim, medians[0] < 1e-6, found, medians[0])]


def check_sampling(config: Any, seed: int) -> list[dict]:
    """1-0 REINFORCE and centred advantages on small groups: the drift on top of the flow."""
    sampled, base = config.sampled, jnp.log(jnp.asarray(config.trace_base))
    correct = jnp.arange(base.size) < base.size - 1
    keys = jax.random.split(jax.random.key(seed), sampled.seeds)
    advantages = {
        "1-0 REINFORCE, sampled": lambda rewards: rewards,
        "centred advantages, sampled": lambda rewards: centred(rewards[None])[0],
    }
    records = []
    for name, advantages_fn in advantages.items():
        paths = jax.jit(
            jax.vmap(
                lambda key, fn=advantages_fn: projections.sampled_policy_gradient(
                    key, base, correct, fn, learning_rate=sampled.learning_rate,
                    samples=sampled.samples, steps=sampled.steps,
                )
            )
        )(keys)  # fmt: skip
        gaps, _ = gap_and_failure(paths, jnp.broadcast_to(base, (len(keys), base.size)), correct)
        for step in np.unique(np.geomspace(1, sampled.steps, 25).astype(int)):
            records.append(curve("a", "drift", name, step, gaps[:, step]))
        shown = np.unique(np.geomspace(1, sampled.steps, 60).astype(int)) - 1
        records.append(trace("a", "simplex", name, jax.nn.softmax(paths[0, shown])))
        share = np.asarray(jax.nn.softmax(paths[:, -1])[:, :-1])
        dagger = np.exp(projections.i_projection(base, correct))[:-1].round(3).tolist()
        found = (
            f"after {sampled.steps} steps of {sampled.samples} samples, {sampled.seeds} seeds: "
            f"{(share.max(1) > 0.99).mean():.0%} of runs hold one answer with p > 0.99; mean "
            f"policy {share.mean(0).round(3).tolist()}, pi_dagger {dagger} (number: median KL gap "
            "in nats)"
        )
        claim = f"{name}: converges to pi_dagger"
        median = float(np.median(gaps[:, -1]))
        records.append(finding("a", claim, median < 1e-6, found, median))
    for name, direction in directions(correct).items():
        path = projections.flow(direction, base, step_length=config.step_length, steps=600)
        records.append(trace("a", "simplex", name, jax.nn.softmax(path[::10])))
    dagger = jnp.exp(projections.i_projection(base, correct))
    return [*records, trace("a", "simplex", "alternation", jnp.stack([jnp.exp(base), dagger]))]


def check_direction(levels, bases: jax.Array, correct: jax.Array) -> list[dict]:
    """Both directions of KL along pi_t = pi0 exp(tR), where J is dialled exactly."""
    base, records = bases[0], []
    failing = float(jnp.sum(jnp.exp(base), where=~correct))
    values = []
    for level in levels:
        wrong = jnp.where(
            correct, jnp.log1p(-level) - jnp.log1p(-failing), jnp.log(level / failing)
        )
        values.append([float(kl(base + wrong, base)), float(kl(base, base + wrong))])
        records.append(curve("a", "direction", "KL(pi||pi0)", level, values[-1][:1]))
        records.append(curve("a", "direction", "KL(pi0||pi)", level, values[-1][1:]))
    decades = np.log(levels[-2] / levels[-1])
    slope = (values[-1][1] - values[-2][1]) / decades
    claim = "KL(pi||pi0) of the theorem and KL(pi0||pi) of the law can be exchanged"
    found = (
        f"no: as J -> 1 the first tends to -log J0 = {-np.log1p(-failing):.3f} nats and the second "
        f"grows without bound, by 1-J0 = {failing:.3f} nats for each nat of log 1/(1-J) "
        "(number: measured growth)"
    )
    return [*records, finding("a", claim, False, found, slope)]


def run(config: Any, levels: tuple[float, ...], seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    bases = jnp.log(jnp.asarray(rng.dirichlet(np.ones(config.actions), config.bases)))
    correct = jnp.arange(config.actions) < config.correct
    projections.require_correct_action(np.asarray(correct)[None])
    return [
        *check_alternation(bases, correct),
        *check_flows(config, levels, bases, correct),
        *check_learning_rates(config, bases, correct),
        *check_partial_m_steps(config, bases, correct),
        *check_sampling(config, seed),
        *check_direction(levels, bases, correct),
    ]
