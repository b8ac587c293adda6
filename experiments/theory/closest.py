"""pi_dagger = argmin KL(pi||pi0) over the optimal policies of a family, found on the host."""

import itertools
from collections.abc import Callable

import jax
import numpy as np
import scipy.optimize

from rlrazor.ops.kl import kl


def is_face(
    kept: np.ndarray,  # bool[S, V]
    features: np.ndarray,  # f[S, V, K]
) -> bool:
    """Whether some direction of theta leaves exactly the kept actions of every state.

    A linear program: theta . phi(s, a) = c(s) on the kept actions, at most c(s) - 1 elsewhere.
    """
    S, V, K = features.shape
    rows = np.concatenate([features.reshape(S * V, K), -np.repeat(np.eye(S), V, axis=0)], axis=1)
    inside, outside = rows[kept.reshape(-1)], rows[~kept.reshape(-1)]
    program = scipy.optimize.linprog(
        np.zeros(K + S), A_ub=outside, b_ub=-np.ones(len(outside)),
        A_eq=inside, b_eq=np.zeros(len(inside)), bounds=(None, None),
    )  # fmt: skip
    return program.status == 0


def closest_on_faces(
    log_base: np.ndarray,  # f[S, V]
    features: np.ndarray,  # f[S, V, K]
    correct: np.ndarray,  # bool[S, V]
) -> tuple[np.ndarray, float]:
    """Of a log-linear family: pi_dagger f[S, V], and its KL summed over states, in nats.

    The optimal policies live on the faces F made of correct actions. The closest on a face is pi0
    conditioned on F, at KL = -log pi0(F): so pi_dagger is that of the most likely face.
    """
    choices = []
    for row in correct:
        allowed = np.flatnonzero(row)
        sizes = range(1, len(allowed) + 1)
        subsets = [list(c) for n in sizes for c in itertools.combinations(allowed, n)]
        choices.append([np.isin(np.arange(len(row)), c) for c in subsets])
    base = np.exp(log_base)
    faces = [np.array(face) for face in itertools.product(*choices)]

    def cost(kept):
        return -np.log(np.sum(base, axis=-1, where=kept)).sum()

    for kept in sorted(faces, key=cost):
        if is_face(kept, features):
            policy = np.where(kept, base, 0.0)
            return policy / policy.sum(-1, keepdims=True), float(cost(kept))
    raise ValueError(
        "no direction of theta leaves only correct actions: the family holds no optimal policy; "
        "add features or correct actions"
    )


def constrained_minimum(
    family: Callable[[jax.Array], jax.Array],  # f[K] -> f[S, V]
    log_base: jax.Array,
    correct: jax.Array | np.ndarray,
    starts: list[np.ndarray],
    *,
    failure: float,
) -> tuple[np.ndarray, float]:
    """SLSQP: argument and value of min KL(pi||pi0), summed over states, with mean 1 - J <= failure.

    The best of all starts: an upper bound on the minimum. Infinite if no start becomes feasible.
    """

    def margin(p):
        log_failure = jax.nn.logsumexp(family(p), where=~correct) - np.log(len(correct))
        return np.log(failure) - log_failure

    objective = jax.jit(jax.value_and_grad(lambda p: kl(family(p), log_base).sum()))
    margin_fn, slope_fn = jax.jit(margin), jax.jit(jax.grad(margin))
    best = (np.asarray(starts[0]), np.inf)
    for start in starts:
        # the feasible set is a thin shell far away: approach it level by level
        for level in np.geomspace(0.1, failure, 4):
            offset = float(np.log(level / failure))
            found = scipy.optimize.minimize(
                objective, start, jac=True, method="SLSQP",
                constraints={
                    "type": "ineq", "jac": slope_fn, "fun": lambda p, o=offset: margin_fn(p) + o
                },
                options={"maxiter": 200, "ftol": 1e-14},
            )  # fmt: skip
            start = found.x if np.isfinite(found.x).all() else start
        if float(margin_fn(start)) > -1e-6 and found.fun < best[1]:
            best = (start, float(found.fun))
    return best
