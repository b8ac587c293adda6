"""What a policy is measured on: each number beside one that was worked out in plain Python."""

import functools
import itertools
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.general_points.language import END
from experiments.rule_shift import tasks as study_tasks
from experiments.rule_shift.lines import pass_at
from experiments.rule_shift.measure import Samples, _greedy, build_measure
from rlrazor.ops.sequences import prompt_and_answer
from rlrazor.ops.spelling import spell
from rlrazor.runtime.mesh import compile_once, make_mesh
from rlrazor.runtime.tokenizer import token_bytes
from rlrazor.sampling.decode import Sampling
from rlrazor.tasks.general_points.released import CORRECT
from rlrazor.tasks.procedural.pieces import TASKS as SUITES
from tests.oracles import points_judge, tiny_points, tiny_shift
from tests.oracles.tiny_shift import make_toy, stacked, tiny_config, toy, worth

pytestmark = pytest.mark.usefixtures("quick_compiles")

BUDGET = 3
SHIFT = {"new": 0, "ood": 1, "fake": 2}
KEY = jax.random.key(7)
N, T = 6, 9


@functools.cache
def measure():
    config = tiny_config()
    built = build_measure(toy().context(config), toy().player, config, make_mesh(data=1))
    return types.SimpleNamespace(
        **{
            name: compile_once(getattr(built, name)) for name in ("checkpoint", "turns", "repeated")
        },
        base_samples=compile_once(built.base_samples),
    )


@functools.cache
def tasks():
    judges = {name: make_toy(shift, BUDGET) for name, shift in SHIFT.items()}
    released = [make_toy(SHIFT[name] + 2, BUDGET, pay=CORRECT / 3) for name in ("new", "ood")]
    prior = stacked(*(make_toy(suite, BUDGET) for suite in range(len(SUITES))))
    return study_tasks.Tests(*judges.values(), *released, prior)


@functools.cache
def samples(seed):
    return Samples(*map(jnp.asarray, tiny_shift.rows_of(N, T, seed)))


def checkpoint(policy, base):
    params = toy().params
    found = measure().checkpoint(
        params[policy], params[base], tasks(), (samples(0), samples(1)), KEY
    )
    return {name: float(value) for name, value in found.items()}


checkpoint = functools.cache(checkpoint)


@functools.cache
def greedy_texts(policy, hands=16):
    """(secret, what the likeliest tokens say) on the hands of the measurement, without a cache."""
    score = jax.jit(lambda tokens: toy().context(tiny_config()).distributions(
        toy().params[policy], tokens))  # fmt: skip
    found, task = [], tasks().new
    for key in jax.random.split(jax.random.fold_in(KEY, 2), hands):
        state = task.reset(jax.random.fold_in(key, 0))
        said = task.opening(state)
        row, answer = said.tokens[: said.length].tolist(), []
        while len(answer) < 5 and END not in answer:
            padded = jnp.array([[*row, *answer] + [0] * (10 - len(row) - len(answer))])
            answer.append(int(np.argmax(score(padded)[0, len(row) + len(answer) - 1])))
        found.append((int(state.secret), bytes(45 + token for token in answer if token >= 3)))
    return found


def test_success_is_that_of_judging_what_was_said():
    found = checkpoint(1, 0)
    said = greedy_texts(1)
    of = {
        name: np.array([worth(secret, text, shift) for secret, text in said])
        for name, shift in {**SHIFT, "new_released": 2, "ood_released": 3}.items()
    }
    for name in ("new", "ood"):
        assert found[f"{name}/accuracy"] == np.mean(of[name] == 3)
        assert found[f"{name}/cards_read"] == np.mean(of[name] == 3)
        assert found[f"{name}/numbers_translated"] == np.mean(of[name] >= 2)
        assert found[f"{name}/released_accuracy"] == np.mean(of[f"{name}_released"] == 3)
    assert found["ood/fake_accuracy"] == np.mean(of["fake"] == 3)
    assert (
        len({found[f"{name}/accuracy"] for name in ("new", "ood")} | {found["ood/fake_accuracy"]})
        > 1
    )


def test_prior_success_is_the_mean_over_the_suites():
    found = checkpoint(1, 0)
    suites = [found[f"prior/{name}/accuracy"] for name in SUITES]
    np.testing.assert_allclose(found["prior/accuracy"], np.mean(suites), rtol=1e-6)
    assert len(set(suites)) > 1
    assert all((4 * value).is_integer() for value in suites)


