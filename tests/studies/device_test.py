"""What an iteration draws: whose examples, which version, and that a pool stays a pool."""

import dataclasses

import jax
import numpy as np
import pytest

from rlrazor.methods import methods
from rlrazor.sampling.episodes import deal
from rlrazor.studies.device import itself, versions
from rlrazor.studies.programs import POOL
from tests.oracles import toy_study
from tests.oracles.toy_study import (
    IMITATION,
    drawn,
    given,
    on_device,
    prompt_digits,
    setup,
    task,
    worth,
)

pytestmark = pytest.mark.usefixtures("quick_compiles")

G = 3


def answers(rows):
    return [tuple(t[m].tolist()) for t, m in zip(rows.tokens, rows.mask, strict=True)]


def digits(rows):
    return {tuple(prompt_digits(row).tolist()) for row in rows.tokens}


def test_groups_share_the_example_and_are_judged_by_its_task():
    rows, metrics = drawn("grpo")
    prompts = rows.tokens[:, :2].reshape(-1, G, 2)
    assert (prompts == prompts[:, :1]).all()
    earned = [worth(prompt_digits(t), t[m]) for t, m in zip(rows.tokens, rows.mask, strict=True)]
    np.testing.assert_array_equal(rows.rewards, earned)
    np.testing.assert_array_equal(rows.correct, np.array(earned) == 3)
    assert metrics["reward"] == pytest.approx(np.mean(earned))
    assert len(set(answers(rows))) > 4


def test_the_same_key_draws_the_same_and_another_key_anew():
    first, again, other = (drawn("grpo", seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert not np.array_equal(first.tokens, other.tokens)


def test_a_fixed_set_is_drawn_from_its_pool_alone_and_answered_afresh():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(given().stream(POOL), np.arange(2))
    pool = {tuple(state) for state in np.asarray(deal(task(), keys).digits).tolist()}
    rows = [drawn("grpo", seed, fixed=2)[0] for seed in range(4)]
    assert set().union(*map(digits, rows)) == pool
    assert answers(rows[0]) != answers(rows[1])
    fresh = set().union(*(digits(drawn("grpo", seed)[0]) for seed in range(4)))
    assert len(fresh) > 6


def test_one_of_several_versions_is_drawn_an_iteration():
    seen = set()
    for seed in range(6):
        rows, _ = drawn("grpo", seed, 0, 1)
        matches = [
            all(
                worth(prompt_digits(t), t[m], shift) == reward
                for t, m, reward in zip(rows.tokens, rows.mask, rows.rewards, strict=True)
            )
            for shift in (0, 1)
        ]
        assert sum(matches) == 1
        seen.add(matches.index(True))
    assert seen == {0, 1}


def test_demonstrations_are_right_and_pairs_mostly_wrong_beside_them():
    rows, _ = drawn("dpo")
    right, wrong = (
        np.mean(
            [
                worth(prompt_digits(t), t[m]) == 3
                for t, m in zip(side.tokens, side.mask, strict=True)
            ]
        )
        for side in (rows, rows.rejected)
    )
    assert right == 1 > 0.6 > wrong
    np.testing.assert_array_equal(rows.tokens[:, :2], rows.rejected.tokens[:, :2])


def test_versions_are_stacked():
    both = versions(task(0), task(5))
    assert both.shift.tolist() == [0, 5]
    assert versions(task(4)).shift.tolist() == [4]
    assert itself(both) is both


def test_who_needs_an_expert():
    every = methods.all_methods().items()
    found = {name for name, method in every if method.imitates or method.demonstrated}
    assert found == {*IMITATION, "sdft"}
    lacking = dataclasses.replace(on_device(), expert=None)
    assert "no expert" in str(lacking.refusal(setup("sft")))
    assert lacking.refusal(setup("grpo")) is None


def test_an_anchor_is_what_the_base_says_to_other_prompts():
    method = methods.sft_kl_prior
    assert method.anchored
    lacking = dataclasses.replace(on_device(), anchors=None)
    assert "the world has none for it" in str(lacking.refusal(setup("sft_kl_prior")))
    assert on_device().refusal(setup("sft_kl_prior")) is None
    rows, _ = drawn("sft_kl_prior")
    plain, _ = drawn("sft")
    np.testing.assert_array_equal(rows.tokens, plain.tokens)  # the demonstrations are SFT's
    assert len(rows.anchor.tokens) == len(rows.tokens)
    assert rows.anchor.mask.any(axis=1).all()
    # Of the base, whoever is trained; and other keys ask other prompts.
    again, _ = drawn("sft_kl_prior", start=jax.tree.map(lambda x: x + 1.0, given().base))
    np.testing.assert_array_equal(again.anchor.tokens, rows.anchor.tokens)
    assert not np.array_equal(drawn("sft_kl_prior", 1)[0].anchor.tokens, rows.anchor.tokens)


def test_a_rows_tokens_are_its_slots():
    world = on_device()
    assert world.row_tokens(setup("grpo")) == 3 + 4
    assert world.row_tokens(setup("grpo", turns=3)) == 3 + 3 * 4 + 2 * 2
    assert drawn("grpo")[0].tokens.shape[1] == 3 + 4
    assert toy_study.run("grpo")[1][0]["row_tokens"] <= 12 * 7
