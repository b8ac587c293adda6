"""Where rows come from: who is dealt what, whose answers are compared, what is learnt from."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.general_points.language import END
from experiments.rule_shift import tasks as study_tasks
from experiments.rule_shift.arms import ARMS, VARIANTS
from experiments.rule_shift.batches import (
    ADVANTAGES,
    Rows,
    demonstrations,
    preference_pairs,
    with_demonstration,
)
from experiments.rule_shift.programs import in_minibatches
from rlrazor.tasks.general_points.rewards import BINARY, PAPER
from rlrazor.tasks.general_points.rule import FACES_AS_TEN, FACES_IN_ORDER
from tests.oracles import points_judge, tiny_points, tiny_shift
from tests.oracles.tiny_shift import given, make_toy, programs, stacked

pytestmark = pytest.mark.usefixtures("quick_compiles")

G = 4
REVISED = {"rows": 72}  # six prompts of four samples of three turns


def drawn(arm, seed=0, tasks=None, **changes):
    run, known = programs(arm, **changes), given(tasks)
    state = run.initial(known, tiny_shift.toy().params[0])
    return jax.device_get(run.draw(state, known, jax.random.key(seed)))


def secret_of(tokens):
    return int(10 * (tokens[0] - 3) + tokens[1] - 3)


def text_of(tokens):
    return bytes(48 + int(token) - 3 for token in tokens if token >= 3)


def answers_of(rows, b):
    """The tokens of every turn that was played."""
    return [
        rows.tokens[b][rows.mask[b] & (rows.turn[b] == k)]
        for k in range(rows.played.shape[1])
        if rows.played[b, k]
    ]


# Episodes.


def test_groups_share_the_hand_and_their_advantages_are_numpys():
    rows, _ = drawn("grpo_turns_3", **REVISED)
    secrets = np.array([secret_of(row) for row in rows.tokens]).reshape(-1, G)
    assert secrets.shape == (6, G)
    assert (secrets == secrets[:, :1]).all()
    assert len(set(secrets[:, 0])) > 3
    rewards = []
    for b, secret in enumerate(secrets.ravel()):
        said = answers_of(rows, b)
        earned = [tiny_shift.worth(secret, text_of(answer)) for answer in said]
        assert rows.rewards[b, : len(said)].tolist() == earned
        assert not rows.rewards[b, len(said) :].any()
        assert rows.solved[b] == (earned[-1] == 3)
        assert len(said) == 3 or rows.solved[b]
        rewards.append(earned[-1])  # an episode is worth its last answer
    groups = np.reshape(rewards, (-1, G)).astype(float)
    assert np.ptp(groups, axis=1).any()
    expected = groups - groups.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(rows.advantages.reshape(-1, G), expected, atol=1e-6)
    assert len({len(answers_of(rows, b)) for b in range(24)}) == 3


def test_metrics_of_episodes_are_numpys():
    rows, metrics = drawn("grpo_turns_3", **REVISED)
    answers = [answer for b in range(24) for answer in answers_of(rows, b)]
    last = np.array([rows.rewards[b, rows.played[b].sum() - 1] for b in range(24)])
    expected = {
        "reward": last.mean(),
        "solved": rows.solved.mean(),
        "answer_cut": np.mean([END not in answer for answer in answers]),
        "empty": np.mean([rows.mask[b].sum() <= 1 for b in range(24)]),
        "groups_alike": np.mean([len(set(group)) == 1 for group in last.reshape(-1, G)]),
        "answer_tokens": np.mean([len(answer) for answer in answers]),
        "entropy_nats": -rows.behaviour_logprobs[rows.mask].mean(),
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    assert 0 < metrics["answer_cut"] < 1
    assert not rows.behaviour_logprobs[~rows.mask].any()


@pytest.mark.slow
def test_answers_that_never_end_are_cut_and_counted():
    _, metrics = drawn("grpo", stop=99)  # a token that no policy has
    assert metrics["answer_cut"] == 1
    assert metrics["answer_tokens"] == 5


REWARDS = np.random.default_rng(0).integers(0, 3, (7, 5)).astype(np.float32)
MEAN = REWARDS.mean(axis=1, keepdims=True)
OTHERS = np.array([[np.delete(row, i).mean() for i in range(5)] for row in REWARDS])
TWINS = {
    "reward": REWARDS,
    "centred": REWARDS - MEAN,
    "standardised": (REWARDS - MEAN) / (REWARDS.std(axis=1, keepdims=True) + 1e-4),
    "leave_one_out": REWARDS - OTHERS,
}


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages_of_every_kind_are_numpys(name):
    found = ADVANTAGES[name](jnp.asarray(REWARDS))
    np.testing.assert_allclose(found, TWINS[name], atol=1e-5)


def test_every_method_names_the_advantage_of_its_paper():
    by_method = {"grpo": "centred", "grpo_std": "standardised", "rloo": "leave_one_out"}
    by_method |= {"dapo": "standardised", "gspo": "standardised", "grpo_kl": "centred"}
    by_method |= {"reinforce": "reward"}
    for method, advantage in by_method.items():
        assert ARMS[method].how.advantage == advantage


@pytest.mark.parametrize("arm", ["iterative_sft", pytest.param("self_sft", marks=pytest.mark.slow)])
def test_only_solved_episodes_are_kept(arm):
    rows, _ = drawn(arm)
    assert 0 < rows.solved.sum() < len(rows.solved)
    np.testing.assert_array_equal(rows.mask.any(axis=1), rows.solved)
    for tokens, mask in zip(rows.tokens[rows.solved], rows.mask[rows.solved], strict=True):
        assert tiny_shift.worth(secret_of(tokens), text_of(tokens[mask])) == 3


# Fresh draws, and a pool of hands.


def test_the_same_key_draws_the_same_and_another_key_anew():
    first, again, other = (drawn("grpo", seed)[0] for seed in (0, 0, 1))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.tokens, other.tokens)


def test_the_same_prompt_is_answered_afresh():
    """With a pool of one hand every prompt is the same."""
    rows = [drawn("grpo_fixed", seed, fixed_hands=1)[0] for seed in (0, 1, 0)]
    secrets = {secret_of(row) for one in rows for row in one.tokens}
    assert len(secrets) == 1
    np.testing.assert_array_equal(rows[0].tokens, rows[2].tokens)
    assert (rows[0].tokens != rows[1].tokens).any(axis=1).mean() > 0.9
    assert len({row.tobytes() for row in rows[0].tokens}) > 0.9 * len(rows[0].tokens)


def test_a_fixed_set_is_drawn_from_its_pool_alone():
    pool = jax.random.fold_in(jax.random.key(0), 2)
    dealt = {
        int(make_toy().reset(jax.random.fold_in(jax.random.fold_in(pool, n), 0)).secret)
        for n in range(3)
    }
    found = collections.Counter(
        secret_of(row) for seed in range(6) for row in drawn("grpo_fixed", seed)[0].tokens
    )
    assert set(found) == dealt
    fresh = {secret_of(row) for seed in range(3) for row in drawn("grpo", seed)[0].tokens}
    assert len(fresh) > 10


@pytest.mark.slow
def test_several_rules_are_drawn_one_an_iteration():
    tasks = stacked(make_toy(), make_toy(shift=1))
    seen = set()
    for seed in range(8):
        rows, _ = drawn("grpo", seed, tasks=tasks)
        matches = [
            all(
                tiny_shift.worth(secret_of(t), text_of(t[m]), shift) == r
                for t, m, r in zip(rows.tokens, rows.mask, rows.rewards[:, 0], strict=True)
            )
            for shift in (0, 1)
        ]
        assert sum(matches) == 1
        seen.add(matches.index(True))
    assert seen == {0, 1}


@pytest.mark.parametrize(("count", "epochs"), [(1, 1), (3, 1), (4, 3)])
def test_minibatches_hold_every_row_once_an_epoch(count, epochs):
    B = 12
    tokens = jnp.arange(B * 2).reshape(B, 2)
    rows = Rows(tokens, tokens > 3, advantages=jnp.arange(B) * 1.0, added=(jnp.arange(B) + 7,))
    batches = in_minibatches(jax.random.key(0), rows, count, epochs)
    assert batches.tokens.shape == (count * epochs, B // count, 2)
    orders = np.asarray(batches.advantages).reshape(epochs, B)
    assert (np.sort(orders, axis=1) == np.arange(B)).all()
    assert len({row.tobytes() for row in orders}) == epochs
    assert not (orders == np.arange(B)).all()
    for number, row, mask, extra in zip(
        orders.ravel().astype(int),
        *(np.asarray(x).reshape(epochs * B, *x.shape[2:])
          for x in (batches.tokens, batches.mask, batches.added[0])),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(row, tokens[number])
        np.testing.assert_array_equal(mask, rows.mask[number])
        assert extra == number + 7


def test_minibatches_that_do_not_divide_the_rows_are_named():
    rows = Rows(jnp.zeros((10, 2), jnp.int32), jnp.ones((10, 2), bool))
    with pytest.raises(ValueError, match="minibatches=4 must divide the 10 rows"):
        in_minibatches(jax.random.key(0), rows, 4, 1)


# Demonstrations.

KEYS = jax.random.split(jax.random.key(3), 16)


@functools.cache
def pairs():
    task = tiny_points.make(wordings=1)
    both = tiny_points.jit(lambda keys: (demonstrations(task, keys), preference_pairs(task, keys)))
    return jax.device_get(both(KEYS))


def read(tokens, mask):
    """Prompt and answer as text, of a row that ends in the end."""
    (places,) = np.nonzero(mask)
    assert (np.diff(places) == 1).all()
    assert tokens[places[-1]] == END
    assert not tokens[places[-1] + 1 :].any()
    decode = tiny_points.vocabulary().decode
    return decode(tokens[: places[0]].tolist()), decode(tokens[places[0] : places[-1]].tolist())


def ranks_of(answer):
    names = answer.split("[")[1].split("]")[0].replace('"', "").split(", ")
    return [tiny_points.RANKS.index(name) + 1 for name in names]


def check(prompt, answer):
    (template,) = tiny_points.templates(wordings=1)
    ranks = ranks_of(answer)
    assert prompt == tiny_points.prompts.fill(template, tiny_points.AS_TEN, ranks)
    return points_judge.judge(answer.encode(), ranks, tiny_points.AS_TEN)["correct"]


def test_demonstrations_are_right():
    rows, _ = pairs()
    texts = [read(*row) for row in zip(rows.tokens, rows.mask, strict=True)]
    assert all(check(*text) for text in texts)
    assert len({prompt for prompt, _ in texts}) > 12


def test_pairs_are_a_right_and_mostly_a_wrong_answer_to_the_same_hand():
    _, rows = pairs()
    wrong = []
    for right, rejected in zip(
        zip(rows.tokens, rows.mask, strict=True), zip(*rows.rejected, strict=True), strict=True
    ):
        prompt, answer = read(*right)
        other_prompt, other = read(*rejected)
        assert prompt == other_prompt
        assert ranks_of(other) == ranks_of(answer)
        assert check(prompt, answer)
        wrong.append(not check(prompt, other))
    assert np.mean(wrong) > 0.8


def test_a_shown_row_is_prompt_demonstration_end_and_the_row():
    task, keys = make_toy(), jax.random.split(jax.random.key(5), 6)
    tokens, mask = (jnp.asarray(x) for x in tiny_shift.rows_of(B=6, T=9))
    shown, answer = jax.device_get(
        tiny_points.jit(functools.partial(with_demonstration, task))(keys, Rows(tokens, mask))
    )
    for b, key in enumerate(keys):
        state = task.reset(jax.random.fold_in(key, 0))
        said = task.opening(state)
        demonstration, length = task.demonstrate(jax.random.fold_in(key, 2), state)
        end = int(np.flatnonzero(mask[b])[-1]) + 1
        expected = [
            *said.tokens[: said.length].tolist(), *demonstration[:length].tolist(), END,
            *tokens[b, :end].tolist(),
        ]  # fmt: skip
        assert shown[b].tolist() == expected + [0] * (len(shown[b]) - len(expected))
        (places,) = np.nonzero(answer[b])
        first = len(expected) - int(mask[b].sum())
        assert places.tolist() == list(range(first, len(expected)))
        np.testing.assert_array_equal(shown[b][places], tokens[b][mask[b]])


# The tasks of a variant.


@pytest.fixture
def made(monkeypatch):
    """What `training_tasks` and `make_tests` ask for, without making it."""
    calls = []

    def record(rule, vocabulary, **options):
        calls.append({"rule": rule, **options})
        return {"number": jnp.int32(len(calls))}

    monkeypatch.setattr(study_tasks, "make_general_points", record)
    monkeypatch.setattr(study_tasks, "alike", lambda tasks: tasks)
    monkeypatch.setattr(study_tasks, "find_refusals", lambda rule: "released")
    monkeypatch.setattr(study_tasks, "make_procedural", lambda *a, **o: {"n": jnp.int32(0)})
    return calls


def trained_on(made, variant, rules=4):
    made.clear()
    study_tasks.training_tasks(VARIANTS[variant], None, rules=rules, seed=0)  # type: ignore
    return list(made)


def test_every_variant_trains_on_its_rule_wording_rewards_and_turns(made):
    for name, setting in VARIANTS.items():
        calls = trained_on(made, name)
        first = FACES_IN_ORDER if setting.direction == "reverse" else FACES_AS_TEN
        assert calls[0]["rule"] == first
        for call in calls:
            assert call["budget"] == setting.turns
            assert call["terse"] == setting.terse
            assert len(call["templates"]) == (7 if setting.diverse else 1)
            assert ('"cards": []' in call["templates"][0]) == setting.terse
            expected = {"paper": PAPER, "released": "released"}.get(setting.rewards, BINARY)
            assert call["rewards"] == expected


def test_diverse_training_has_many_rules_and_never_that_of_the_test(made):
    calls = trained_on(made, "diverse", rules=40)
    rules = [call["rule"].values for call in calls]
    assert len(set(rules)) == len(rules) == 40
    assert FACES_IN_ORDER.values not in rules
    assert rules[0] == FACES_AS_TEN.values


@pytest.mark.parametrize("variant", ["main", "reverse"])
def test_the_fake_judge_states_the_tests_rule_and_goes_by_trainings(made, variant):
    study_tasks.make_tests(VARIANTS[variant], None)  # type: ignore
    new, ood, fake, *released = made
    train, test = (FACES_AS_TEN, FACES_IN_ORDER)[:: -1 if variant == "reverse" else 1]
    assert (new["rule"], new.get("stated")) == (train, None)
    assert (ood["rule"].values, ood.get("stated")) == (test.values, None)
    assert (fake["rule"].values, fake["stated"].values) == (train.values, test.values)
    assert ood["rule"].needs_face_card
    assert fake["rule"].needs_face_card
    assert [call["rewards"] for call in released] == ["released"] * 2
    assert [call["rule"].values for call in released] == [train.values, test.values]
    assert not any(call.get("terse") for call in made)
