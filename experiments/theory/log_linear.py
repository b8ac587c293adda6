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

from experiments.theory.closest import closest_on_faces, constrained_minimum, is_face
from experiments.theory.records import finding, trace
from experiments.theory.tabular import at_failure
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


def random_families(config: Any, rng: np.random.Generator):
    """pi0, features and correct sets that some direction of theta solves, so that P* is met."""
    shape = (config.instances, config.states, config.actions)
    features = rng.normal(size=(*shape, config.features))
    scores = np.einsum(
        "isak,ik->isa", features, rng.normal(size=(config.instances, config.features))
    )
    correct = (scores == scores.max(-1, keepdims=True)) | (rng.random(shape) < 0.5)
    correct &= scores > scores.min(-1, keepdims=True)  # at least one wrong action everywhere
    projections.require_correct_action(correct)
    return np.log(rng.dirichlet(np.ones(config.actions), shape[:2])), features, correct


METHODS = (
    "alternation",
    "policy gradient",
    "natural policy gradient",
    "alternation after SFT on arbitrary correct labels",
)


def method_path(name: str, config: Any, b, f, c, q) -> jax.Array:
    """Parameters f[steps, K] of one of METHODS; q holds log-probabilities of arbitrary labels."""
    family = functools.partial(projections.log_linear, log_base=b, features=f)
    start = jnp.zeros(config.features)
    if name in ("policy gradient", "natural policy gradient"):
        direction = getattr(projections, name.replace(" ", "_"))(family, c)
        length = {"step_length": config.step_length, "steps": config.flow_steps}
        return projections.flow(direction, start, **length)
    if name == "alternation after SFT on arbitrary correct labels":
        start = projections.log_linear_m_projection(start, q, b, f, steps=config.newton_steps)
    return alternation(b, f, c, start, rounds=config.rounds, newton_steps=config.newton_steps)


def check_random_families(config: Any, rng: np.random.Generator) -> list[dict]:
    """How often, and by how much, in families with several states and shared parameters.

    Compared at the same 1 - J, with the closest member of the family that SLSQP finds from where
    the methods got and from random starts: on the way to a face, a policy can still hold mass that
    brings it below KL(pi_dagger||pi0).
    """
    log_base, features, correct = random_families(config, rng)
    families = list(zip(log_base, features, correct, strict=True))
    labels = np.where(correct, rng.exponential(size=correct.shape), 0.0)
    with np.errstate(divide="ignore"):
        log_labels = np.log(labels / labels.sum(-1, keepdims=True))

    def measured(name, b, f, c, q):
        path = method_path(name, config, b, f, c, q)
        family = functools.partial(projections.log_linear, log_base=b, features=f)
        towards, _, failure = along(family, path, b, c)
        first = jnp.argmax(failure <= config.failure)
        limit = jnp.where(failure[-1] <= config.failure, towards[-1], jnp.nan)
        solved = failure[first] <= config.failure
        return path[first], jnp.where(solved, towards[first], jnp.nan), limit

    arrays = tuple(map(jnp.asarray, (log_base, features, correct, log_labels)))
    ends = {
        name: [np.asarray(x) for x in jax.jit(jax.vmap(functools.partial(measured, name)))(*arrays)]
        for name in METHODS
    }
    best = []
    for i, (b, f, c) in enumerate(families):
        starts = [end[0][i] for end in ends.values() if not np.isnan(end[1][i])]
        starts += list(rng.normal(size=(4, config.features)))
        found = constrained_minimum(
            projections.log_linear, (b, f), b, c, starts, failure=config.failure
        )
        best.append(found[1])
    whole = np.array([is_face(c, f) for _, f, c in families])
    dagger = np.array([closest_on_faces(*family)[1] for family in families])

    worst = np.abs(ends["alternation"][2] - dagger)[whole].max()
    claim = "e-flat, correct set a face: the alternation converges to pi_dagger"
    found = f"largest difference in KL(pi||pi0) at the end, nats, over {whole.sum()} families"
    records = [finding("b", claim, bool(worst < 1e-6), found, worst)]
    for name, (_, towards, _) in ends.items():
        for kind, chosen in (("a face", whole), ("not a face", ~whole)):
            excess = (towards - np.array(best))[chosen]
            excess = np.sort(excess[~np.isnan(excess)])
            share = np.sum(excess < 0.01) / max(chosen.sum(), 1)
            found = (
                f"of {chosen.sum()} random families {len(excess)} got to 1-J = {config.failure:g}, "
                f"with an excess KL of median {np.median(excess):z.4f} and at most "
                f"{np.max(excess):z.4f} nats (number: share below 0.01 nats)"
            )
            claim = f"e-flat, correct set {kind}: {name} ends KL-closest at its accuracy"
            records.append(finding("b", claim, bool(share == 1), found, share))
            ranks = (np.arange(len(excess)) + 1) / chosen.sum()
            records.append(trace("b", kind, name, np.stack([excess, ranks], 1)))
    return records