def divergences(first, second, of):
    """KL(first || second) in float64: nats a sequence, and a token."""
    context = toy().context(tiny_config())
    p, q = (
        np.asarray(context.distributions(toy().params[i], of.tokens), np.float64)
        for i in (first, second)
    )
    at = (np.exp(p) * (p - q)).sum(-1)
    mask = np.asarray(of.mask)[:, 1:]
    return (at * mask).sum(1).mean(), at[mask].mean()


def test_the_divergence_is_numpys_and_has_its_direction():
    for policy, base in ((1, 0), (0, 1)):
        found = checkpoint(policy, base)
        for name, of in (("new", samples(0)), ("prior", samples(1))):
            nats, per_token = divergences(base, policy, of)
            np.testing.assert_allclose(found[f"{name}/kl_base_policy_nats"], nats, rtol=1e-4)
            np.testing.assert_allclose(
                found[f"{name}/kl_base_policy_nats_per_token"], per_token, rtol=1e-4
            )
        other, _ = divergences(policy, base, samples(0))
        assert abs(found["new/kl_base_policy_nats"] / other - 1) > 0.02


def test_the_base_is_at_no_distance_from_itself():
    found = checkpoint(0, 0)
    names = [name for name in found if "kl_" in name]
    assert len(names) == 6
    assert all(abs(found[name]) < 1e-6 for name in names)
    assert checkpoint(1, 0)["new/kl_policy_base_nats"] > 0.1


def test_the_other_divergence_is_over_the_policys_own_samples():
    """Monte Carlo on the same samples, played here."""
    keys = jax.random.split(jax.random.fold_in(KEY, 4), 16)
    played = jax.jit(
        lambda params: toy().player.play(params, tasks().new, keys, Sampling(1.0), turns=1)
    )(toy().params[1])
    nats, per_token = divergences(1, 0, Samples(played.tokens, played.chosen))
    found = checkpoint(1, 0)
    np.testing.assert_allclose(found["new/kl_policy_base_nats"], nats, rtol=1e-4)
    np.testing.assert_allclose(found["new/kl_policy_base_nats_per_token"], per_token, rtol=1e-4)


@pytest.mark.slow
def test_the_bases_samples_are_its_own_answers():
    new, prior = measure().base_samples(toy().params[0], tasks(), KEY)
    assert len(new.tokens) == 16
    assert len(prior.tokens) == 16 // len(SUITES) * len(SUITES)
    for said in (new, prior):
        tokens, mask = np.asarray(said.tokens), np.asarray(said.mask)
        assert mask.any(axis=1).all()
        assert not mask[:, :2].any()  # the prompt
        assert len({row.tobytes() for row in tokens}) > 12
    again, _ = measure().base_samples(toy().params[0], tasks(), KEY)
    np.testing.assert_array_equal(new.tokens, again.tokens)


@pytest.mark.slow
def test_more_turns_solve_more_and_one_turn_what_is_solved_at_once():
    found = jax.device_get(measure().turns(toy().params[1], tasks(), KEY))
    single = checkpoint(1, 0)
    for name in ("new", "ood"):
        within = [float(found[f"{name}/success_within_{k}"]) for k in (1, 2, 3)]
        assert within == sorted(within)
        assert within[0] == single[f"{name}/accuracy"]
    assert any(
        found[f"{n}/success_within_3"] > found[f"{n}/success_within_1"] for n in ("new", "ood")
    )


@pytest.mark.slow
def test_repeated_answers_are_counted_by_hand():
    config = tiny_config().measure
    found = jax.device_get(measure().repeated(toy().params[1], tasks(), KEY))
    keys = jax.random.split(jax.random.fold_in(KEY, 5), config.pass_hands)
    for name in ("new", "ood"):
        counts = []
        for key in keys:
            played = _alone(toy().params[1], getattr(tasks(), name), key[None])
            texts = [
                bytes(45 + t for t in row[chosen].tolist() if t >= 3)
                for row, chosen in zip(
                    *map(np.asarray, (played.tokens, played.chosen)), strict=True
                )
            ]
            secret = int(played.state.secret[0])
            counts.append(sum(worth(secret, text, SHIFT[name]) == 3 for text in texts))
        assert found[name].tolist() == counts
        assert 0 < sum(counts) < config.pass_hands * config.pass_samples


@jax.jit
def _alone(params, task, key):
    return toy().player.play(params, task, key, Sampling(1.0), turns=1, samples=8)


# pass@k.


def test_pass_at_k_is_that_of_all_subsets():
    n = 6
    correct = np.array([0, 1, 2, 3, 5, 6])
    for k in range(1, n + 1):
        shares = [
            np.mean([min(subset) < c for subset in itertools.combinations(range(n), k)])
            for c in correct
        ]
        np.testing.assert_allclose(pass_at(correct, n, k), np.mean(shares), rtol=1e-12)


