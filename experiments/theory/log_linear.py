"""(b) An e-flat family: pi(a|s) = pi0(a|s) exp(theta . phi(s, a)) / Z(s), full support.

Seen as one product distribution over states, this is an exponential family, so the assumption of
Proposition A.4 holds; its optimal policies are limits, on faces of the feature polytope.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.theory.closest import closest_on_faces, constrained_minimum
from experiments.theory.records import finding, trace
from rlrazor.ops import projections
from rlrazor.ops.kl import kl


def alternation(log_base, features, correct, start=None, *, rounds, newton_steps) -> jax.Array:
    """Its parameters f[rounds + 1, K], from pi0 (theta = 0) unless told otherwise."""
    family = functools.partial(projections.log_linear, log_base=log_base, features=features)
    m_projection = functools.partial(
        projections.log_linear_m_projection,
        log_base=log_base, features=features, steps=newton_steps,
    )  # fmt: skip
    start = jnp.zeros(features.shape[-1]) if start is None else start
    return projections.alternate(family, m_projection, start, correct, rounds=rounds)


def along(family, path, log_base, correct):
    """Of a path of parameters: KL(pi||pi0), KL(pi0||pi) summed over states, mean 1 - J."""
    log_policy = jax.vmap(family)(path)
    failure = jnp.sum(jnp.exp(log_policy), axis=-1, where=~correct[None]).mean(-1)
    base = jnp.broadcast_to(log_base, log_policy.shape)
    return kl(log_policy, base).sum(-1), kl(base, log_policy).sum(-1), failure


def case_arrays(case: Any):
    correct = np.array([case.correct], bool)
    projections.require_correct_action(correct)
    return jnp.log(jnp.array([case.base])), jnp.array([case.features]), jnp.asarray(correct)


def check_case(name: str, config: Any) -> list[dict]:
    """One hand-made family: the alternation's limit against pi_dagger, found in two ways.

    With one wrong action w the limit is known: each round moves E_pi[phi] straight away from
    phi(w), so it ends where the ray from phi(w) through E_q[phi], q = pi0 R / Z, leaves the
    polytope. The mean features of pi_dagger lie elsewhere on its boundary.
    """
    log_base, features, correct = case_arrays(config.cases[name])
    family = functools.partial(projections.log_linear, log_base=log_base, features=features)
    path = alternation(log_base, features, correct, rounds=60, newton_steps=config.newton_steps)
    towards, _, failure = along(family, path, log_base, correct)
    dagger, closest = closest_on_faces(*map(np.asarray, (log_base, features, correct)))
    directions = np.random.default_rng(0).normal(size=(20, features.shape[-1]))
    _, slsqp = constrained_minimum(
        projections.log_linear, (log_base, features), log_base, correct, list(directions),
        failure=1e-9,
    )  # fmt: skip
    limit = np.exp(np.asarray(family(path[-1])))[0]
    found = (
        f"pi0 {np.exp(log_base)[0].round(3).tolist()}: the alternation ends at "
        f"{(limit + 0).round(4).tolist()}, J = {1 - failure[-1]:.6f}; pi_dagger = "
        f"{dagger[0].round(4).tolist()}, KL = {closest:.6f} (SLSQP {slsqp:.6f}); number: excess "
        "KL in nats, or 1-J where it stalls"
    )
    optimal = bool(failure[-1] < 1e-6)
    number = float(towards[-1]) - closest if optimal else float(failure[-1])
    claim = f"e-flat family, case '{name}': the alternation converges to pi_dagger"
    line = features.shape[-1] == 1  # then J(theta) can be drawn
    theta = jnp.linspace(-6, 6, 121 if line else 0)
    theta = jnp.outer(theta, jnp.ones(features.shape[-1]))
    grid = along(family, theta, log_base, correct)
    return [
        finding("b", claim, optimal and abs(number) < 1e-6, found, number),
        trace("b", name, "alternation", np.stack([path[:, 0], 1 - failure], 1)),
        trace("b", name, "family", np.stack([theta[:, 0], 1 - grid[2]], 1)),
    ]


def check_pythagoras(config: Any) -> list[dict]:
    """Which step breaks, on the case 'farther', for its two optimal policies p = delta_first/last.

    KL(p||pi) - KL(p'||pi) has to stay put for pi_dagger to be remembered. The I-step keeps it (the
    Pythagorean identity of P*); that of the M-step has the policy in the other argument.
    """
    log_base, features, correct = case_arrays(config.cases.farther)
    family = functools.partial(projections.log_linear, log_base=log_base, features=features)
    path = alternation(log_base, features, correct, rounds=8, newton_steps=config.newton_steps)
    errors, memory = {"I": [], "M": []}, {"I": [], "M": []}
    optima = [jnp.where(jnp.arange(3) == a, 0.0, -jnp.inf)[None] for a in (0, 2)]
    for before, after in itertools.pairwise(path):
        policy, following = family(before), family(after)
        q = projections.i_projection(policy, correct)
        for p in optima:
            errors["I"].append(float((kl(p, policy) - kl(p, q) - kl(q, policy))[0]))
        other = log_base  # any member of the family serves
        errors["M"].append(float((kl(q, other) - kl(q, following) - kl(following, other))[0]))
        at = [float((kl(optima[0], x) - kl(optima[1], x))[0]) for x in (policy, q, following)]
        memory["I"].append(at[1] - at[0])
        memory["M"].append(at[2] - at[1])
    records = []
    for step, identity in (
        ("I", "KL(p||pi) = KL(p||q) + KL(q||pi) for every p in P*"),
        ("M", "KL(q||p) = KL(q||pi') + KL(pi'||p) for every p in the family"),
    ):
        worst = float(np.abs(errors[step]).max())
        found = "largest residual in nats over 8 rounds"
        records.append(finding("b", f"{step}-step: {identity}", worst < 1e-9, found, worst))
        worst = float(np.abs(memory[step]).max())
        claim = f"{step}-step keeps KL(p||pi) - KL(p'||pi) for optimal p, p'"
        found = "largest change in nats in one of 8 rounds"
        records.append(finding("b", claim, worst < 1e-9, found, worst))
    return records


def run(config: Any) -> list[dict]:
    cases = [record for name in config.cases for record in check_case(name, config)]
    return [*cases, *check_pythagoras(config)]
