import math

import numpy as np
import pytest

from rlrazor.lines import (
    FAMILIES,
    REQUIRED,
    ROLES,
    check_field,
    check_line,
    pack_outcomes,
    unpack_outcomes,
)

LINE = {
    "schema": 2,
    "study": "mine",
    "run": "a",
    "arm": "my_rl",
    "method": "my_rl",
    "variant": "main",
    "family": "reward",
    "label": "My RL",
    "seed": 0,
    "step": 10,
    "updates": 20,
    "final": True,
    "diverged": False,
    "flops": 1e12,
    "flops_teacher": 0.0,
}
FULL = LINE | {
    "base": "Qwen2.5-0.5B",
    "roles": "plain two_sided",
    "hyperparameters": {"learning_rate": 1e-5, "schedule": "cosine", "kl": None, "lora": True},
    "new/accuracy": 0.5,
    "new/base_accuracy": None,
    "new/count": 100,
    "shift/rule/accuracy": 0.25,
    "shift/any name/base_accuracy": 1,
    "prior/accuracy": 0.0,
    "prior/mmlu/accuracy": 0.5,
    "new/kl_base_policy_nats": 1.5,
    "train/reward": None,
    "seconds": 3,
}


def test_what_is_required_suffices_and_each_is():
    check_line(LINE)
    check_line(FULL)
    assert set(LINE) == {"schema", *REQUIRED}
    for name in REQUIRED:
        rest = {key: value for key, value in LINE.items() if key != name}
        with pytest.raises(ValueError, match=f"no field '{name}' .*it must be "):
            check_line(rest)
    for family in FAMILIES:
        check_line(LINE | {"family": family})
    check_line(LINE | {"roles": ""})
    check_line(LINE | {"roles": " ".join(ROLES)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 1}, "'schema' must be 2, got 1"),
        ({"run": ""}, "'run' must be a text that is not empty .*, got ''"),
        ({"arm": None}, "'arm' must be a text that is not empty .*, got None"),
        ({"family": "rl"}, "'family' must be 'reward' .*or 'outside' .*or 'near' .*, got 'rl'"),
        ({"seed": 1.0}, "'seed' must be an integer from 0 .*, got 1.0"),
        ({"seed": True}, "'seed' must be an integer from 0 .*, got True"),
        ({"step": -1}, "'step' must be an integer from 0 .*, got -1"),
        ({"final": 1}, "'final' must be true or false .*, got 1"),
        ({"flops": math.nan}, "'flops' must be a finite number or null .*, got nan"),
        ({"roles": "plain best"}, "'roles' must be none or some of plain, .*, got 'plain best'"),
        ({"new/accuracy": 62.5}, "'new/accuracy' must be a number from 0 to 1, or null"),
        ({"shift/rule/accuracy": 1.5}, "'shift/rule/accuracy' must be a number from 0 to 1"),
        ({"prior/mmlu/base_accuracy": "x"}, "'prior/mmlu/base_accuracy' must be a number from 0"),
        ({"train/loss": math.inf}, "'train/loss' must be finite or null, got inf"),
        ({"ood/accuracy": 0.5}, "unknown field 'ood/accuracy'.*'shift/rule/accuracy'"),
        ({"shift/accuracy": 0.5}, "unknown field 'shift/accuracy'.*'shift/<name>/<what>'"),
        ({"hyperparameters": [1]}, r"'hyperparameters' must be an object, got \[1\]"),
        ({"hyperparameters": {"a": {"b": 1}}}, "'hyperparameters/a' must be a number"),
        ({"tasks": [1]}, "'tasks' must be a number, true, false, a text or null"),
    ],
)
def test_an_error_names_field_value_and_what_is_allowed(change, message):
    with pytest.raises(ValueError, match=message):
        check_line(LINE | change)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 4097])
def test_outcomes_come_back_from_their_text(n):
    correct = np.random.default_rng(n).random(n) < 0.3
    text = pack_outcomes(correct)
    np.testing.assert_array_equal(unpack_outcomes(text), correct)
    check_field("outcomes/new", text)


@pytest.mark.parametrize("text", ["", "8", "x:AA==", "9:AA==", "8:AAA=", "8:A", "-8:AA==", "8:é"])
def test_other_texts_are_no_outcomes(text):
    with pytest.raises(ValueError, match=r"outcomes must be '<count>:<base64"):
        check_field("outcomes/new", text)


def test_outcomes_are_a_text():
    with pytest.raises(ValueError, match=r"must be a text of `pack_outcomes`, got 3"):
        check_field("outcomes/new", 3)
