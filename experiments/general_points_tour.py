"""GeneralPoints by example: a hand, its solutions, three answers and what the judge says to them.

    python experiments/general_points_tour.py [--workdir=DIR] [--seed=0]

Prints everything and saves two pictures, the hand and all 52 cards, to the workdir. Half a minute
on a CPU; nothing is trained or downloaded.
"""

import dataclasses
import pathlib
import re
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image

from experiments import cli
from experiments.general_points import play
from rlrazor.runtime.mesh import compile_once
from rlrazor.tasks.general_points import feedback, pictures, prompts, released, rewards
from rlrazor.tasks.general_points.alike import alike
from rlrazor.tasks.general_points.atlas import make_atlas
from rlrazor.tasks.general_points.rule import FACES_AS_TEN, FACES_IN_ORDER, Rule
from rlrazor.tasks.general_points.task import make_general_points

SEED = flags.DEFINE_integer("seed", 0, "deals the hand", lower_bound=0, upper_bound=2**32 - 1)
WORKDIR = flags.DEFINE_string("workdir", "runs/general_points_tour", "folder for the pictures")

# Hands without a J, Q or K are left out: they count the same under both rules.
RULE = dataclasses.replace(FACES_AS_TEN, needs_face_card=True)
OTHER = dataclasses.replace(FACES_IN_ORDER, needs_face_card=True)
NAMES = {RULE: "J = Q = K = 10", OTHER: "J, Q, K = 11, 12, 13"}
BUDGET = 3  # turns
SHOWN = 6  # solutions
HEIGHT, WIDTH, CARD_HEIGHT = 220, 480, 150  # pixels of the hand's picture
MOVED = {"shift": 0.02, "rotation": 0.12, "scale": 0.08}


def title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


def show(text: str, label: str = "") -> None:
    """Lines too long for a terminal are folded; the text itself has no such breaks."""
    first, later = (f"  {label:11}", " " * 13) if label else ("  | ", "  |   ")
    for line in text.strip("\n").split("\n"):
        print(textwrap.fill(line, 96, initial_indent=first, subsequent_indent=later))


