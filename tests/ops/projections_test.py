import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

from rlrazor.ops import projections
from rlrazor.ops.kl import kl

S, V, K = 2, 4, 3
CORRECT = np.array([[1, 1, 0, 0], [0, 1, 0, 1]], bool)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def random_family(seed=0):
    rng = np.random.default_rng(seed)
    log_base = jnp.asarray(np.log(rng.dirichlet(np.ones(V), S)))
    features = jnp.asarray(rng.normal(size=(S, V, K)))
    return (
        log_base,
        features,
        functools.partial(projections.log_linear, log_base=log_base, features=features),
    )


def softmax_table(logits):
    return jax.nn.log_softmax(logits.reshape(S, V))


@jax.jit
def summed_kl(p, q):
    return kl(p, q).sum()


def divergence(p, q):
    return float(summed_kl(p, q))


log_linear_m_projection = jax.jit(projections.log_linear_m_projection, static_argnames="steps")
i_projection = jax.jit(projections.i_projection)


def test_require_correct_action_names_the_hopeless_states():
    projections.require_correct_action(CORRECT)
    with pytest.raises(ValueError, match=r"states \[0, 2\] have no correct action"):
        projections.require_correct_action(np.array([[0, 0], [0, 1], [0, 0]]))


def test_i_projection_is_the_constrained_minimum():
    log_policy, _, _ = random_family()
    found = np.exp(i_projection(log_policy, CORRECT))
    for s in range(S):
        p, allowed = np.exp(log_policy[s]), np.flatnonzero(CORRECT[s])

        def objective(q, p=p[allowed]):
            return np.sum(q * np.log(q / p))

        best = scipy.optimize.minimize(
            objective, np.array([0.3, 0.7]), method="SLSQP", bounds=[(1e-9, 1)] * 2,
            constraints={"type": "eq", "fun": lambda q: q.sum() - 1}, options={"ftol": 1e-15},
        )  # fmt: skip
        np.testing.assert_allclose(found[s, allowed], best.x, atol=1e-6)
        assert np.all(found[s, ~CORRECT[s]] == 0)


def test_i_projection_obeys_pythagoras():
    log_policy, _, _ = random_family(1)
    q = i_projection(log_policy, CORRECT)
    other = np.where(CORRECT, np.random.default_rng(0).random((S, V)), 0)
    p = jnp.log(other / other.sum(-1, keepdims=True))
    np.testing.assert_allclose(
        divergence(p, log_policy), divergence(p, q) + divergence(q, log_policy), rtol=1e-12
    )


def test_i_projection_of_a_hopeless_state_is_nan_and_leaves_the_others():
    log_policy, _, _ = random_family()
    correct = CORRECT.copy()
    correct[0] = False
    q = i_projection(log_policy, correct)
    assert np.isnan(q[0]).all()
    np.testing.assert_allclose(np.exp(q[1]).sum(), 1)


def test_log_linear_is_the_base_at_zero_and_tilts_by_features():
    log_base, features, family = random_family()
    np.testing.assert_allclose(family(jnp.zeros(K)), log_base, atol=1e-12)
    theta = np.array([0.3, -1.0, 2.0])
    weights = np.exp(log_base) * np.exp(np.asarray(features) @ theta)
    expected = weights / weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(np.exp(family(jnp.asarray(theta))), expected, rtol=1e-12)


def m_project(log_target, log_base, features, steps=30):
    start = jnp.zeros(features.shape[-1])
    return log_linear_m_projection(start, log_target, log_base, features, steps=steps)


def test_log_linear_m_projection_against_scipy_moments_and_pythagoras():
    log_base, features, family = random_family(2)
    q = jnp.asarray(np.log(np.random.default_rng(3).dirichlet(np.ones(V), S)))
    theta = m_project(q, log_base, features)
    best = scipy.optimize.minimize(lambda t: divergence(q, family(jnp.asarray(t))), np.zeros(K))
    np.testing.assert_allclose(theta, best.x, atol=1e-4)
    matched = family(theta)
    moments = [np.einsum("sa,sak->k", np.exp(x), features) for x in (q, matched)]
    np.testing.assert_allclose(*moments, atol=1e-12)
    member = family(jnp.array([1.0, 0.5, -0.5]))
    np.testing.assert_allclose(
        divergence(q, member), divergence(q, matched) + divergence(matched, member), rtol=1e-12
    )


def test_log_linear_m_projection_is_exact_to_rounding():
    """A line search that picks among equal values by rounding stops at about 1e-8."""
    log_base, features, _ = random_family(2)
    targets = jnp.asarray(np.log(np.random.default_rng(0).dirichlet(np.ones(V), (30, S))))
    fit = functools.partial(m_project, log_base=log_base, features=features)
    thetas = jax.jit(jax.vmap(fit))(targets)
    policies = jnp.exp(log_base[None] + jnp.einsum("nk,sak->nsa", thetas, features))
    policies /= policies.sum(-1, keepdims=True)
    moments = jnp.einsum("nsa,sak->nk", jnp.exp(targets) - policies, features)
    np.testing.assert_allclose(moments, np.zeros((30, K)), atol=1e-13)