def test_pass_at_k_grows_and_is_the_formulas_for_many_samples():
    correct = np.random.default_rng(0).integers(0, 129, 40)
    values = [pass_at(correct, 128, k) for k in range(1, 129)]
    assert values == sorted(values)
    np.testing.assert_allclose(values[0], np.mean(correct / 128))
    np.testing.assert_allclose(values[-1], np.mean(correct > 0))
    chosen = [1 - math.comb(128 - c, 64) / math.comb(128, 64) for c in correct.tolist()]
    np.testing.assert_allclose(values[63], np.mean(chosen), rtol=1e-9)


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_refuses_what_has_no_unbiased_estimate(k):
    with pytest.raises(ValueError, match=rf"pass@{k} needs at least {k} samples a hand, got 4"):
        pass_at(np.array([1, 2]), 4, k)


# Real hands: a player that says what an expert of a task would say.


class Scripted:
    answer_size, answer_bytes = 40, 160

    @property
    def spelling(self):
        return tuple(map(jnp.asarray, token_bytes(tiny_points.tokenizer())))

    def play(self, speaker, task, keys, sampling, *, turns):
        def row(key):
            state = task.reset(jax.random.fold_in(key, 0))
            said = task.opening(state)
            weights = jnp.ones(task.deck.cards, jnp.int32)
            answer, length = speaker.demonstrate(key, state, weights)
            tokens, chosen = prompt_and_answer(said.tokens, said.length, answer, length, end=END)
            tokens = jnp.pad(tokens, (0, 20))
            chosen = jnp.pad(chosen, (0, 20))
            text = self.bytes_of(answer, length)
            return tokens, chosen, said.length[None], task.step(state, text)[1], state.hand.ranks

        tokens, chosen, start, verdict, self.ranks = jax.vmap(row)(keys)
        return types.SimpleNamespace(
            tokens=tokens, chosen=chosen, answer_start=start,
            verdict=jax.tree.map(lambda x: x[:, None], verdict),
            cut=jnp.zeros((len(keys), 1), bool),
        )  # fmt: skip

    def bytes_of(self, answer, length):
        return spell(answer, *self.spelling, self.answer_bytes, length)[0]


AS_TEN, IN_ORDER = tiny_points.AS_TEN, tiny_points.IN_ORDER


@tiny_points.jit
def scripted(speaker, task, fake, keys):
    player = Scripted()
    found = _greedy(player, speaker, task, keys, {"fake": fake})  # type: ignore
    played = player.play(speaker, task, keys, Sampling(0.0), turns=1)
    return found, played.tokens, played.chosen, player.ranks


@pytest.mark.parametrize("speaks", ["as asked", "as trained", "without reading"])
def test_real_answers_are_judged_like_the_oracle_judges_their_text(speaks):
    ood, fake = tiny_points.make(IN_ORDER), tiny_points.make(AS_TEN, stated=IN_ORDER)
    speaker = {
        "as asked": ood, "as trained": tiny_points.make(AS_TEN),
        "without reading": tiny_points.make(IN_ORDER, terse=True),
    }[speaks]  # fmt: skip
    keys = jax.random.split(jax.random.key(2), 24)
    found, tokens, chosen, hands = jax.device_get(scripted(speaker, ood, fake, keys))
    right, by_fake, read, translated = [], [], [], []
    for row, mask, ranks in zip(tokens, chosen, hands.tolist(), strict=True):
        text = tiny_points.vocabulary().decode(row[mask][:-1].tolist())
        flags = points_judge.judge(text.encode(), ranks, IN_ORDER)
        right.append(flags["correct"])
        by_fake.append(points_judge.judge(text.encode(), ranks, AS_TEN)["correct"])
        fields = json.loads(text)
        cards = [tiny_points.RANKS[rank - 1] for rank in ranks]
        read.append(sorted(fields["cards"]) == sorted(cards))
        numbers = [IN_ORDER.values[tiny_points.RANKS.index(c)] for c in fields["cards"]]
        translated.append(len(fields["cards"]) == 3 and sorted(fields["number"]) == sorted(numbers))
    expected = {
        "accuracy": right, "fake_accuracy": by_fake, "cards_read": read,
        "numbers_translated": translated,
    }  # fmt: skip
    for name, flags in expected.items():
        np.testing.assert_allclose(found[name], np.mean(flags), err_msg=name)
    assert np.mean(right) == 1 or speaks == "as trained"
    assert np.mean(read) == (speaks != "without reading")
    if speaks == "as trained":
        assert found["fake_accuracy"] > found["accuracy"]
