import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.tasks.general_points import feedback
from rlrazor.tasks.general_points.feedback import FAILURES, SENTENCES, STUDY_SENTENCES

ORDER = (
    "no_object",
    "malformed_field",
    "cards_misread",
    "illegal_formula",
    "number_not_on_cards",
    "card_reused",
    "card_unused",
    "wrong_right_side",
    "wrong_value",
)


def twin(failures, visual):
    for i, name in enumerate(ORDER):
        if failures[name] and (visual or name != "cards_misread"):
            return 1 + i
    return 0


@pytest.mark.parametrize("visual", [False, True])
def test_the_first_failure_speaks_and_one_trace_serves_all(visual):
    every = np.array(list(itertools.product([False, True], repeat=9)))
    failures = {name: every[:, i] for i, name in enumerate(ORDER)}
    failures["over_budget"] = np.ones(512, bool)  # has no words
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(feedback.choose_sentence, n=1), static_argnums=1)
    solo = [traced({n: f[i] for n, f in failures.items()}, visual) for i in range(512)]
    assert solo[0].dtype == jnp.int32
    expected = [twin(dict(zip(ORDER, row, strict=True)), visual) for row in every]
    np.testing.assert_array_equal(solo, expected)
    vmapped = jax.jit(jax.vmap(lambda f: feedback.choose_sentence(f, visual)))(failures)
    np.testing.assert_array_equal(vmapped, expected)


def test_table_holds_every_sentence_after_an_empty_row():
    table = feedback.feedback_table(SENTENCES, lambda text: list(text.encode()))
    assert table.tokens.dtype == table.lengths.dtype == jnp.int32
    spelled = [
        bytes(row[:n].tolist()).decode()
        for row, n in zip(np.asarray(table.tokens), np.asarray(table.lengths), strict=True)
    ]
    assert spelled == ["", *(f"\n{SENTENCES[name]}\n" for name in ORDER)]
    assert not np.any(np.asarray(table.tokens)[1, int(table.lengths[1]) :])


def test_order_of_a_replaced_table_does_not_matter():
    own = {name: name for name in reversed(ORDER)}
    table = feedback.feedback_table(own, lambda text: list(text.encode()))
    row = np.asarray(table.tokens)[1 + ORDER.index("card_unused")]
    assert bytes(row.tolist()).rstrip(b"\0") == b"\ncard_unused\n"


def test_missing_and_unknown_failures_are_errors():
    short = {name: text for name, text in SENTENCES.items() if name != "card_reused"}
    with pytest.raises(ValueError, match="lack card_reused; give one for each of no_object"):
        feedback.feedback_table(short, str.encode)
    with pytest.raises(ValueError, match="hold wrong_colour; give one"):
        feedback.feedback_table({**SENTENCES, "wrong_colour": "?"}, str.encode)


def test_sentences_name_the_failure_and_no_solution():
    assert FAILURES == ORDER
    assert len(set(SENTENCES.values())) == 9
    for sentence in SENTENCES.values():
        assert sentence.startswith("You failed this trial because ")
        assert not re.search(r"[0-9+*/()=]", sentence)


def test_the_right_side_may_go_without_a_sentence_of_its_own():
    assert {*SENTENCES} - {*STUDY_SENTENCES} == {"wrong_right_side"}
    table = feedback.feedback_table(STUDY_SENTENCES, lambda text: list(text.encode()))
    rows = np.asarray(table.tokens)[[1 + ORDER.index(n) for n in ORDER[-2:]]]
    assert bytes(rows[0].tolist()).rstrip(b"\0").decode() == f"\n{SENTENCES['wrong_value']}\n"
    np.testing.assert_array_equal(*rows)
    with pytest.raises(ValueError, match="lack wrong_value; give one"):
        feedback.feedback_table(
            {name: text for name, text in SENTENCES.items() if "wrong" not in name}, str.encode
        )