def test_log_linear_m_projection_goes_to_the_boundary_and_survives_redundant_features():
    log_base, features, _ = random_family()
    edge = jnp.array([[0.0, -jnp.inf, -jnp.inf, -jnp.inf]] * S)
    one_hot = jnp.tile(jnp.eye(V), (S, 1, 1))  # its columns add up to a constant: redundant
    theta = m_project(edge, log_base, one_hot, steps=60)
    policy = np.exp(projections.log_linear(theta, log_base, one_hot))
    np.testing.assert_allclose(policy, np.exp(edge), atol=1e-12)
    twice = jnp.concatenate([features, features], -1)
    q = i_projection(log_base, CORRECT)
    once = projections.log_linear(m_project(q, log_base, features), log_base, features)
    again = projections.log_linear(m_project(q, log_base, twice), log_base, twice)
    np.testing.assert_allclose(again, once, atol=1e-7)


def test_log_linear_m_projection_survives_a_bad_start():
    log_base, features, family = random_family(4)
    q = i_projection(log_base, np.ones((S, V), bool))
    start = jnp.full(K, 8.0)
    theta = log_linear_m_projection(start, q, log_base, features, steps=30)
    np.testing.assert_allclose(family(theta), log_base, atol=1e-8)


def test_mixture_m_projection_against_scipy():
    rng = np.random.default_rng(0)
    components = jnp.asarray(rng.dirichlet(np.ones(V), (3, S)))
    q = jnp.asarray(np.log(rng.dirichlet(np.ones(V), S)))
    start = jnp.log(jnp.array([0.2, 0.3, 0.5]))
    log_w = projections.mixture_m_projection(start, q, components, steps=3000)

    def objective(w):
        return -np.sum(np.exp(q) * np.log(np.einsum("k,ksa->sa", w, components)))

    best = scipy.optimize.minimize(
        objective, np.ones(3) / 3, method="SLSQP", bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-14},
    )  # fmt: skip
    np.testing.assert_allclose(np.exp(log_w), best.x, atol=1e-4)
    np.testing.assert_allclose(np.exp(log_w).sum(), 1)


def test_mixture_m_projection_takes_the_textbook_step():
    components = jnp.array([[[0.5, 0.5]], [[0.1, 0.9]]])
    q = jnp.log(jnp.array([[0.8, 0.2]]))
    log_w = projections.mixture_m_projection(jnp.log(jnp.ones(2) / 2), q, components, steps=1)
    responsibilities = [0.8 * 0.25 / 0.3 + 0.2 * 0.25 / 0.7, 0.8 * 0.05 / 0.3 + 0.2 * 0.45 / 0.7]
    np.testing.assert_allclose(np.exp(log_w), responsibilities)


def test_mixture_m_projection_takes_zero_targets_and_components():
    components = jnp.array([[[0.5, 0.5, 0.0]], [[0.0, 0.0, 1.0]]])
    q = jnp.log(jnp.array([[0.25, 0.75, 0.0]]))
    log_w = projections.mixture_m_projection(jnp.log(jnp.ones(2) / 2), q, components, steps=2)
    np.testing.assert_allclose(np.exp(log_w), [1.0, 0.0])


def alternate(base, features, correct, rounds):
    log_base, features = jnp.log(jnp.array([base])), jnp.array([features], float)
    family = functools.partial(projections.log_linear, log_base=log_base, features=features)
    project = functools.partial(
        projections.log_linear_m_projection, log_base=log_base, features=features, steps=60
    )
    start = jnp.zeros(features.shape[-1])
    run = functools.partial(projections.alternate, family, project, rounds=rounds)
    path = jax.jit(run)(start, jnp.array([correct]))
    assert path.shape == (rounds + 1, features.shape[-1])
    np.testing.assert_array_equal(path[0], start)
    return np.exp(jax.jit(jax.vmap(family))(path))[:, 0]


def test_alternation_on_the_full_simplex_takes_one_round():
    policies = alternate((0.1, 0.2, 0.3, 0.4), np.eye(4), (True, True, False, False), 1)
    np.testing.assert_allclose(policies[1], [1 / 3, 2 / 3, 0, 0], atol=1e-10)


