"""GeneralPoints as a task: deal, ask, judge, say what was wrong, ask again.

`make_general_points` does on the host, once, all that needs a file, a tokenizer or an error; what
it returns is a pytree whose methods are pure. In-distribution and out-of-distribution tasks of the
same size are two values of it, and run in one compiled program.
"""

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import struct

from rlrazor.ops.spelling import spell
from rlrazor.tasks.general_points import pieces, released
from rlrazor.tasks.general_points.atlas import Atlas, make_atlas
from rlrazor.tasks.general_points.deck import Deck, Hand, deal, make_deck
from rlrazor.tasks.general_points.feedback import (
    SENTENCES,
    FeedbackTable,
    choose_sentence,
    feedback_table,
)
from rlrazor.tasks.general_points.leak import (
    LeakTable,
    leak_table,
    leaking_words,
    longest_words,
)
from rlrazor.tasks.general_points.pictures import Placement, draw_hand, is_red, jitter, lay_out
from rlrazor.tasks.general_points.prompt_table import PromptTable
from rlrazor.tasks.general_points.prompts import prompt_table
from rlrazor.tasks.general_points.rewards import RewardTable, graded
from rlrazor.tasks.general_points.rule import Rule
from rlrazor.tasks.general_points.solver import formula_pieces, sample_solution
from rlrazor.tasks.general_points.trees import trees
from rlrazor.tasks.general_points.verifier import Findings, verify
from rlrazor.tasks.protocol import Observation, Verdict
from rlrazor.types import Vocabulary

LONGEST_BUDGET = 10  # turns
HIGHEST_SLIP = 13  # of the numbers that a mistake may use and were not dealt


@struct.dataclass
class PointsState:
    """One hand under way."""

    hand: Hand
    placement: Placement | None  # where its cards lie, if it is shown as a picture
    wording: jax.Array  # i32[] of the prompt
    turn: jax.Array  # i32[] answers judged so far
    words: jax.Array  # i32[W] what the verifier says next, zero padded
    words_length: jax.Array  # i32[]
    terminated: jax.Array  # bool[] solved
    truncated: jax.Array  # bool[] the turns are used up


@struct.dataclass
class Look:
    """How hands are shown: the pixels of a picture, and how much its cards are moved about."""

    atlas: Atlas
    tidy: Placement  # f32[C]
    shift: jax.Array  # f32[] see pictures.jitter
    rotation: jax.Array  # f32[] radians
    scale: jax.Array  # f32[]
    height: int = struct.field(pytree_node=False)
    width: int = struct.field(pytree_node=False)


def make_look(
    cards: int,
    *,
    height: int,
    width: int,
    card_height: int,
    shift: float = 0.0,
    rotation: float = 0.0,
    scale: float = 0.0,
) -> Look:
    """Pictures of hands in a row; ValueError if the cards do not fit or could not be seen.

    For the three amounts see `pictures.jitter`; a `scale` of 1 would make a card vanish.
    """
    for name, amount in (("shift", shift), ("rotation", rotation), ("scale", scale)):
        if not isinstance(amount, numbers.Real) or not 0 <= amount < math.inf:
            raise ValueError(f"{name}={amount!r} must be a finite number that is not negative")
    if scale >= 1:
        raise ValueError(f"scale={scale!r} must be below 1: a card of no size cannot be seen")
    tidy = lay_out(cards, height, width, card_height)
    amounts = (jnp.float32(amount) for amount in (shift, rotation, scale))
    return Look(make_atlas(card_height), tidy, *amounts, height=height, width=width)


