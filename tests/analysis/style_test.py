import re

import pytest

from rlrazor.analysis.results import RL_ARMS, SFT_ARMS
from rlrazor.analysis.style import KNOWN, OUTSIDE, RL, arm_styles

ARMS = [*KNOWN, "mine", "another"]


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("page", ["#ffffff", "#14171b"])
def test_every_colour_is_seen_on_a_light_and_a_dark_page(arm, page):
    colour = arm_styles(ARMS)[arm].colour
    assert re.fullmatch("#[0-9a-f]{6}", colour)
    high, low = sorted((luminance(colour), luminance(page)), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 3.0


def test_no_two_methods_share_marker_and_fill_within_a_family():
    styles = arm_styles(ARMS).values()
    assert len({(s.family, s.marker) for s in styles}) == len(ARMS)
    assert len({s.name for s in styles}) == len(ARMS)


def test_families_differ_in_fill():
    styles = arm_styles(ARMS)
    assert all(styles[arm].family == RL and styles[arm].filled for arm in RL_ARMS)
    assert all(styles[arm].family == OUTSIDE and not styles[arm].filled for arm in SFT_ARMS)


def test_a_known_method_looks_the_same_whatever_else_is_there():
    assert arm_styles(["grpo"])["grpo"] == arm_styles(["zzz", "grpo", "aaa"])["grpo"]
    assert list(arm_styles(["zzz", "grpo"])) == ["zzz", "grpo"]


def test_a_long_name_is_shortened_to_one_line():
    name = arm_styles(["a\nb" * 40])["a\nb" * 40].name
    assert "\n" not in name
    assert len(name) <= 28