@pytest.mark.parametrize("wrong_at", [(0.0, 0.0), (0.3, -0.2)])
def test_alternation_moves_straight_away_from_the_only_wrong_action(wrong_at):
    corners = np.array([(0.0, 2.0), (-2.0, -1.0), (2.0, -1.0)])
    base = np.array([0.35, 0.25, 0.2, 0.2])
    policies = alternate(base, [*corners, wrong_at], (True, True, True, False), 40)
    # the ray from phi(w) through E_q[phi], in barycentric coordinates, until one of them is 0
    system = np.vstack([corners.T, np.ones(3)])
    wrong = np.linalg.solve(system, [*wrong_at, 1])
    correct = base[:3] / base[:3].sum()
    length = min(-w / (c - w) for c, w in zip(correct, wrong, strict=True) if c < w)
    np.testing.assert_allclose(policies[-1, :3], wrong + length * (correct - wrong), atol=1e-9)
    np.testing.assert_allclose(policies[-1, 3], 0, atol=1e-9)


def test_alternation_never_loses_reward():
    policies = alternate((0.3, 0.39, 0.3, 0.01), np.arange(4)[:, None], (False, True) * 2, 20)
    reward = policies[:, 1] + policies[:, 3]
    assert np.all(np.diff(reward) > -1e-12)
    assert reward[-1] < 0.41  # and yet it stalls: theta -> infinity would give 1


def enumerated_gradient(family, params, normalise):
    """Mean over states of sum_a pi(a) A(a) d log pi(a), by central differences."""
    policy = np.exp(family(params))
    success = np.sum(policy * CORRECT, -1, keepdims=True)
    divisor = np.sqrt(success * (1 - success)) if normalise else 1
    advantages = (CORRECT - success) / divisor
    scores = []
    for k in range(params.size):
        shift = 1e-5 * jnp.eye(params.size)[k]
        scores.append((family(params + shift) - family(params - shift)) / 2e-5)
    scores = np.stack(scores, -1)
    gradient = np.einsum("sa,sa,sak->k", policy, advantages, scores) / S
    fisher = np.einsum("sa,saj,sak->jk", policy, scores, scores) / S
    return gradient, fisher


@pytest.mark.parametrize("normalise", [False, True])
def test_gradients_against_enumeration(normalise):
    _, _, family = random_family()
    params = jnp.array([0.3, -0.4, 0.2])
    gradient, fisher = enumerated_gradient(family, params, normalise)
    normaliser = projections.reward_std if normalise else projections.no_normaliser
    exact = jax.jit(projections.policy_gradient(family, CORRECT, normaliser=normaliser))(params)
    natural = projections.natural_policy_gradient(family, CORRECT, normaliser=normaliser)
    natural = jax.jit(natural)(params)
    np.testing.assert_allclose(exact, gradient, rtol=1e-7)
    np.testing.assert_allclose(natural, np.linalg.solve(fisher, gradient), rtol=1e-6)


def test_policy_gradient_is_the_gradient_of_expected_reward():
    _, _, family = random_family(5)
    params = jnp.array([0.3, -0.4, 0.2])

    def expected_reward(p):
        return jnp.sum(jnp.exp(family(p)), where=CORRECT) / S

    gradient = jax.jit(projections.policy_gradient(family, CORRECT))(params)
    np.testing.assert_allclose(gradient, jax.jit(jax.grad(expected_reward))(params), rtol=1e-10)


def test_natural_policy_gradient_of_a_table_is_its_advantages():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=S * V))
    moved = jax.jit(projections.natural_policy_gradient(softmax_table, CORRECT))(logits)
    moved = moved.reshape(S, V)
    policy = jax.nn.softmax(logits.reshape(S, V))
    success = jnp.sum(policy, -1, where=CORRECT, keepdims=True)
    advantages = CORRECT - success
    np.testing.assert_allclose(
        moved - moved.mean(-1, keepdims=True),
        advantages - advantages.mean(-1, keepdims=True),
        atol=1e-10,
    )


@pytest.mark.parametrize("normaliser", [projections.no_normaliser, projections.reward_std])
def test_hopeless_and_solved_states_teach_nothing(normaliser):
    correct = np.array([[False] * V, [True] * V])
    log_policy, _, _ = random_family()
    advantages = projections.expected_advantages(log_policy, correct, normaliser)
    np.testing.assert_array_equal(advantages, np.zeros((S, V)))
    gradient = projections.policy_gradient(softmax_table, correct, normaliser=normaliser)
    np.testing.assert_array_equal(gradient(jnp.arange(8.0)), np.zeros(8))


def test_advantages_keep_their_precision_near_success():
    log_policy = jnp.log(jnp.array([[1.0, 1e-30]]))
    correct = jnp.array([[True, False]])
    advantages = projections.expected_advantages(log_policy, correct, projections.no_normaliser)
    np.testing.assert_allclose(advantages, [[1e-30, -1.0]])