@struct.dataclass
class GeneralPoints:
    """The task; see tasks.protocol.Task for what its methods are."""

    deck: Deck
    values: jax.Array  # i32[13] what A, 2, ..., K are worth to the judge
    target: jax.Array  # i32[]
    budget: jax.Array  # i32[] turns
    rewards: RewardTable | released.Refusals
    prompts: PromptTable
    wordings: jax.Array  # i32[] the prompts to choose from
    feedback: FeedbackTable
    leak: LeakTable | None
    look: Look | None  # None: the prompt names the cards
    piece_tokens: jax.Array  # i32[V, M]
    piece_lengths: jax.Array  # i32[V]
    terse: jax.Array  # bool[] experts give the formula without the reading steps
    words_size: int = struct.field(pytree_node=False)
    demonstration_size: int = struct.field(pytree_node=False)

    def reset(self, key: jax.Array) -> PointsState:
        """Deals a hand that the rule admits, words the prompt and lays out the cards."""
        hand_key, wording_key, look_key = jax.random.split(key, 3)
        placement = None
        if self.look is not None:
            look = self.look
            amounts = {"shift": look.shift, "rotation": look.rotation, "scale": look.scale}
            placement = jitter(look_key, look.tidy, **amounts)
        return PointsState(
            hand=deal(hand_key, self.deck),
            placement=placement,
            wording=jax.random.randint(wording_key, (), 0, self.wordings),
            turn=jnp.int32(0),
            words=jnp.zeros(self.words_size, jnp.int32),
            words_length=jnp.int32(0),
            terminated=jnp.bool_(False),
            truncated=jnp.bool_(False),
        )

    def opening(self, state: PointsState) -> Observation:
        """What is said before the first answer, and the picture if there is one."""
        row = jnp.int32(0) if self.look is not None else state.hand.row
        tokens, length = self.prompts.tokens(state.wording, row)
        return Observation(tokens, length, self.picture(state))

    def reply(self, state: PointsState) -> Observation:
        """What is said before every later answer: what was wrong with the last one."""
        return Observation(state.words, state.words_length, self.picture(state))

    def picture(self, state: PointsState) -> jax.Array | None:  # u8[H, W, 3]
        """The hand as it lies on the table; None in a text task."""
        if self.look is None or state.placement is None:
            return None
        hand, look = state.hand, self.look
        red = is_red(hand.suits)
        return draw_hand(
            look.atlas,
            hand.ranks,
            hand.suits,
            state.placement,
            red,
            height=look.height,
            width=look.width,
        )

    def step(
        self,
        state: PointsState,
        answer: jax.Array,  # u8[T] bytes, zero padded
    ) -> tuple[PointsState, Verdict]:
        """Judges one answer and finds the words for the next turn, if there is one.

        The budget's last turn is judged like any other. An answer to a hand that is over is judged
        as over budget and changes nothing.

        A correct answer ends the hand. With `released.Refusals` it is ended as the released code
        does, by the reward of a solution and by nothing else: by `4*(1+2+3)=25` too, though it is
        not `correct`, and not by the right formulas that this code does not pay, which are asked
        for again, as a wrong value or, with a space or a sign of its own, as illegal.
        """
        over = state.terminated | state.truncated
        findings = verify(answer, state.hand.ranks, self.values, self.target)
        if isinstance(self.rewards, RewardTable):
            reward, excess = graded(findings, self.rewards), self.rewards.over_budget
            ends = findings.correct
        else:
            reward = released.released(findings, self.rewards, self.look is not None)
            excess = released.OVER_BUDGET
            ends = reward == released.CORRECT
        turn = state.turn + ~over
        unpaid = findings.correct & ~ends
        said, said_length = self._say(state, answer, findings, unpaid, reward)
        terminated = state.terminated | (ends & ~over)
        truncated = state.truncated | (~over & ~ends & (turn >= self.budget))
        silent = terminated | truncated
        new = dataclasses.replace(
            state,
            turn=turn,
            words=jnp.where(silent, 0, said),
            words_length=jnp.where(silent, 0, said_length),
            terminated=terminated,
            truncated=truncated,
        )
        return new, Verdict(
            reward=jnp.where(over, excess, reward).astype(jnp.float32),
            correct=findings.correct & ~over,
            failures={
                **{name: flag & ~over for name, flag in findings.failures.items()},
                "over_budget": over,
            },
        )

    def _say(
        self,
        state: PointsState,
        answer: jax.Array,  # u8[T]
        findings: Findings,
        unpaid: jax.Array,  # bool[] right, but the released code does not pay it
        reward: jax.Array,  # f32[]
    ) -> tuple[jax.Array, jax.Array]:  # i32[W], i32[]
        failures = findings.failures
        wrong_left = failures["wrong_value"] & ~findings.solves
        illegal = unpaid & (reward == released.ILLEGAL)
        failures = failures | {
            "illegal_formula": failures["illegal_formula"] | illegal,
            "wrong_right_side": failures["wrong_value"] & findings.solves,
            "wrong_value": failures["wrong_value"] | unpaid,
        }
        sentence = choose_sentence(failures, visual=self.look is not None)
        tokens = self.feedback.tokens[sentence]
        tokens = jnp.pad(tokens, (0, self.words_size - len(tokens)))
        length = self.feedback.lengths[sentence]
        if self.leak is None:
            return tokens, length
        hand = self.values[state.hand.ranks - 1]
        leaked, leaked_length = leaking_words(answer, hand, self.target, self.leak, self.words_size)
        leaks = wrong_left & (leaked_length > 0)
        return jnp.where(leaks, leaked, tokens), jnp.where(leaks, leaked_length, length)

    def demonstrate(
        self,
        key: jax.Array,
        state: PointsState,
        height_weights: jax.Array | None = None,  # i32[C] see solver.sample_solution; None: evenly
    ) -> tuple[jax.Array, jax.Array]:  # i32[demonstration_size] tokens zero padded, i32[]
        """An expert's answer that the judge calls correct, drawn among all solutions."""
        return self.spelled(self.demonstration_pieces(key, state, height_weights))

    def demonstration_pieces(
        self, key: jax.Array, state: PointsState, height_weights: jax.Array | None = None
    ) -> jax.Array:  # i32[...] pieces
        """The same as pieces, which `pieces.byte_table` spells as text."""
        numbers = self.values[state.hand.ranks - 1]
        if height_weights is None:
            height_weights = jnp.ones(len(numbers), jnp.int32)
        return self.answer_pieces(state, sample_solution(key, numbers, self.target, height_weights))

    def answer_pieces(
        self,
        state: PointsState,
        formula: jax.Array,  # i32[L] pieces
    ) -> jax.Array:  # i32[...] pieces
        """The expert's way to answer with a formula, right or wrong."""
        ranks = state.hand.ranks
        answer = pieces.expert_answer(ranks, self.values[ranks - 1], formula, self.target)
        return jnp.where(self.terse, pieces.without_reading(answer, len(ranks)), answer)

    def mistake(
        self, key: jax.Array, state: PointsState
    ) -> tuple[jax.Array, jax.Array]:  # i32[demonstration_size] tokens zero padded, i32[]
        """An answer in the expert's style that is seldom right."""
        return self.spelled(self.mistaken_pieces(key, state))

    def mistaken_pieces(self, key: jax.Array, state: PointsState) -> jax.Array:  # i32[...] pieces
        """Any formula over the hand, one time in four with a number that was not dealt."""
        formula_key, slip_key, number_key = jax.random.split(key, 3)
        numbers = self.values[state.hand.ranks - 1]
        tables = trees(len(numbers))
        shape = (len(tables.permutations), len(tables.shapes), len(tables.operators))
        place = jax.random.randint(formula_key, (), 0, math.prod(shape))
        slips = jax.random.bernoulli(slip_key, 0.25)
        other = jax.random.randint(number_key, (), 1, HIGHEST_SLIP + 1)
        used = jnp.where(slips, numbers.at[0].set(other), numbers)
        return self.answer_pieces(state, formula_pieces(used, *jnp.unravel_index(place, shape)))

    def spelled(
        self,
        answer: jax.Array,  # i32[...] pieces
    ) -> tuple[jax.Array, jax.Array]:  # i32[demonstration_size] tokens zero padded, i32[]
        """An answer in pieces as the tokens of the task's vocabulary."""
        return spell(answer, self.piece_tokens, self.piece_lengths, self.demonstration_size)


