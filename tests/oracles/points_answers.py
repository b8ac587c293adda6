"""Answers to GeneralPoints to disagree about: right, nearly right, hostile and random.

An answer is written in one of many styles, a third of them those of `points_kinds`, from a hand
and a random formula, perhaps with one thing wrong on purpose, and then perhaps mutated. All follows
from one `random.Random`, so that a seed gives the same answers again and Hypothesis can draw, and
shrink, the same kinds.
"""

import functools
import random
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from rlrazor.tasks.general_points.rule import RANKS, Rule
from tests.oracles.points_kinds import honest

LONGEST = 256  # bytes
WIDE_ONE = "\uff11".encode().decode("latin-1")  # formulas are text of one character a byte
PAIRS = ("()", "[]", "{}", '""', "''")

# What a verifier might trip over, whole.
PIECES = (
    b"\xff", b"\x80", b"\xc0\xaf",
    *(piece.encode() for piece in (
        *RANKS, *(f'"{rank}"' for rank in RANKS), *(f"'{rank}'" for rank in RANKS),
        *map(str, range(30)), *"+-*/()=", *"+-*/()=", *"{}[],:\"'", *"{}[],:\"'", *" \t\n\r\v\0\\",
        '"cards"', '"number"', '"formula"', '{"cards": [', '], "number": [', '], "formula": "',
        '"}', ", ", "=24", "=25", "=024", "()", "**", "//", "--", "-1", "/0", "1/(1-1)", "00", "01",
        "9" * 11, "4294967296", "2147483648", "4294967320", "10000", "9999", "1.0", "1e3", "null",
        '\\"', "\\u0041", "x", "X", "Z", "\\", "\\times", "\\\\cdot", "\\/", "\\u00d7", '{"', '{ "',
        '"x": "{', '"x": [', "null", ".0", "Ace", "K of spades", "\u2660",
        '"numbers"', ', "x": 1', ",]",
        "\u00b7", "\u2013", "\uff11", "\u0661", "\u2212", "\u00d7", "\u00a0", "\ufeff",
    )),
)  # fmt: skip


def answers(seed: int, count: int, rule: Rule) -> tuple[list[bytes], np.ndarray]:
    """`count` answers of at most LONGEST bytes, and i32[count, C] the ranks each is an answer to.

    `seed` and `rule` settle them; `answers(seed, 10, rule)` begins `answers(seed, 20, rule)`.
    """
    rng = random.Random(seed)
    drawn = [draw_answer(rng, rule) for _ in range(count)]
    ranks = np.array([ranks for _, ranks in drawn], dtype=np.int32).reshape(count, rule.cards)
    return [text for text, _ in drawn], ranks


def hypothesis_answers(rule: Rule) -> st.SearchStrategy[tuple[bytes, tuple[int, ...]]]:
    """Pairs (answer, ranks): answers as above, strings of pieces, and right answers cut in two."""
    hands = st.tuples(*[st.integers(1, len(RANKS))] * rule.cards)
    pieces = st.lists(st.sampled_from(PIECES), max_size=24).map(b"".join)
    formulas = st.lists(st.sampled_from(["12", *"01238+-*/()="]), max_size=16).map(
        lambda parts: f'{{"cards":[],"number":[],"formula":"{"".join(parts)}"}}'.encode()
    )
    drawn = st.randoms(use_true_random=False).map(lambda rng: draw_answer(rng, rule))

    @st.composite
    def spliced(draw: st.DrawFn) -> tuple[bytes, tuple[int, ...]]:
        text, ranks = draw(drawn)
        start, stop = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        return (text[:start] + draw(pieces) + text[stop:])[:LONGEST], ranks

    free = st.tuples(st.one_of(pieces, formulas, st.binary(max_size=LONGEST)), hands)
    return st.one_of(drawn, spliced(), free).map(lambda pair: (pair[0][:LONGEST], pair[1]))


def draw_answer(rng: random.Random, rule: Rule) -> tuple[bytes, tuple[int, ...]]:
    if rng.random() < 0.4:
        pool = right_formulas(rule)
        ranks, formula = pool[rng.randrange(len(pool))] if pool else random_game(rng, rule)[:2]
    else:
        ranks, formula, _ = random_game(rng, rule)
    if rng.random() < 0.05:
        return b"".join(rng.choices(PIECES, k=rng.randrange(40)))[:LONGEST], tuple(ranks)
    chance = rng.random()
    if chance < 0.35:
        formula = spoil_formula(rng, formula, [str(rule.values[rank - 1]) for rank in ranks])
    elif chance < 0.45:
        formula = mutate(rng, formula.encode("latin-1")).decode("latin-1")
    elif chance < 0.48:
        formula = b"".join(rng.choices(PIECES, k=rng.randrange(12))).decode("latin-1")
    text = (honest if rng.random() < 0.35 else write)(rng, ranks, rule, formula)
    if rng.random() < 0.15:
        text = surround(rng, text, write(rng, ranks, rule, formula))
    if rng.random() < 0.25:
        for _ in range(rng.randint(1, 3)):
            text = mutate(rng, text)
    return text[:LONGEST], tuple(ranks)


