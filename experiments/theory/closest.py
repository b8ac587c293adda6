"""pi_dagger = argmin KL(pi||pi0) over the optimal policies of a family, found on the host."""

import functools
import itertools
from collections.abc import Callable

import jax
import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike

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


@functools.partial(jax.jit, static_argnums=0)
def _divergence(family, params, arrays, log_base):
    return jax.value_and_grad(lambda p: kl(family(p, *arrays), log_base).sum())(params)


@functools.partial(jax.jit, static_argnums=0)
def _log_failure(family, params, arrays, correct):
    def mean_failure(p):
        return jax.nn.logsumexp(family(p, *arrays), where=~correct) - np.log(len(correct))

    return jax.value_and_grad(mean_failure)(params)


def constrained_minimum(
    family: Callable[..., jax.Array],  # (f[K], *arrays) -> f[S, V]; compiled once a function
    arrays: tuple,
    log_base: ArrayLike,  # f[S, V]
    correct: ArrayLike,  # bool[S, V]
    starts: list[np.ndarray],
    *,
    failure: float,
) -> tuple[np.ndarray, float]:
    """SLSQP: argument and value of min KL(pi||pi0), summed over states, with mean 1 - J <= failure.

    The best of all starts and of where they lead: an upper bound on the minimum. Infinite if
    nothing feasible turns up.
    """
    log_base, correct = np.asarray(log_base), np.asarray(correct)

    def divergence(p):
        value, gradient = _divergence(family, p, arrays, log_base)
        return float(value), np.asarray(gradient)

    def excess_failure(p, level=failure):
        value, gradient = _log_failure(family, p, arrays, correct)
        return float(value) - np.log(level), np.asarray(gradient)

    best = (np.asarray(starts[0]), np.inf)
    for start in starts:
        candidates = [start]
        # the feasible set is a thin shell far away: approach it level by level
        for level in np.geomspace(0.1, failure, 4):
            inside = {
                "type": "ineq",
                "fun": lambda p, level=level: -excess_failure(p, level)[0],
                "jac": lambda p, level=level: -excess_failure(p, level)[1],
            }
            found = scipy.optimize.minimize(
                divergence, candidates[-1], jac=True, method="SLSQP", constraints=inside,
                options={"maxiter": 200, "ftol": 1e-14},
            )  # fmt: skip
            if np.isfinite(found.x).all():
                candidates.append(found.x)
        for candidate in (candidates[0], candidates[-1]):
            value = divergence(candidate)[0]
            if excess_failure(candidate)[0] < 1e-6 and value < best[1]:
                best = (candidate, value)
    return best
