"""The tour shows what it promises, for any seed, and refuses in one sentence what it cannot do."""

import re

import numpy as np
import pytest
from PIL import Image

from experiments.general_points import play
from tests.oracles.scripts import Script


@pytest.fixture(scope="module")
def tour(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("tour")
    arguments = f"--workdir={folder / 'new' / 'run'}", "--seed=3"
    script = Script("general_points_tour.py", *arguments, folder=folder / "output", cache=cache)
    return script.wait(), folder / "new" / "run"


def test_prints_a_hand_its_solutions_and_verdicts(tour):
    ended, workdir = tour
    assert ended.status == 0, ended.stderr
    assert ended.stderr == ""
    text = ended.stdout
    assert len(re.findall(r"of (spades|hearts|diamonds|clubs) +\d", text)) == 4
    assert "here J, Q and K each count 10." in text.replace("\n  |  ", "")  # unfolded
    verdicts = re.findall(r"  verdict +(.*)", text)
    assert verdicts[:3] == ["correct", "wrong_value", "card_unused, number_not_on_cards"]
    rewards = re.findall(r"  rewards +paper (\S+), code (\S+), binary (\S+)", text)
    assert rewards[1:] == [("-1", "-1", "0"), ("-2", "-4", "0")]
    assert (rewards[0][0], rewards[0][2]) == ("+5", "1")
    assert max(map(len, text.replace(str(workdir), "DIR").splitlines())) <= 100


def test_saves_the_pictures(tour):
    _, workdir = tour
    with Image.open(workdir / "hand.png") as hand, Image.open(workdir / "cards.png") as cards:
        assert (hand.mode, hand.size) == ("RGB", (480, 220))
        assert cards.mode == "RGB"
        assert cards.width > 13 * 100
        assert cards.height > 4 * 150
        assert (np.asarray(hand) == 255).mean() > 0.2  # paper


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seed=one"], "--seed=one"),
        (["--seed=1.5"], "--seed=1.5"),
        (["--seed=-1"], "--seed=-1"),
        (["--seed=4294967296"], "--seed=4294967296"),
        (["--sed=1"], "Unknown command line flag 'sed'. Did you mean: seed"),
        (["stray"], "'stray' is not a flag"),
        (["--workdir={file}"], "exists"),
        (["--workdir={file}/below"], "Not a directory"),
        (["--workdir=/proc/tour"], "/proc/tour"),
    ],
)
def test_a_mistake_ends_in_one_sentence(tmp_path, arguments, sentence):
    file = tmp_path / "file"
    file.write_text("kept")
    arguments = [argument.format(file=file) for argument in arguments]
    ended = Script("general_points_tour.py", *arguments, folder=tmp_path, cache=None).wait()
    assert ended.status == 2, ended
    assert ended.stdout == ""
    assert ended.sentence.startswith("error: ")
    assert sentence in ended.sentence
    assert file.read_text() == "kept"


def test_pack_texts():
    packed = play.pack_texts(["ab", b"\xff", ""], 3)
    np.testing.assert_array_equal(packed, np.array([[97, 98, 0], [255, 0, 0], [0, 0, 0]], np.uint8))
    assert packed.flags.writeable
    assert play.pack_texts([], 3).shape == (0, 3)
    with pytest.raises(ValueError, match="a text has 4 bytes; give size=4 or more"):
        play.pack_texts(["éab"], 3)