# Formulas.


@functools.cache
def right_formulas(rule: Rule, size: int = 300) -> list[tuple[list[int], str]]:
    """Hands with a formula that reaches the target, as many as luck finds in a while.

    A third of them, if they exist, pass through fractions, where floats may miss the target.
    """
    rng, whole, broken = random.Random(0), [], []
    for _ in range(200 * size):
        ranks, formula, reached = random_game(rng, rule)
        if reached == rule.target:
            (whole if isinstance(reached, int) else broken).append((ranks, formula))
        if len(whole) >= 2 * size // 3 and len(broken) >= size // 3:
            break
    return whole[: 2 * size // 3] + broken[: size // 3]


def random_game(rng: random.Random, rule: Rule) -> tuple[list[int], str, Fraction | int | None]:
    """A hand, a random formula that uses each of its numbers once, and its value if it has one."""
    ranks = rng.choices(range(1, len(RANKS) + 1), k=rule.cards)
    if rng.random() < 0.3:
        ranks[0] = ranks[-1]
    parts = []  # (text, value, how tightly its last operation binds: + - 1, * / 2, number 3)
    for rank in rng.sample(ranks, k=rule.cards):
        parts.append((str(rule.values[rank - 1]), rule.values[rank - 1], 3))
    while len(parts) > 1:
        place, sign = rng.randrange(len(parts) - 1), rng.choice("+-*/")
        (a, x, binds_a), (b, y, binds_b) = parts[place : place + 2]
        binds = 1 if sign in "+-" else 2
        if binds_a < binds or rng.random() < 0.1:
            a = f"({a})"
        if binds_b <= binds or rng.random() < 0.1:
            b = f"({b})"
        parts[place : place + 2] = [(a + sign + b, operate(x, sign, y), binds)]
    return ranks, parts[0][0], parts[0][1]


def operate(x: Fraction | int | None, sign: str, y: Fraction | int | None):
    if x is None or y is None or (sign == "/" and y == 0):
        return None
    if sign == "/":
        return (
            x // y if isinstance(x, int) and isinstance(y, int) and x % y == 0 else Fraction(x, y)
        )
    return x + y if sign == "+" else x - y if sign == "-" else x * y


def spoil_formula(rng: random.Random, formula: str, held: list[str]) -> str:
    """Changes what a formula over the numbers `held` says and leaves it a formula, or nearly."""
    cut = rng.randrange(len(formula) + 1)
    head, tail = formula[:cut], formula[cut:]
    match rng.randrange(17):
        case 0:
            return formula + rng.choice("+-*/") + str(rng.randrange(14))
        case 12:
            return formula + rng.choice("+-*/") + rng.choice(held)
        case 13:
            return formula.replace(rng.choice(held), rng.choice(held), 1)
        case 1:
            return formula.replace(rng.choice("123456789"), str(rng.randrange(30)), 1)
        case 2:
            return formula.replace(rng.choice("+-*/"), rng.choice("+-*/"), 1)
        case 3:
            return formula.replace("(", "").replace(")", "")
        case 4:
            return formula.rsplit(rng.choice("+-*/"), 1)[0]
        case 5:
            return "(" * (depth := rng.choice((1, 2, 5, 60, 90))) + formula + ")" * depth
        case 6:
            return head + rng.choice(("-", " ", "0", "(", ")", "=", "\n", "9" * 40, "\0")) + tail
        case 7:
            return rng.choice(("-", "+", "(-1)*", "0*")) + formula
        case 8:
            return formula + rng.choice(("/0", "/(1-1)", "+0/0", ")", "*1", "-", "*00", "+01"))
        case 9:
            return formula.replace("1", rng.choice(("01", WIDE_ONE, "1.0", "1 ", "4294967297")), 1)
        case 10:
            return "".join(rng.choices("0123456789+-*/()=", k=rng.randrange(14)))
        case 14 | 15 | 16:
            return formula[:-1] if formula[-1] == ")" else f"({formula}"
        case _:
            return head + tail[1:]


# Objects around formulas.


def write(rng: random.Random, ranks: Sequence[int], rule: Rule, formula: str) -> bytes:
    """The answer in some style, sometimes with one thing wrong in it."""
    cards = [RANKS[rank - 1] for rank in ranks]
    number = [str(rule.values[rank - 1]) for rank in ranks]
    chance = rng.random()
    if chance < 0.30:  # the style that a well-taught model keeps to
        ending = rng.choice(("", f"={rule.target}"))
        listed = ", ".join(f'"{card}"' for card in cards)
        numbers = ", ".join(number)
        text = f'{{"cards": [{listed}], "number": [{numbers}], "formula": "{formula}{ending}"}}'
        return text.encode("latin-1")
    if chance < 0.45:
        spoil_lists(rng, cards, number)
    if chance > 0.9:
        rng.shuffle(cards)
        rng.shuffle(number)

    blank = rng.choice(("", "", " ", "\n", "\t", " \r\n ", "  ")) if rng.random() < 0.5 else " "
    quotes = rng.choice(('"', "'", "", "mixed"))
    listed = [
        card.join((rng.choice(("'", '"', "")) if quotes == "mixed" else quotes,) * 2)
        for card in cards
    ]
    if rng.random() < 0.2:
        formula = blank.join(formula)
    endings = ("", "", f"={rule.target}", f" = {rule.target}", f"={rule.target + 1}", "=",
               f"=0{rule.target}", f"={rule.target}={rule.target}", f"={rule.target + 2**32}",
               f"=-{rule.target}", f"=({rule.target})", "=" + "9" * 30)  # fmt: skip
    formula += rng.choice(endings[:5] if rng.random() < 0.8 else endings)
    comma = "," + blank
    fields = [
        f'"cards"{blank if rng.random() < 0.2 else ""}:{blank}[{comma.join(listed)}]',
        f'"number":{blank}[{comma.join(number)}]',
        f'"formula":{blank}"{formula}"',
    ]
    if rng.random() < 0.3:
        rng.shuffle(fields)
    if rng.random() < 0.1:
        spoil_fields(rng, fields)
    trailing = rng.choice(("", "", "", "", ",", comma)) + rng.choice(("", blank))
    return ("{" + comma.join(fields) + trailing + "}").encode("latin-1")


def spoil_lists(rng: random.Random, cards: list[str], number: list[str]) -> None:
    strange = ("1", "11", "T", "a", "10", "Joker", "", " A", "1 0", "A", "\\u0041")
    where = rng.randrange(len(cards))
    match rng.randrange(8):
        case 0:
            cards[where] = rng.choice(RANKS)
        case 1:
            cards[where] = rng.choice(strange)
        case 2:
            number[where] = str(rng.randrange(15))
        case 3:
            number[where] = rng.choice(("01", "-1", "1.0", "9" * 25, "+1", '"1"', "", "4294967297"))
        case 4:
            (cards if rng.random() < 0.5 else number).pop(where)
        case 5:
            cards.append(cards[where])
            number.append(number[where])
        case 6:
            number[:] = [str(RANKS.index(card) + 1) for card in cards]
        case _:
            rng.choice((cards, number)).clear()


def spoil_fields(rng: random.Random, fields: list[str]) -> None:
    where, other = rng.randrange(3), rng.randrange(3)
    match rng.randrange(6):
        case 0:
            fields.append(fields[where])
        case 1:
            del fields[where]
        case 2:
            fields.insert(where, rng.choice(('"note": "x"', '"note": 1', "", '"cards": []', "\v")))
        case 3:
            fields[where] = fields[where].replace('"', rng.choice(("'", "", '\\"')), 2)
        case 4:
            fields[where] = fields[where].replace(":", rng.choice(("", "::", "=", " :")), 1)
        case _:
            fields[where] = fields[where].split(":")[0] + ":" + fields[other].split(":")[1]


def surround(rng: random.Random, text: bytes, again: bytes) -> bytes:
    match rng.randrange(9):
        case 0:
            return b"So:\n```json\n" + text + b"\n```"
        case 1:
            return text + again
        case 2:
            return text + rng.choice((b"{}", b"{", b"}", b'{"cards": []}', b"}}{{"))
        case 3:
            return rng.choice((b"{", b"}", b"{}", b"{{{", b'"{')) + text
        case 4:
            return b"{" + text + b"}"
        case 5:
            return text[:-1] + again + b"}"
        case 6:
            return text.replace(b'"formula"', b'"formula": {"formula"', 1)
        case 7:
            return text[: rng.randrange(len(text))] + again
        case _:
            return text + b"\0" * rng.randrange(20) + rng.choice((b"", b"\xff", b"24"))


def mutate(rng: random.Random, text: bytes) -> bytes:
    """One small accident: to a byte, a piece or a span."""
    if not text:
        return rng.choice(PIECES)
    start = rng.randrange(len(text))
    stop = min(len(text), start + rng.randrange(1, 12))
    head, span, tail = text[:start], text[start:stop], text[stop:]
    match rng.randrange(11):
        case 0:
            return head + bytes([text[start] ^ (1 << rng.randrange(8))]) + text[start + 1 :]
        case 1:
            return head + bytes([rng.randrange(256)]) + text[start + 1 :]
        case 2:
            return head + text[start + 1 :]
        case 3:
            return head + tail
        case 4 | 5:
            return head + rng.choice(PIECES) + text[start:]
        case 6:
            return head + rng.choice(PIECES) + tail
        case 7:
            return head + span * rng.choice((2, 2, 3, 12)) + tail
        case 8:
            return head + span[::-1] + tail
        case 9:
            pair = rng.choice(PAIRS).encode()
            return head + pair[:1] + span + pair[1:] + tail
        case _:
            return rng.choice((head, text[start:]))
