"""(b) How often, and by how much: random e-flat families, several states, shared parameters."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.theory.closest import closest_on_faces, constrained_minimum, is_face
from experiments.theory.log_linear import along, alternation
from experiments.theory.records import finding, trace
from rlrazor.ops import projections


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


def run(config: Any, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [*check_random_families(config, rng), *check_lines(config, rng)]
