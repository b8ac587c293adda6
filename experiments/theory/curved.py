"""(c) Families that are not e-flat: a mixture of three policies, and a small network."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.optimize
import numpy as np
import scipy.optimize

from experiments.theory.closest import constrained_minimum
from experiments.theory.log_linear import along
from experiments.theory.records import curve, finding
from experiments.theory.tabular import at_failure
from rlrazor.ops import projections


def check_mixture(config: Any, seed: int) -> list[dict]:
    """pi = sum_k w_k m_k: flat in the other (m) sense, so P* and the family are both convex.

    Two components hold correct actions alone, the third also wrong ones: the optimal policies are
    the segment between the first two, on which pi_dagger is a convex problem in one number.
    """
    options = config.mixture
    rng = np.random.default_rng(seed)
    correct = np.arange(options.actions) < options.correct
    solvers = np.zeros((options.families, 2, options.actions))
    shape = solvers.shape[:2]
    solvers[..., correct] = rng.dirichlet(np.ones(options.correct), shape)
    failing = rng.dirichlet(np.ones(options.actions), options.families)[:, None]
    components = np.concatenate([solvers, failing], axis=1)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def solve(m, start):
        def family(log_w):
            return jnp.log(jnp.einsum("k,ksa->sa", jnp.exp(log_w), m[:, None]))

        def m_projection(log_w, log_q):
            return projections.mixture_m_projection(log_w, log_q, m[:, None], steps=100)

        path = projections.alternate(family, m_projection, start, correct[None], rounds=200)
        towards, _, failure = along(family, path, family(start), correct[None])
        return towards[-1], failure[-1]

    records, worst, medians, stalled = [], [], [], 0
    for share in options.starts:
        start = np.array([share, 1 - share, 1.0]) * [*[1 - options.failing] * 2, options.failing]
        towards, failure = map(np.asarray, solve(jnp.asarray(components), jnp.log(start)))
        closest = []
        for m, base in zip(components, np.einsum("k,nka->na", start, components), strict=True):

            def cost(w, m=m, base=base):
                policy = (w * m[0] + (1 - w) * m[1])[correct]
                return float(np.sum(policy * np.log(policy / base[correct])))

            best = scipy.optimize.minimize_scalar(
                cost, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}
            )
            closest.append(min(best.fun, cost(0.0), cost(1.0)))
        solved = failure < 1e-6
        stalled += np.sum(~solved)
        excess = (towards - closest)[solved]
        records.append(curve("c", "mixture", "alternation", share, excess))
        medians.append(f"{share:g}: {np.median(excess):.1e}")
        worst.append(excess.max())
    found = (
        f"{options.families} random families x {len(options.starts)} starts, {stalled} not at "
        f"1-J < 1e-6; median excess KL in nats by the start's share of the first: "
        f"{', '.join(medians)} (number: largest)"
    )
    claim = "mixture family (not e-flat): the alternation converges to pi_dagger"
    return [*records, finding("c", claim, max(worst) < 1e-6, found, max(worst))]


def network(hidden: int):
    """A ReLU network 2-hidden-4 on the four inputs (+-1, +-1): its family, weights as f[K]."""
    inputs = jnp.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])

    def split(params):
        return params[: 3 * hidden].reshape(3, hidden), params[3 * hidden :].reshape(hidden, 4)

    def family(params):
        first, second = split(params)
        return jax.nn.log_softmax(jax.nn.relu(inputs @ first[:2] + first[2:]) @ second)

    def rescale(params):
        """Other parameters of the same function: weights into a unit times c, out of it over c."""
        factors = jnp.where(jnp.arange(hidden) % 2 == 0, 4.0, 0.25)
        first, second = split(params)
        return jnp.concatenate(
            [(first * factors[None]).ravel(), (second / factors[:, None]).ravel()]
        )

    return family, rescale


def check_network(config: Any, seed: int) -> list[dict]:
    """Against the closest policy that SLSQP finds: the excess is a lower bound on the true one."""
    options = config.mlp
    rng = np.random.default_rng(seed)
    family, rescale = network(options.hidden)

    @jax.jit
    def run_all(start, correct):
        def m_projection(params, log_q):
            def loss(p):
                return -jnp.sum(jnp.exp(log_q) * family(p))

            solution = jax.scipy.optimize.minimize(loss, params, method="BFGS", tol=1e-10)
            return jnp.where(jnp.isfinite(solution.x).all(), solution.x, params)

        follow = functools.partial(
            projections.flow, step_length=options.step_length, steps=options.flow_steps
        )
        gradient = projections.policy_gradient(family, correct)
        standardised = projections.policy_gradient(
            family, correct, normaliser=projections.reward_std
        )
        return {
            "alternation": projections.alternate(family, m_projection, start, correct, rounds=40),
            "policy gradient": follow(gradient, start),
            "policy gradient, rescaled start": follow(gradient, rescale(start)),
            "std-normalised (GRPO)": follow(standardised, start),
        }

    rows = {}
    for _ in range(options.seeds):
        start = jnp.asarray(options.init_scale * rng.normal(size=7 * options.hidden))
        correct = np.array([rng.permutation([True, True, False, False]) for _ in range(4)])
        projections.require_correct_action(correct)
        log_base = family(start)
        paths = run_all(start, jnp.asarray(correct))
        values, ends = {}, []
        for name, path in paths.items():
            towards, _, failure = along(family, path, log_base, correct)
            values[name] = at_failure(towards[None], failure[None], options.failure)[0]
            if not np.isnan(values[name]):
                ends.append(np.asarray(path[np.argmax(failure <= options.failure)]))
        if not ends:
            continue  # counted in the finding: nobody solved this one
        _, best = constrained_minimum(family, (), log_base, correct, ends, failure=options.failure)
        for name, value in values.items():
            rows.setdefault(name, []).append(value - best)
    records = []
    for name, excess in rows.items():
        values = np.array(excess)
        reached = values[~np.isnan(values)]
        found = (
            f"of {options.seeds} random networks {len(reached)} got to 1-J = {options.failure:g}, "
            f"with excess KL {min(reached, default=np.nan):.4f} to "
            f"{max(reached, default=np.nan):.4f} nats, summed over 4 states, above the closest "
            "policy found there (number: median)"
        )
        claim = f"ReLU network: {name} converges to pi_dagger"
        median = float(np.median(reached)) if len(reached) else np.nan
        records.append(finding("c", claim, bool((np.abs(values) < 1e-3).all()), found, median))
        records += [curve("c", "network", name, i, [v]) for i, v in enumerate(values)]
    return records


def run(config: Any, seed: int) -> list[dict]:
    return [*check_mixture(config, seed), *check_network(config, seed)]
