import re

import numpy as np
import pytest

from rlrazor.analysis.legacy import METHODS, VARIANTS, known
from rlrazor.analysis.results import Results
from rlrazor.analysis.style import NEAR, OUTSIDE, RL, arm_styles
from rlrazor.lines import MAIN

ARMS = {**{arm: k.family for arm, k in METHODS.items()}, "mine": "reward", "another": "near"}


def of(*rows):
    """Results with (arm, family[, method, variant, label]) a row."""
    full = [(r[0], r[1], *(r[2:] or (r[0], MAIN, r[0].upper()))) for r in rows]
    names = ("arm", "family", "method", "variant", "label")
    return Results({n: np.array(v) for n, v in zip(names, zip(*full, strict=True), strict=True)})


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("family", ["reward", "outside", "near"])
@pytest.mark.parametrize("page", ["#ffffff", "#14171b"])
def test_every_colour_is_seen_on_a_light_and_a_dark_page(family, page):
    styles = arm_styles(of(*((f"arm{i}", family) for i in range(20))))
    for style in [*styles.values(), styles["no arm of these"]]:
        assert re.fullmatch("#[0-9a-f]{6}", style.colour)
        high, low = sorted((luminance(style.colour), luminance(page)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 3.0


def test_no_two_methods_share_marker_and_fill_within_a_family():
    styles = arm_styles(of(*ARMS.items())).values()
    assert len({(s.family, s.marker) for s in styles}) == len(ARMS)
    assert len({s.name for s in styles}) == len(ARMS)


def test_families_differ_in_fill_and_stand_in_order():
    styles = arm_styles(of(("c", "near"), ("a", "outside"), ("b", "reward"), ("z", "reward")))
    assert list(styles) == ["b", "z", "a", "c"]
    assert [s.family for s in styles.values()] == [RL, RL, OUTSIDE, NEAR]
    assert [s.filled for s in styles.values()] == [True, True, False, False]


def test_looks_follow_order_and_family_not_names():
    ours = arm_styles(of(("grpo", "reward"), ("sft", "outside")))
    mine = arm_styles(of(("my_rl", "reward"), ("my_sft", "outside")))
    looks = [[(s.colour, s.marker) for s in styles.values()] for styles in (ours, mine)]
    assert looks[0] == looks[1]
    assert [s.name for s in mine.values()] == ["MY_RL", "MY_SFT"]


def test_a_variant_looks_like_its_method_and_says_what_it_is():
    rows = of(
        ("rl", "reward", "rl", MAIN, "RL"),
        ("other", "reward", "other", MAIN, "Other"),
        ("rl_long", "reward", "rl", "long", "RL"),
        ("rl_named", "reward", "rl", "named", "RL with a name"),
    )
    styles = arm_styles(rows)
    assert len({(styles[a].colour, styles[a].marker) for a in ("rl", "rl_long", "rl_named")}) == 1
    assert styles["other"].marker != styles["rl"].marker
    assert [s.name for s in styles.values()] == ["RL", "Other", "RL, long", "RL with a name"]


def test_arms_of_one_label_are_told_apart():
    rows = of(("a", "near", "a", MAIN, "Same"), ("b", "near", "b", MAIN, "Same"))
    assert [s.name for s in arm_styles(rows).values()] == ["Same (a)", "Same (b)"]


def test_variants_of_known_methods_have_labels():
    assert known("grpo_turns_10").label == "GRPO, 10 turns"
    assert known("sft_kl_base_policy").label == "SFT + KL(base‖policy)"
    assert known("sft_diverse").label == f"SFT, {VARIANTS['diverse']}"
    assert known("mine_diverse") is None


def test_a_long_name_is_shortened_to_one_line():
    long = "a\nb" * 40
    name = arm_styles(of((long, "near", long, MAIN, long)))[long].name
    assert "\n" not in name
    assert len(name) <= 40