def show_solutions(ranks: jax.Array, rule: Rule) -> None:
    found = play.formulas(ranks, rule)
    some = found[:: max(1, len(found) // SHOWN)][:SHOWN]
    print(f"{NAMES[rule]}: {len(found)} solutions{', such as' * bool(some)}", *some, sep="\n    ")


def variants(right: str, numbers: list[int]) -> list[str]:
    """An answer; ending in a foreign number; with + and with - before its end, one surely wrong."""
    foreign = next(str(n) for n in range(1, 99) if n not in numbers)
    signs = [re.sub(r"[-+*/](?=\d+\)*=)", sign, right) for sign in "+-"]
    return [right, re.sub(r"\d+(?=\)*=)", foreign, right), *signs]


def save_pictures(key: jax.Array, ranks: jax.Array, suits: jax.Array, folder: pathlib.Path) -> None:
    atlas = make_atlas(CARD_HEIGHT)
    row = pictures.lay_out(len(ranks), HEIGHT, WIDTH, CARD_HEIGHT)

    def draw():
        moved = pictures.jitter(key, row, **MOVED)
        return pictures.draw_hand(atlas, ranks, suits, moved, height=HEIGHT, width=WIDTH)

    Image.fromarray(np.asarray(compile_once(draw)())).save(folder / "hand.png")
    sheet = compile_once(pictures.contact_sheet)(atlas)
    Image.fromarray(np.asarray(sheet)).save(folder / "cards.png")


def main(argv: Any) -> None:
    workdir = pathlib.Path(WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)  # before the work: an unwritable folder fails now
    templates = [prompts.load_template(*prompts.FROZEN_TEXT, visual=False)]
    tokenizer, vocabulary = play.closed_vocabulary(templates, feedback.SENTENCES.values())
    options = {"templates": templates, "rewards": rewards.PAPER, "budget": BUDGET, "leak": True}
    made = [make_general_points(rule, vocabulary, **options) for rule in (RULE, OTHER)]
    leaking, other = alike(made)  # of one shape, so that one program judges under either rule
    task, other = (dataclasses.replace(t, leak=None) for t in (leaking, other))
    hand_key, expert_key, picture_key = jax.random.split(jax.random.key(SEED.value), 3)
    state = compile_once(task.reset)(hand_key)
    ranks, suits = state.hand.ranks, state.hand.suits
    save_pictures(picture_key, ranks, suits, workdir)

    print(f"GeneralPoints: make {RULE.target} from what four cards count, every card used once.")
    title(f"1. The hand that --seed={SEED.value} deals")
    counts, others = ([r.values[rank - 1] for rank in ranks.tolist()] for r in (RULE, OTHER))
    print(f"{'card':16}{'counts, if ' + NAMES[RULE]:28}counts, if {NAMES[OTHER]}")
    for row in zip(play.card_names(ranks, suits), counts, others, strict=True):
        print("{:16}{:<28}{}".format(*row))
    print("Dealt with replacement: a card may come twice. Studies train under one rule and ask how")
    print("well a policy does under the other.")
    print(f"Pictures of this hand, hand.png, and of all cards, cards.png, are in {workdir}")

    title("2. Its solutions, written without needless brackets")
    show_solutions(ranks, RULE)
    show_solutions(ranks, OTHER)

    title(f"3. What a policy reads when {NAMES[RULE]}")
    prompt = compile_once(task.opening)(state)
    show(asked := play.text_of(vocabulary, prompt.tokens, prompt.length))

    title(f"4. Three answers in the first of {BUDGET} turns when {NAMES[RULE]}")
    print("Rewards: of the paper (arXiv 2501.17161, Appendix A), of its released code, and binary.")
    print("That code's words before the next turn leak how far the formula was right.")
    even = jnp.ones(RULE.cards, jnp.int32)  # every solution is as likely as any other
    expert = play.text_of(vocabulary, *compile_once(task.demonstrate)(expert_key, state, even))
    texts = variants(expert, counts)
    as_coded = dataclasses.replace(leaking, rewards=released.find_refusals(RULE))
    judges = task, as_coded, dataclasses.replace(task, rewards=rewards.BINARY)
    judged = list(zip(*(play.judge(j, state, texts, vocabulary) for j in judges), strict=True))
    wrong = 3 if judged[2][0].correct else 2
    names = "An expert's answer", "The same with another sign", "The same with a foreign number"
    for name, which in zip(names, (0, wrong, 1), strict=True):
        paper, code, binary = judged[which]
        print(f"\n{name}")
        show(texts[which])
        show(", ".join(paper.failures) or "correct", "verdict")
        show(f"paper {paper.reward:+g}, code {code.reward:+g}, binary {binary.reward:g}", "rewards")
        show(paper.words or "none, the hand is over", "next turn")
        if code.words != paper.words:
            show(code.words, "leaking")

    title(f"5. The expert's answer when {NAMES[OTHER]}")
    print(f"The prompt then says that {prompts.face_rule(OTHER.values)}.")
    unseen, *_ = play.judge(other, state, texts, vocabulary)
    show(f"{', '.join(unseen.failures) or 'correct'}; reward {unseen.reward:+g} (paper)", "verdict")

    size = tokenizer.get_vocab_size()
    title(f"6. The texts above in a vocabulary of {size} symbols made for them")
    print(f"{'':30}characters  tokens")
    said = [asked, expert, judged[wrong][0].words, judged[wrong][1].words]
    names = "the prompt", "the expert's answer", "words before the next turn", "leaking words"
    for name, text, ids in zip(names, said, vocabulary.encode_batch(said), strict=True):
        print(f"{name:30}{len(text):10}{len(ids):8}")


if __name__ == "__main__":
    cli.run(main)