def check_lines(config: Any, rng: np.random.Generator) -> list[dict]:
    """One state, one parameter, both ends correct: which of the two optimal policies is chosen?

    At 1 - J = 1e-3 each side has one policy, found on a grid, and so a closest one for each
    direction of KL.
    """
    shape = (config.lines, 6)
    features = np.sort(rng.normal(size=shape))
    correct = rng.random(shape) < 0.3
    correct[:, 0] = correct[:, -1] = True
    correct[np.arange(len(correct)), rng.integers(1, 5, len(correct))] = False
    log_base = np.log(rng.dirichlet(np.ones(6), config.lines))
    grid = jnp.linspace(0, 200, 8001)[:, None]

    def sides(b, f, c):  # one family
        family = functools.partial(projections.log_linear, log_base=b, features=f)
        measured = []
        for theta in (-grid, grid):
            towards, away, failure = along(family, theta, b, c)
            first = jnp.argmax(failure <= 1e-3)
            measured.append(jnp.stack([towards[first], away[first], failure[first]]))
        path = alternation(b, f, c, rounds=config.rounds, newton_steps=config.newton_steps)
        return jnp.stack(measured), path[-1, 0], along(family, path[-1:], b, c)[2][0]

    arrays = (log_base[:, None], features[:, None, :, None], correct[:, None])
    # one after another: all grids at once would take a gigabyte
    swept = jax.jit(lambda xs: jax.lax.map(lambda x: sides(*x), xs))(arrays)
    measured, theta, failure = map(np.asarray, swept)
    usable = (measured[:, :, 2] <= 1e-3).all(1)
    optimal = usable & (failure <= 1e-3)
    end = (theta > 0).astype(int)[optimal]
    records = []
    found = f"of {usable.sum()} random families with one parameter and both ends correct"
    stalled = 1 - optimal.sum() / usable.sum()
    claim = "e-flat, one parameter: the alternation reaches an optimal policy"
    words = f"{found}, share with 1-J > 1e-3 after {config.rounds} rounds"
    records.append(finding("b", claim, stalled == 0, words, stalled))
    for index, name in enumerate(("KL(pi||pi0)", "KL(pi0||pi)")):
        chosen = measured[optimal, :, index].argmin(1) == end
        claim = f"e-flat, one parameter: of two optimal ends it takes the closer in {name}"
        words = f"{found}, share of the {optimal.sum()} that end optimal, at 1-J = 1e-3"
        records.append(finding("b", claim, bool(chosen.all()), words, chosen.mean()))
    return records


def run(config: Any, levels: tuple[float, ...], seed: int) -> list[dict]:
    del levels  # this part compares limits
    rng = np.random.default_rng(seed)
    return [
        *(record for name in config.cases for record in check_case(name, config)),
        *check_pythagoras(config),
        *check_random_families(config, rng),
        *check_lines(config, rng),
    ]