def test_flow_follows_the_curve_of_gradient_flow():
    correct = np.array([[True, True, False]])
    direction = projections.policy_gradient(lambda z: jax.nn.log_softmax(z)[None], correct)
    start = jnp.log(jnp.array([0.3, 0.2, 0.5]))
    path = projections.flow(direction, start, step_length=0.02, steps=200)
    assert path.shape == (201, 3)
    np.testing.assert_allclose(np.linalg.norm(np.diff(path, axis=0), axis=1), 0.02, rtol=1e-3)

    def velocity(_, z):  # dz_a/dt = pi_a (R_a - J), by hand
        policy = np.exp(z) / np.exp(z).sum()
        return policy * (correct[0] - policy[:2].sum())

    solution = scipy.integrate.solve_ivp(
        velocity, (0, 200), start, rtol=1e-10, atol=1e-12, dense_output=True
    )
    failure = 1 - np.exp(jax.nn.log_softmax(path))[:, :2].sum(-1)

    def late(t):
        z = solution.sol(t)
        return np.exp(z[2]) / np.exp(z).sum() - failure[150]

    reference = solution.sol(scipy.optimize.brentq(late, 0, 200))
    np.testing.assert_allclose(
        path[150] - path[150].mean(), reference - reference.mean(), atol=1e-6
    )


def test_ascend_takes_plain_steps():
    path = projections.ascend(lambda p: -2 * p, jnp.array([1.0, -3.0]), learning_rate=0.25, steps=2)
    np.testing.assert_allclose(path, [[1.0, -3.0], [0.5, -1.5], [0.25, -0.75]])


@functools.partial(jax.jit, static_argnames=("advantages_fn", "samples"))
def sample_paths(advantages_fn, correct=(True, True, False), learning_rate=1.0, *, samples=4):
    def one(key):
        return projections.sampled_policy_gradient(
            key, jnp.log(jnp.array([0.3, 0.2, 0.5])), jnp.array(correct), advantages_fn,
            learning_rate=learning_rate, samples=samples, steps=1,
        )  # fmt: skip

    return jax.vmap(one)(jax.random.split(jax.random.key(0), 5_000))


def identity(rewards):
    return rewards


def centre(rewards):
    return rewards - rewards.mean()


@pytest.mark.parametrize(
    ("advantages_fn", "samples", "factor"),
    [(identity, 4, 1.0), (centre, 4, 3 / 4), (centre, 3, 2 / 3)],  # centring costs (G - 1) / G
)
def test_sampled_policy_gradient_has_the_exact_mean(advantages_fn, samples, factor):
    paths = sample_paths(advantages_fn, samples=samples)
    moved = paths[:, 1] - paths[:, 0]
    exact = np.array([0.3, 0.2, 0.5]) * (np.array([1.0, 1.0, 0.0]) - 0.5)
    error = moved.std(0) / np.sqrt(len(moved))
    np.testing.assert_array_less(np.abs(moved.mean(0) - factor * exact), 4 * error)


def test_sampled_policy_gradient_knobs_are_alive():
    moved = np.diff(sample_paths(centre), axis=1)
    halved = np.diff(sample_paths(centre, learning_rate=0.5), axis=1)
    np.testing.assert_allclose(halved, moved / 2)
    assert not np.allclose(np.diff(sample_paths(centre, samples=3), axis=1), moved)


def test_only_uncentred_rewards_drift_where_every_answer_is_correct():
    everything = (True, True, True)
    drift = np.diff(sample_paths(identity, everything), axis=1)
    assert np.abs(drift).max() > 0.1
    assert np.abs(np.diff(sample_paths(centre, everything), axis=1)).max() == 0


@pytest.mark.usefixtures("strict_dtypes")
def test_float32_stays_float32_and_each_function_traces_once():
    with jax.enable_x64(False):
        log_base = jnp.log(jnp.array([[0.3, 0.3, 0.4]], jnp.float32))
        features = jnp.array([[[-1.0], [0.5], [1.0]]], jnp.float32)
        correct = jnp.array([[True, False, True]])
        family = functools.partial(projections.log_linear, log_base=log_base, features=features)

        def project(theta, log_q):
            return projections.log_linear_m_projection(theta, log_q, log_base, features, steps=5)

        @jax.jit
        @chex.assert_max_traces(n=1)
        def everything(start):
            natural = projections.natural_policy_gradient(family, correct)
            gradient = projections.policy_gradient(
                family, correct, normaliser=projections.reward_std
            )
            return (
                projections.alternate(family, project, start, correct, rounds=2),
                projections.flow(gradient, start, step_length=0.1, steps=2),
                projections.ascend(natural, start, learning_rate=0.1, steps=2),
            )

        for start in (jnp.zeros(1, jnp.float32), jnp.ones(1, jnp.float32)):
            for path in everything(start):
                assert path.dtype == jnp.float32
                assert np.isfinite(path).all()
