"""Every arm's gradient against float64 twins that enumerate all answers of a two-image batch."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, log_softmax

from experiments.parity import arms as parity_arms
from experiments.parity.arms import (
    ANCHORS,
    ARMS,
    ON_POLICY_LOSSES,
    TEACHERS,
    Batch,
    build_losses,
    make_arm_loss,
    sample_answers,
)
from rlrazor.runtime.mesh import compile_once

pytestmark = pytest.mark.usefixtures("quick_compiles")

B, V, G = 2, 10, 2
KNOBS = {"group_size": G, "kl_coefficient": 0.3, "anchor_coefficient": 0.7, "std_epsilon": 0.1}
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(B, V)).astype(np.float32)
DIGITS = np.array([4, 7])
LABELS, WRONG = np.array([0, 5]), np.array([1, 4])
BATCH = Batch(
    inputs=np.zeros((B, 3), np.float32),
    digits=DIGITS.astype(np.int32),
    base_logits=(LOGITS + RNG.normal(size=(B, V))).astype(np.float32),
    labels=LABELS.astype(np.int32),
    has_label=np.array([True, True]),
    wrong_labels=WRONG.astype(np.int32),
)
SAMPLES = 4096

LOG_PI = log_softmax(LOGITS.astype(np.float64), axis=-1)
LOG_POLICY = LOG_PI.astype(np.float32)
PI = np.exp(LOG_PI)
LOG_BASE = log_softmax(BATCH.base_logits.astype(np.float64), axis=-1)
ONE_HOT = np.eye(V)
RIGHT = np.arange(V)[None] % 2 == DIGITS[:, None] % 2  # bool[B, V]


def score(image, answer):
    """d log pi(answer) / d logits of one image."""
    return ONE_HOT[answer] - PI[image]


def of_labels(weights, labels=LABELS):
    return np.stack([-weights[b] * score(b, labels[b]) for b in range(B)]) / B


def by_enumeration(advantage):
    """E over all groups of G answers of the mean over them of -A grad log pi."""
    total = np.zeros((B, V))
    for b in range(B):
        for answers in itertools.product(range(V), repeat=G):
            probability = np.prod(PI[b, list(answers)])
            advantages = advantage(RIGHT[b, list(answers)].astype(float))
            for a, answer in zip(advantages, answers, strict=True):
                total[b] -= probability * a * score(b, answer) / (B * G)
    return total


def standardise(rewards):
    return (rewards - rewards.mean()) / (rewards.std() + KNOBS["std_epsilon"])


def iterative():
    """E over the groups of both images: the first right answer of each, if it has one."""
    groups = list(itertools.product(range(V), repeat=G))
    firsts = [[next((a for a in g if RIGHT[b, a]), None) for g in groups] for b in range(B)]
    mass = [[np.prod(PI[b, list(g)]) for g in groups] for b in range(B)]
    # Only which answer was first matters: collect the mass of each outcome.
    outcomes = [
        {a: sum(m for f, m in zip(firsts[b], mass[b], strict=True) if f == a) for a in firsts[b]}
        for b in range(B)
    ]
    total = np.zeros((B, V))
    for pair in itertools.product(*outcomes):
        found = sum(answer is not None for answer in pair)
        for b, answer in enumerate(pair):
            if answer is not None:
                total[b] -= np.prod([outcomes[i][pair[i]] for i in range(B)]) * (
                    score(b, answer) / found
                )
    return total


def oracle_soft():
    target = np.where(RIGHT, np.exp(LOG_BASE), 0)
    return (PI - target / target.sum(-1, keepdims=True)) / B


def simpo():
    log_ratio = LOG_PI[range(B), LABELS] - LOG_PI[range(B), WRONG]
    slope = -expit(-(log_ratio - 1.0))  # of -log sigmoid(ratio - 1)
    return slope[:, None] * (ONE_HOT[LABELS] - ONE_HOT[WRONG]) / B


def kl_policy_base():
    ratio = LOG_PI - LOG_BASE
    return PI * (ratio - (PI * ratio).sum(-1, keepdims=True)) / B


NLL = of_labels(np.ones(B))
CENTRED = by_enumeration(lambda rewards: rewards - rewards.mean())
STANDARDISED = by_enumeration(standardise)
TO_BASE = kl_policy_base()
FROM_BASE = (PI - np.exp(LOG_BASE)) / B
EXPECTED = {
    **dict.fromkeys(["sft1", "sft2", "oracle", "distilled", "self_sft"], NLL),
    "oracle_soft": oracle_soft(),
    "grpo": CENTRED,
    "grpo_std": STANDARDISED,
    "grpo_kl": CENTRED + 0.3 * TO_BASE,
    "grpo_std_kl": STANDARDISED + 0.3 * TO_BASE,
    "reinforce": by_enumeration(lambda rewards: rewards),
    "simpo": simpo(),
    "iterative_sft": iterative(),
    "dft": of_labels(PI[range(B), LABELS]),
    "sft_kl_base_policy": NLL + 0.7 * FROM_BASE,
    "sft_kl_policy_base": NLL + 0.7 * TO_BASE,
}


@pytest.fixture(scope="module")
def gradients():
    """arm name -> f32[SAMPLES, B, V], one gradient in the logits for each key."""
    arm_loss = make_arm_loss(**KNOBS)

    def loss(logits, arm, key):
        return arm_loss(arm, jax.nn.log_softmax(logits), BATCH, key)

    keys = jax.random.split(jax.random.key(0), SAMPLES)
    chex.clear_trace_counter()
    one = jax.grad(chex.assert_max_traces(loss, n=1))  # one program for every arm
    fn = compile_once(lambda arm: jax.vmap(one, in_axes=(None, None, 0))(LOGITS, arm, keys))
    return lambda name: np.asarray(fn(jnp.int32(list(ARMS).index(name))), np.float64)


@pytest.mark.parametrize("name", ARMS)
def test_expected_gradient_is_the_enumerated_one(gradients, name):
    got = gradients(name)
    samples = ARMS[name].loss in ON_POLICY_LOSSES
    assert (np.ptp(got, axis=0).max() > 1e-3) == samples  # offline arms draw nothing
    error = 5 * got.std(axis=0) / np.sqrt(SAMPLES) if samples else 0.0
    assert np.all(np.abs(got.mean(axis=0) - EXPECTED[name]) <= error + 2e-6)
    assert np.abs(EXPECTED[name]).max() > 0.02


def test_reinforce_is_the_exact_policy_gradient():
    """grad of J = pi(right): pi(v) (right(v) - J); centring over G samples keeps (G - 1)/G."""
    J = (PI * RIGHT).sum(-1, keepdims=True)
    exact = -PI * (RIGHT - J) / B
    np.testing.assert_allclose(EXPECTED["reinforce"], exact, atol=1e-12)
    np.testing.assert_allclose(EXPECTED["grpo"], exact * (G - 1) / G, atol=1e-12)


@functools.cache
def compiled(**knobs):
    arm_loss = make_arm_loss(**KNOBS | knobs)
    return compile_once(jax.value_and_grad(arm_loss, argnums=1))


def value(name, batch=BATCH, log_policy=LOG_POLICY, **knobs):
    """The loss and its gradient, for one key, in one vector."""
    arm = jnp.int32(list(ARMS).index(name))
    loss, gradient = compiled(**knobs)(arm, log_policy, batch, jax.random.key(1))
    return np.append(np.ravel(gradient), loss)


CHANGED_BY = {
    "group_size": (5, [name for name, arm in ARMS.items() if arm.loss in ON_POLICY_LOSSES]),
    "kl_coefficient": (0.9, ["grpo_kl", "grpo_std_kl"]),
    "anchor_coefficient": (0.1, ["sft_kl_base_policy", "sft_kl_policy_base"]),
    "std_epsilon": (0.5, ["grpo_std", "grpo_std_kl"]),
}


@pytest.mark.parametrize("knob", CHANGED_BY)
def test_every_knob_is_alive_where_it_should_be_and_nowhere_else(knob):
    other, names = CHANGED_BY[knob]
    changed = {n for n in ARMS if np.abs(value(n, **{knob: other}) - value(n)).max() > 1e-4}
    assert changed == set(names)


def with_changed(field):
    new = {
        "labels": np.array([4, 1], np.int32),
        "wrong_labels": np.array([5, 0], np.int32),
        "has_label": np.array([True, False]),
        "base_logits": BATCH.base_logits[:, ::-1],
        "digits": np.array([3, 8], np.int32),
    }[field]
    return BATCH.replace(**{field: new})


# What each arm reads of a batch.
READS = {}
for _names, _fields in (
    ("sft1 sft2 oracle distilled self_sft dft", "labels has_label"),
    ("sft_kl_base_policy sft_kl_policy_base", "labels has_label base_logits"),
    ("grpo grpo_std reinforce iterative_sft", "digits"),
    ("grpo_kl grpo_std_kl oracle_soft", "digits base_logits"),
    ("simpo", "labels wrong_labels"),
):
    READS |= {name: set(_fields.split()) for name in _names.split()}


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_reads_what_it_should_of_a_batch_and_nothing_else(name):
    fields = ("labels", "wrong_labels", "has_label", "base_logits", "digits")
    read = {f for f in fields if np.any(value(name, with_changed(f)) != value(name))}
    assert read == READS[name]


def test_images_without_a_label_are_left_out():
    lonely = BATCH.replace(has_label=np.array([True, False]))
    gradient = value("self_sft", lonely)[:-1].reshape(B, V)
    np.testing.assert_allclose(gradient[0], -score(0, LABELS[0]), atol=1e-6)
    np.testing.assert_array_equal(gradient[1], 0)
    empty = BATCH.replace(has_label=np.array([False, False]))
    np.testing.assert_array_equal(value("self_sft", empty), 0)


@pytest.mark.parametrize("name", ["grpo", "grpo_std", "grpo_kl", "reinforce", "iterative_sft"])
def test_a_policy_that_is_sure_and_right_stays_finite(name):
    """Groups of equal rewards, and answers whose probability underflows to zero."""
    sure = np.where(np.arange(V)[None] == DIGITS[:, None], 0.0, -1e9)
    got = value(name, log_policy=sure.astype(np.float32))
    assert np.all(np.isfinite(got))
    if name in ("grpo", "grpo_std"):
        np.testing.assert_array_equal(got, 0)


def test_one_of_equals_direct_differentiation():
    functions = {
        "square": lambda x, y: jnp.sum(x**2) * jnp.sum(y),
        "sine": lambda x, y: jnp.sum(jnp.sin(x) * y),
        "constant": lambda x, y: jnp.float32(3) + 0 * jnp.sum(x),
    }
    x, y = LOGITS[0], LOGITS[1]

    def chosen(x, index):
        return 2 * parity_arms._one_of(functions, index, jnp.tanh(x), y)  # inside other maths

    fn = compile_once(jax.value_and_grad(chosen))
    for index, function in enumerate(functions.values()):
        direct = jax.value_and_grad(lambda x, f=function: 2 * f(jnp.tanh(x), y))
        chex.assert_trees_all_close(fn(x, index), direct(x), rtol=1e-6)
    one = functools.partial(jax.vmap(fn, in_axes=(None, 0)), x)
    many = one(jnp.arange(3))
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[1], many), fn(x, 1), rtol=1e-6)


def test_the_table_of_arms_is_consistent():
    losses = build_losses(std_epsilon=0.1)
    assert set(EXPECTED) == set(READS) == set(ARMS)
    assert {arm.loss for arm in ARMS.values()} == set(losses)
    assert {arm.anchor for arm in ARMS.values()} == set(ANCHORS)
    assert {arm.teacher for arm in ARMS.values()} == {None, *TEACHERS}
    assert set(ON_POLICY_LOSSES) <= set(losses)
    for name, arm in ARMS.items():
        assert (arm.teacher is not None) == ("labels" in READS[name])
        if "base_logits" in READS[name]:
            assert arm.reads_base


def test_sampled_answers_follow_the_policy():
    answers = np.asarray(sample_answers(jax.random.key(3), jnp.asarray(LOG_POLICY), 20_000))
    assert answers.shape == (B, 20_000)
    for image in range(B):
        counts = np.bincount(answers[image], minlength=V)
        assert stats.chisquare(counts, 20_000 * PI[image] / PI[image].sum()).pvalue > 1e-3


def test_sampled_answers_are_certain_where_the_policy_is():
    log_policy = jnp.log(jnp.eye(V)[jnp.array([0, V - 1])])
    answers = np.asarray(sample_answers(jax.random.key(0), log_policy, 1000))
    np.testing.assert_array_equal(answers, np.repeat([[0], [V - 1]], 1000, axis=1))


def test_sampled_answers_of_neighbours_are_independent():
    flat = jnp.full((2, V), -np.log(V), jnp.float32)
    answers = np.asarray(sample_answers(jax.random.key(1), flat, 5000))
    table = np.histogram2d(answers[0], answers[1], bins=V)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3
