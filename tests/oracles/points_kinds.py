"""What language models write around a formula: each choice here is common to one of them or other.

An answer draws one way to write its cards, its numbers, its formula, its fields and what stands
around them, mostly the plain one, so that nearly every answer holds what it says.
"""

import random
from collections.abc import Callable, Sequence

from rlrazor.tasks.general_points.rule import RANKS, Rule

SUITS = ("spades", "hearts", "diamonds", "clubs")
SIGNS = "\u2660\u2665\u2666\u2663"
WORDS = {"A": "Ace", "J": "Jack", "Q": "Queen", "K": "King"}
CARDS: tuple[Callable[[random.Random, str], str], ...] = (
    lambda rng, card: f'"{card}"',
    lambda rng, card: f"'{card}'",
    lambda rng, card: card,
    lambda rng, card: f'"{card.lower()}"',
    lambda rng, card: f'"{WORDS.get(card, card)}"',
    lambda rng, card: f'"{WORDS.get(card, card).upper()}"',
    lambda rng, card: f'"{ {"A": "1", "10": "T"}.get(card, card) }"',
    lambda rng, card: str(RANKS.index(card) + 1),
    lambda rng, card: f'"{card}{rng.choice("SHDCshdc")}"',
    lambda rng, card: f'"{card}{rng.choice(SIGNS)}{rng.choice(("", chr(0xFE0F)))}"',
    lambda rng, card: f"{card}{rng.choice(SIGNS)}",
    lambda rng, card: f'"{WORDS.get(card, card)} of {rng.choice(SUITS)}"',
    lambda rng, card: f'"{card} of {rng.choice(SUITS).title()}"',
    lambda rng, card: f'" {card} "',
    lambda rng, card: f'"{rng.choice(SIGNS)}{card}"',
    lambda rng, card: f'"\\u{ord(card[0]):04x}{card[1:]}"',
    lambda rng, card: f'"{card} {rng.choice(SIGNS)}"',
    lambda rng, card: rng.choice(("null", '""', '"?"', "true", '"Joker"', '"{A}"', "[A]", '"10S"')),
)
NUMBERS: tuple[Callable[[str], str], ...] = (
    lambda n: n,
    lambda n: f'"{n}"',
    lambda n: f"'{n}'",
    lambda n: f"{n}.0",
    lambda n: f'"{n}.00"',
    lambda n: f" {n} ",
    lambda n: "1e1" if n == "10" else n,
    lambda n: f"-{n}",
    lambda n: f"+{n}",
    lambda n: f"0{n}",
    lambda n: " ".join(n),
    lambda n: "null",
    lambda n: f"{n}.5",
    lambda n: f'"{n} points"',
)
SPELLINGS: tuple[dict[str, str], ...] = (
    {},
    {"*": "\u00d7"},
    {"*": "\u00d7", "/": "\u00f7", "-": "\u2212"},
    {"-": "\u2013", "*": "\u00b7"},
    {"*": "x"},
    {"*": " X "},
    {"*": "\\times ", "/": "\\div "},
    {"*": "\\\\cdot ", "/": "\\\\div "},
    {"/": "\\/"},
    {"*": "\\u00d7", "/": "\\u00F7", "-": "\\u2212"},
    {"+": "\\u002b", "(": "\\u0028", ")": "\\u0029", "=": "\\u003D"},
    {"+": " + ", "-": " - ", "*": " * ", "/": " / "},
    {"+": "\u00a0+\u00a0", "=": "\u202f=\u00a0"},
    {"*": "\u22c5", "/": "\u2215"},
    {"*": "**"},
    {"(": "[", ")": "]"},
    {"(": "{", ")": "}"},
    {"(": "\\left(", ")": "\\right)"},
    {"*": "\u2019"},
    {"1": "\uff11"},
)
ENDINGS = ("", "={}", " = {}", "={}.0", "=={}", " equals {}", "\u2248{}", "={}.", "=\n{}", "={} ")
EXTRAS = (
    '"reasoning": "use {8, 3}"', '"explanation": "4*6"', '"result": 24', '"ok": true',
    '"why": null',
    '"steps": ["a", "b{"]', '"steps": [[1], [2, [3]]]', '"x": "\\"q\\""', '"x": -1.5',
    '"x": {"a": 1}',
    '"x": {}', '"Formula": "1"', '"x": \'a\'', '"x": "{ "', '"x": word', '"": ""', '"a\\\\": 1',
)  # fmt: skip
AROUND = (
    "", "", "", "So {8, 3}: ", "\\boxed{24}", "\\frac{24}{1}", "{8, 3}", "Format: {...}",
    "```json\n", "\n```",
    '{"cards": [x, y], "formula": "..."}', '{"cards": [A], "formula": "1"', '{"a": 1}', '{"', "{",
    "}", '"',
    '{"formula": "1+1"}', "\ufeff", "\r\n", "answer = ", "[", "]", "// so", "$24$", "24",
)  # fmt: skip


def honest(rng: random.Random, ranks: Sequence[int], rule: Rule, formula: str) -> bytes:
    """An answer with the formula, right or wrong, in some model's style."""

    def choose(ways: Sequence, plain: float = 0.6):
        return ways[0] if rng.random() < plain else rng.choice(ways)

    write_card, write_number = choose(CARDS), choose(NUMBERS)
    cards = [write_card(rng, RANKS[rank - 1]) for rank in ranks]
    numbers = [write_number(str(rule.values[rank - 1])) for rank in ranks]
    for places, ways in ((cards, CARDS[-1]), (numbers, lambda rng, _: NUMBERS[-3]("1"))):
        if rng.random() < 0.1:
            places[rng.randrange(len(places))] = ways(rng, "A")
    formula += choose(ENDINGS).format(rule.target)
    for symbol, spelling in choose(SPELLINGS, 0.4).items():
        formula = formula.replace(symbol, spelling)
    lists = [", ".join(items) + rng.choice(("", "", "", ",")) for items in (cards, numbers)]
    fields = [
        f'"cards": [{lists[0]}]',
        f'"{choose(("number", "numbers"), 0.8)}": [{lists[1]}]',
        f'"formula": "{formula}"',
    ]
    chance = rng.random()
    if chance < 0.3:
        fields.insert(rng.randrange(4), rng.choice(EXTRAS))
    elif chance < 0.4:
        fields.pop(rng.randrange(3))
    elif chance < 0.5:
        again = rng.choice(fields)
        fields.insert(rng.randrange(4), again if rng.random() < 0.5 else spoilt_again(rng, again))
    elif chance < 0.6:
        rng.shuffle(fields)
    comma = rng.choice((", ", ", ", ",", ",\n  ", ",\r\n"))
    text = "{" + comma.join(fields) + rng.choice(("", "", "", ",", " // so", "\n")) + "}"
    if rng.random() < 0.5:
        text = rng.choice(AROUND) + text + rng.choice(AROUND)
    return text.encode()


def spoilt_again(rng: random.Random, field: str) -> str:
    """The field with another value."""
    key = field.split(":")[0]
    value = rng.choice(("[]", "null", '"1+1"', "[1, 2]", "24", '["A"]'))
    return f"{key}: {value}"