def make_general_points(
    rule: Rule,
    vocabulary: Vocabulary,
    *,
    templates: Sequence[str],
    rewards: RewardTable | released.Refusals,
    budget: int,
    stated: Rule | None = None,
    look: Look | None = None,
    sentences: Mapping[str, str] = SENTENCES,
    leak: bool = False,
    terse: bool = False,
) -> GeneralPoints:
    """Makes every table of the task. All that a user can get wrong raises ValueError here.

    `stated` is the rule that the prompt states where it is not the judge's: the "Fake" diagnosis of
    arXiv 2510.00237, in which a policy that ignores its instruction still succeeds. `terse` experts
    leave both lists of their answer empty: a formula without the reading steps.
    """
    if not isinstance(budget, int) or isinstance(budget, bool) or not 1 <= budget <= LONGEST_BUDGET:
        raise ValueError(f"budget={budget!r} must be an integer from 1 to {LONGEST_BUDGET} turns")
    stated = stated or rule
    if stated.cards != rule.cards:
        raise ValueError(
            f"the stated rule has {stated.cards} cards and the judge's {rule.cards}; give both the "
            "same number"
        )
    if look is not None and len(look.tidy.x) != rule.cards:
        raise ValueError(
            f"the pictures show {len(look.tidy.x)} cards and the rule deals {rule.cards}; make the "
            f"look with cards={rule.cards}"
        )
    if not isinstance(vocabulary, Vocabulary):
        raise ValueError(
            f"vocabulary is a {type(vocabulary).__name__}; give a Vocabulary, such as "
            "runtime.tokenizer.vocabulary(tokenizer)"
        )
    if isinstance(rewards, released.Refusals):
        released.check_rule(rewards, rule)
    elif not isinstance(rewards, RewardTable):
        raise ValueError(
            f"rewards={rewards!r} must be a RewardTable, such as PAPER, PAPER_VISUAL or BINARY, or "
            "find_refusals(rule) for the released code's"
        )
    pieces.check_target(rule)
    tokens, lengths = pieces.piece_table(vocabulary.encode_inside, vocabulary.decode)
    feedback = feedback_table(sentences, vocabulary.encode_reply or vocabulary.encode_inside)
    leaks = leak_table((tokens, lengths), vocabulary) if leak else None
    words_size = feedback.tokens.shape[1]
    return GeneralPoints(
        deck=make_deck(rule),
        values=jnp.asarray(rule.values, jnp.int32),
        target=jnp.int32(rule.target),
        budget=jnp.int32(budget),
        rewards=rewards,
        prompts=prompt_table(templates, stated, vocabulary.encode_batch, visual=look is not None),
        wordings=jnp.int32(len(templates)),
        feedback=feedback,
        leak=leaks,
        look=look,
        piece_tokens=tokens,
        piece_lengths=lengths,
        words_size=max(words_size, longest_words(leaks, rule.cards)) if leaks else words_size,
        terse=jnp.bool_(terse),
        demonstration_size=pieces.longest_answer(lengths, rule),
    )
