"""Answers whose flags and scores were worked out by hand, for every judge of GeneralPoints."""

from typing import NamedTuple

from rlrazor.tasks.general_points.rule import FACES_AS_TEN, FACES_IN_ORDER, RANKS, Rule, face_values
from tests.oracles.points_parts import (
    ACE,
    AROUND,
    ESCAPED,
    EXTRA,
    ILLEGAL,
    NO_CARD,
    NO_CARDS_KEY,
    NO_EXTRA,
    NO_ITEM,
    NO_KEY,
    NO_NUMBER,
    ONE,
    SPELLED,
    WHOLE_HANDS,
)

HAND = (1, 3, 13, 6)  # A, 3, K, 6: numbers 1, 3, 13, 6 with faces in order
THREE = Rule(values=face_values(11, 12, 13), cards=3)
FIVE = Rule(values=face_values(10, 10, 10), cards=5)


class Case(NamedTuple):
    text: bytes
    flags: str  # the flags that are set
    ranks: tuple[int, ...] = HAND
    rule: Rule = FACES_IN_ORDER


class ReleasedCase(NamedTuple):
    formula: bytes
    score: float
    ranks: tuple[int, ...] = (1, 2, 3, 4)
    rule: Rule = FACES_IN_ORDER


def with_formula(
    formula: bytes, ranks: tuple[int, ...] = HAND, rule: Rule = FACES_IN_ORDER
) -> bytes:
    """An answer that reads and translates its hand rightly and then says `formula`."""
    cards = ", ".join(f'"{RANKS[rank - 1]}"' for rank in ranks)
    numbers = ", ".join(str(rule.values[rank - 1]) for rank in ranks)
    return f'{{"cards": [{cards}], "number": [{numbers}], "formula": "'.encode() + formula + b'"}'


def says(
    formula: bytes, flags: str, ranks: tuple[int, ...] = HAND, rule: Rule = FACES_IN_ORDER
) -> Case:
    return Case(with_formula(formula, ranks, rule), flags, ranks, rule)


RIGHT = b'{"cards": ["A", "3", "K", "6"], "number": [1, 3, 13, 6], "formula": "(13-1)*6/3=24"}'
WRONG = b'{"cards": ["A", "3", "K", "6"], "number": [1, 3, 13, 6], "formula": "1+3+13+6"}'
CARDS, NUMBERS, FORMULA = b'["A", "3", "K", "6"]', b"[1, 3, 13, 6]", b'"(13-1)*6/3=24"'
C, N, F = b'"cards": ' + CARDS, b'"number": ' + NUMBERS, b'"formula": ' + FORMULA


OBJECTS = (
    # The paper's example: quotes of both kinds, a trailing comma, and (it says) 34 = 24.
    Case(
        b"{\n\"cards\": ['A', '3', 'K', '6'],\n\"number\": [1, 3, 13, 6],\n"
        b'"formula": "(1+6)*3+13=24",\n}',
        "wrong_value",
    ),
    Case(RIGHT, "correct"),
    # Which object counts.
    Case(b"", "no_object"),
    Case(b"\0\0\0\0", "no_object"),
    Case(b"(13-1)*6/3=24", "no_object"),
    Case(b"{", "no_object"),
    Case(b"}", "no_object"),
    Case(b"}{", "no_object"),
    Case(RIGHT[:-1], "no_object"),
    Case(RIGHT[1:], "no_object"),
    Case(b"{}", "malformed_field"),
    Case(b"{ }", "malformed_field"),
    Case(b"{,}", "malformed_field"),
    Case(b"I see:\n```json\n" + RIGHT + b"\n``` \xff\0\0\0", "correct"),
    Case(b"\0" + RIGHT + b"\0\0", "correct"),
    Case(WRONG + RIGHT, "correct"),
    Case(RIGHT + b" no: " + WRONG, "wrong_value"),
    Case(RIGHT + b"{}", "correct"),
    Case(RIGHT + b"{", "correct"),
    Case(RIGHT + b"{" + RIGHT[1:-1], "correct"),
    Case(RIGHT + b"}}", "correct"),
    Case(b"{{{" + RIGHT, "correct"),
    Case(b"{" + RIGHT + b"," + WRONG + b"}", "wrong_value"),
    Case(b'{"cards": {' + RIGHT[1:] + b"}", "correct"),
    Case(with_formula(b"(13-1)*6/3}"), "illegal_formula"),
    Case(with_formula(b"{(13-1)*6/3"), "illegal_formula"),
    Case(with_formula(b"{(13-1)*6/3}"), "illegal_formula"),
    Case(RIGHT + b'"{"', "correct"),
    # Fields: any order, commas, white space.
    Case(b"{" + F + b"," + N + b"," + C + b"}", "correct"),
    Case(b"{" + N + b"," + C + b"," + F + b",}", "correct"),
    Case(b"{" + C + b"," + N + b"," + F + b" , \r\n}", "correct"),
    Case(b"{" + C + b"," + N + b"," + F + b",,}", "malformed_field"),
    Case(b"{," + C + b"," + N + b"," + F + b"}", "malformed_field"),
    Case(b"{" + C + b",," + N + b"," + F + b"}", "malformed_field"),
    Case(b"{" + C + N + b"," + F + b"}", "malformed_field"),
    Case(b"{" + C + b";" + N + b"," + F + b"}", "malformed_field"),
    Case(b"{" + N + b"," + F + b"}", "correct cards_misread numbers_mistranslated"),
    Case(b"{" + C + b"," + F + b"}", "correct numbers_mistranslated"),
    Case(b"{" + C + b"," + N + b"}", "malformed_field"),
    Case(b"{" + F + b"}", "correct cards_misread numbers_mistranslated"),
    # Of two fields with one name the later counts.
    Case(b"{" + C + b"," + N + b"," + F + b"," + F + b"}", "correct"),
    Case(b"{" + C + b',"formula":"1+",' + N + b"," + F + b"}", "correct"),
    Case(b"{" + C + b"," + F + b"," + N + b',"formula":"1+3+13+6"}', "wrong_value"),
    Case(b"{" + C + b"," + F + b"," + N + b',"formula":"1+"}', "illegal_formula"),
    Case(b"{" + C + b"," + F + b"," + N + b',"formula":24}', "malformed_field"),
    Case(b'{"cards":[2,2,"?"],"number":[0,"?"],' + C + b"," + N + b"," + F + b"}", "correct"),
    Case(
        b"{" + C + b"," + N + b"," + F + b',"cards":[A,3,K]}',
        "correct cards_misread numbers_mistranslated",
    ),
    Case(b"{" + C + b"," + N + b"," + F + b',"number":[]}', "correct numbers_mistranslated"),
    Case(b"{" + C + b"," + N + b"," + F + b',"number":null}', "correct numbers_mistranslated"),
    Case(b'{"numbers":[2],' + C + b"," + N + b"," + F + b"}", "correct"),
    # Fields that nobody asked for.
    *(
        Case(text, "correct")
        for extra in EXTRA
        for text in (
            b"{" + extra + b"," + C + b"," + N + b"," + F + b"}",
            b"{" + C + b"," + N + b", " + extra + b" ,\n" + F + b"}",
            b"{" + C + b"," + N + b"," + F + b"," + extra + b"}",
        )
    ),
    *(Case(b"{" + C + b"," + N + b"," + F + b"," + e + b"}", "malformed_field") for e in NO_EXTRA),
    # What stands around the object, however long it is.
    *(Case(text, "correct") for a in AROUND for text in (a + RIGHT, RIGHT + a, a + RIGHT + a)),
    Case(b"{" + C + b"," + N + b"," + F + b',"note":"{ "x"}', "malformed_field"),  # begins one
    Case(b"{" + C + b"," + N + b"," + F + b',"note":"{\\"x"}', "correct"),
    Case(b"{" + C + b"," + N + b"," + F + b',"note":{}}', "malformed_field"),
    Case(b"{" + C + b"," + N + b"," + F + b',"note":{"a":1}}', "malformed_field"),
    Case(b'{"note":{"a":1},' + RIGHT[1:], "malformed_field"),
    Case(b'{"answer": ' + RIGHT + b"}", "correct"),
    Case(RIGHT + b'{"cards": [A, 3], "formula": "1+', "correct"),
    Case(RIGHT + b'{"cards": [A, 3], "formula": 24}', "correct"),
    Case(b"{" + C + b"," + N + b"," + F + b"}".rjust(99), "correct"),
    Case(b"{" + C + b"," + N + b"," + F + b"\0}", "malformed_field"),
    Case(b"{" + C + b"," + N + b"," + F + b"1}", "malformed_field"),
    Case(b'{"cards":["A","3","K","6"],"number":[1,3,13,6],"formula":"(13-1)*6/3"}', "correct"),
    Case(
        b'{\t"cards"\n:\r[ "A" , "3"\n,"K"\t, "6" ]\n,\n"number" : [ 1\n, 3 ,13 , 6 ] ,'
        b'"formula"\t:\n"(13-1)*6/3"\n,\n}',
        "correct",
    ),
    Case(b"{\v" + C + b"," + N + b"," + F + b"}", "malformed_field"),
    Case(b"{\xc2\xa0" + C + b"," + N + b"," + F + b"}", "malformed_field"),
    # Keys, cards, numbers: see also NO_KEY, NO_CARD and NO_NUMBER.
    Case(RIGHT.replace(b'"number"', b'"numbers"'), "correct"),
    Case(RIGHT.replace(b'"number"', b'"formula"'), "malformed_field"),
    Case(RIGHT.replace(b": ", b" "), "malformed_field"),
    Case(RIGHT.replace(b": ", b"::"), "malformed_field"),
    Case(RIGHT.replace(CARDS, b"[A, 3, K, 6]"), "correct"),
    Case(RIGHT.replace(CARDS, b"[A,'3' , K,\"6\"]"), "correct"),
    Case(RIGHT.replace(CARDS, b"[6,K,3,A]"), "correct"),
    Case(RIGHT.replace(b'"6"]', b'"6",]'), "correct"),
    Case(RIGHT.replace(b'["A"', b'[,"A"'), "malformed_field"),
    Case(RIGHT.replace(b'["A"', b'["A", "?"'), "correct cards_misread numbers_mistranslated"),
    Case(RIGHT.replace(b"[1,", b"[1, null,"), "correct numbers_mistranslated"),
    Case(RIGHT.replace(b'["A"', b'[["A"'), "malformed_field"),
    Case(RIGHT.replace(CARDS, b'"A3K6"'), "correct cards_misread numbers_mistranslated"),
    Case(RIGHT.replace(CARDS, b"["), "malformed_field"),
    Case(RIGHT.replace(b'"A"', b"10"), "correct cards_misread numbers_mistranslated"),
    Case(RIGHT.replace(b'"A"', b'"10"'), "correct cards_misread numbers_mistranslated"),
    Case(RIGHT.replace(b"13, 6]", b"1 3, 6]"), "malformed_field"),
    Case(RIGHT.replace(b"13, 6]", b"13, 6,]"), "correct"),
    Case(RIGHT.replace(NUMBERS, b"1"), "correct numbers_mistranslated"),
    Case(RIGHT.replace(NUMBERS, b"[1, 3, 13, 6"), "malformed_field"),
    Case(RIGHT.replace(b"[1,", b"[0,"), "correct numbers_mistranslated"),
    Case(RIGHT.replace(b"[1,", b"[" + b"1" * 99 + b","), "correct numbers_mistranslated"),
    Case(RIGHT.replace(b"[1,", b"[4294967297,"), "correct numbers_mistranslated"),
    # The formula's quotes.
    Case(RIGHT.replace(FORMULA, b"'(13-1)*6/3=24'"), "malformed_field"),
    Case(RIGHT.replace(FORMULA, b"(13-1)*6/3=24"), "malformed_field"),
    Case(RIGHT.replace(FORMULA, b"24"), "malformed_field"),
    Case(RIGHT.replace(FORMULA, b'["24"]'), "malformed_field"),
    Case(with_formula(b'(13-1)*6/3\\"'), "illegal_formula"),
    Case(with_formula(b'(13-1)*6/3" "'), "malformed_field"),
    # What was read and what it was translated to.
    Case(RIGHT.replace(b'"K"', b'"Q"'), "correct cards_misread numbers_mistranslated"),
    Case(
        RIGHT.replace(b'"K"', b'"Q"').replace(NUMBERS, b"[1, 3, 12, 6]"),
        "correct cards_misread",
    ),
    Case(RIGHT.replace(NUMBERS, b"[13, 6, 3, 1]"), "correct"),
    Case(RIGHT.replace(NUMBERS, b"[1, 3, 10, 6]"), "correct numbers_mistranslated"),
    Case(RIGHT.replace(NUMBERS, b"[1, 3, 13]"), "correct numbers_mistranslated"),
    Case(RIGHT.replace(NUMBERS, b"[1, 3, 13, 6, 6]"), "correct numbers_mistranslated"),
    Case(RIGHT.replace(NUMBERS, b"[1, 1, 13, 6]"), "correct numbers_mistranslated"),
    Case(RIGHT.replace(NUMBERS, b"[]"), "correct numbers_mistranslated"),
    Case(
        b'{"cards": [ ], "number": [\n], "formula": "(13-1)*6/3"}',
        "correct cards_misread numbers_mistranslated",
    ),
    Case(
        b'{"cards": [A, 3, K], "number": [1, 3, 13], "formula": "(13-1)*6/3"}',
        "correct cards_misread numbers_mistranslated",
    ),
    Case(
        b'{"cards": [A, 3, K, 6, 6], "number": [1, 3, 13, 6, 6], "formula": "(13-1)*6/3"}',
        "correct cards_misread numbers_mistranslated",
    ),
    Case(
        b'{"cards": [2], "number": [3], "formula": ""}',
        "illegal_formula cards_misread numbers_mistranslated",
    ),
    Case(
        b'{"cards": [2, 2, 2, 2], "number": [2, 2, 2, 2], "formula": "2+2"}',
        "cards_misread number_not_on_cards card_unused",
    ),
    # Another rule: the king counts 10, and so does a ten.
    Case(RIGHT, "numbers_mistranslated number_not_on_cards card_unused", HAND, FACES_AS_TEN),
    Case(
        b'{"cards": [A, 3, K, 6], "number": [1, 3, 10, 6], "formula": "6/(1-3)+10"}',
        "wrong_value",
        HAND,
        FACES_AS_TEN,
    ),
    Case(
        b'{"cards": [Q, J, 2, 2], "number": [10, 10, 2, 2], "formula": "10+10+2+2"}',
        "correct",
        (11, 12, 2, 2),
        FACES_AS_TEN,
    ),
    Case(
        b'{"cards": [10, 10, 2, 2], "number": [10, 10, 2, 2], "formula": "10+10+2*2"}',
        "correct cards_misread",
        (11, 12, 2, 2),
        FACES_AS_TEN,
    ),
)

FORMULAS = (
    # Right, however it is written.
    says(b"(13-1)*6/3", "correct"),
    says(b"6/3*(13-1)", "correct"),
    says(b"(13-1)*(6/3)", "correct"),
    says(b"((((13-1))*((6)))/3)", "correct"),
    says(b"6/(3/(13-1))", "correct"),
    says(b"\t( 13 -\n1 )*\r6 / 3 ", "correct"),
    says(b"(" * 80 + b"(13-1)*6/3" + b")" * 80, "correct"),
    says(b"(" * 1023 + b"(13-1)*6/3" + b")" * 1023, "illegal_formula"),
    says(b"(" * 1022 + b"(13-1)*6/3" + b")" * 1022, "correct"),
    says(b"(" * 512 + b"(13-1)*6/3" + b")" * 512, "correct"),
    says(b"8/(3-8/3)", "correct", (3, 3, 8, 8)),
    says(b"8/(3-8/3)=24", "correct", (8, 3, 8, 3)),
    says(b"5*(5-1/5)", "correct", (5, 5, 5, 1)),
    says(b"(1+5/3)*9", "correct", (1, 3, 5, 9)),
    says(b"12/2*4*1", "correct", (12, 2, 4, 1)),  # from the left
    says(b"13+13-1-1", "correct", (13, 13, 1, 1)),
    says(b"6*3+6*1", "correct", (6, 3, 6, 1)),  # not 6*(3+6)*1
    says(b"(2-4)*(1-13)", "correct", (1, 2, 4, 13)),
    says(b"(2-4-10)*(1-3)", "correct", (1, 2, 3, 4, 10), FIVE),
    says(b"2*3*4", "correct", (2, 3, 4), THREE),
    says(b"8*(5-2)", "correct", (2, 5, 8), THREE),
    # What follows "=".
    says(b"(13-1)*6/3=24", "correct"),
    says(b"(13-1)*6/3 =\n24 ", "correct"),
    says(b"(13-1)*6/3=25", "wrong_value"),
    says(b"(13-1)*6/3=0", "wrong_value"),
    says(b"(13-1)*6/3=4294967320", "wrong_value"),
    says(b"(13-1)*6/3=" + b"24" * 60, "wrong_value"),
    says(b"1+3+13+6=23", "wrong_value"),
    says(b"1+3+13+6=24", "wrong_value"),
    says(b"(13-1)*6=24", "card_unused"),
    # Wrong by value, or without one.
    says(b"(1+6)*3+13", "wrong_value"),
    says(b"13*6/3-1", "wrong_value"),
    says(b"1-3-6-13", "wrong_value"),
    says(b"4/(4-4)+4", "wrong_value", (4, 4, 4, 4)),
    says(b"4/(4-4)+4=24", "wrong_value", (4, 4, 4, 4)),
    says(b"(12+12)/(5-5)", "wrong_value", (12, 12, 5, 5)),
    says(b"(5-5)/(12-12)", "wrong_value", (12, 12, 5, 5)),
    says(b"1/(5/(8-8))", "wrong_value", (1, 5, 8, 8)),  # not 0, though 5/0 is "large"
    says(b"24/(3-3)*(3-3)", "number_not_on_cards", (3, 3, 3, 3)),
    says(b"3*8+3/(8-8)", "card_reused card_unused", (1, 3, 8, 8)),
    # Which numbers it uses.
    says(b"24", "number_not_on_cards card_unused"),
    says(b"13+3-(1-6)*1", "card_reused"),
    says(b"13", "card_unused"),
    says(b"((13))", "card_unused"),
    says(b"(13-1)*6", "card_unused"),
    says(b"(13-1)*6/3+1-1", "card_reused"),
    says(b"(13-1)*6/3*9/9", "number_not_on_cards"),
    says(b"13+13-3+1", "card_reused card_unused"),
    says(b"12*6/3", "number_not_on_cards card_unused"),
    says(b"(13-1)*6/3+0", "number_not_on_cards"),
    says(b"(13-1)*6/3+1-1+7-7", "number_not_on_cards card_reused"),
    says(b"12*6*6/3/1", "number_not_on_cards card_reused card_unused"),
    says(b"8*3", "card_unused", (3, 3, 8, 8)),
    says(b"8*3+3-3", "card_reused card_unused", (3, 3, 8, 8)),
    says(b"8*3*8/8*3/3", "card_reused", (3, 3, 8, 8)),
    says(b"4294967309-1", "number_not_on_cards card_unused"),  # 13 in 32 bits
    says(b"(4294967309-1)*6/3", "number_not_on_cards card_unused"),
    says(b"9" * 100, "number_not_on_cards card_unused"),
    says(b"(13-1)*6/3*" + b"9" * 100, "number_not_on_cards"),
    says(b"(13-1)*6/3=" + b"9" * 5000, "wrong_value"),
    says(b"1/0", "number_not_on_cards card_unused"),
)


CASES = (
    *OBJECTS,
    *(
        Case(RIGHT.replace(b'"cards"', key), "correct cards_misread numbers_mistranslated")
        for key in NO_CARDS_KEY
    ),
    *(Case(RIGHT.replace(b'"cards"', key), "malformed_field") for key in NO_KEY),
    *(Case(RIGHT.replace(b'"A"', card), "correct") for card in ACE),
    *(
        Case(RIGHT.replace(b'"A"', card), "correct cards_misread numbers_mistranslated")
        for card in NO_CARD
    ),
    *(Case(RIGHT.replace(b'"A"', item), "malformed_field") for item in NO_ITEM),
    *(Case(RIGHT.replace(b"[1,", b"[" + n + b","), "correct") for n in ONE),
    *(
        Case(RIGHT.replace(b"[1,", b"[" + n + b","), "correct numbers_mistranslated")
        for n in NO_NUMBER
    ),
    *(Case(RIGHT.replace(b"[1,", b"[" + n + b","), "malformed_field") for n in NO_ITEM),
    *(Case(RIGHT.replace(CARDS, cards), "correct") for cards in WHOLE_HANDS),
    *(says(formula.encode(), "correct") for formula in SPELLED),
    *(says(formula, "correct") for formula in ESCAPED),
    says(b"(0x13-1)*6/3", "number_not_on_cards"),  # no hexadecimal: 0 times 13
    *FORMULAS,
    *(says(formula, "illegal_formula") for formula in ILLEGAL),
)

RELEASED = (
    ReleasedCase(b"4*(1+2+3)", 5),
    ReleasedCase(b"1*2*3*4", 5),
    ReleasedCase(b"(((1))*2*3*4)", 5),  # not among its solver's strings
    ReleasedCase(b"4*(1+2+3)=24", 5),
    ReleasedCase(b"4*(1+2+3)=99", 5),  # all after "=" is thrown away
    ReleasedCase(b"4*(1+2+3)=", 5),
    ReleasedCase(b"4*(1+2+3)= {", 5),
    ReleasedCase(b"4*(1+2+3)= {}", 5),
    ReleasedCase(b"{4*(1+2+3)}", -3),
    ReleasedCase(b"4*(1+2+3)=\xc3\x97", 5),
    ReleasedCase(b"4*(1+2+3)\xc2\xa0", -3),
    ReleasedCase(b"4x(1+2+3)", -3),
    ReleasedCase(b"4\\times(1+2+3)", -3),
    ReleasedCase("4*(\uff11+2+3)".encode(), -3),  # -1 there: a digit
    ReleasedCase(b"5*(5-1/5)", 5, (1, 5, 5, 5)),
    ReleasedCase(b"8/(3-8/3)", 0, (3, 3, 8, 8)),  # 23.99... in floats, yet in its list
    ReleasedCase(b"8/(3-8/3)=24", 0, (3, 3, 8, 8)),
    ReleasedCase(b"(1+5/3)*9", 0, (1, 3, 5, 9)),
    ReleasedCase(b"(8)/(3-8/3)", -1, (3, 3, 8, 8)),  # right, but not in its list
    ReleasedCase(b"8/((3-8/3))", -1, (3, 3, 8, 8)),
    ReleasedCase(b"8/(3-8/3", 1, (3, 3, 8, 8)),
    ReleasedCase(b"4*(1+2+3", 1),  # unclosed
    ReleasedCase(b"4*(1+2+3=24", 1),
    ReleasedCase(b"(1*2)*(3*4", 1),
    ReleasedCase(b"4*((1+2+3)", -1),
    ReleasedCase(b"(4*(1+2+3", -1),
    ReleasedCase(b"(1*2*3*4", -1),  # its solver never brackets the whole
    ReleasedCase(b"1+2+3+4", -1),
    ReleasedCase(b"1*2*3*4+", -1),
    ReleasedCase(b"01*2*3*4", -1),
    ReleasedCase(b"4*(01+2+3)", -1),
    ReleasedCase(b"2/(1-1)*2", -1, (1, 1, 2, 2)),
    ReleasedCase(b"", -2),
    ReleasedCase(b"=24", -2),
    ReleasedCase(b"1*2*3", -2),
    ReleasedCase(b"1*2*3*4*4", -2),
    ReleasedCase(b"1*2*3*4*5", -2),
    ReleasedCase(b"1*2*3*4*4*5", -2),
    ReleasedCase(b"4*3*2*1*" + b"9" * 60, -2),
    ReleasedCase(b"1*2*3*5", -4),
    ReleasedCase(b"1*1*2*3", -4),
    ReleasedCase(b"24", -4),
    ReleasedCase(b"4*3*2*1)", -3),
    ReleasedCase(b"-1*2*3*4", -3),
    ReleasedCase(b"4--1*2*3", -3),
    ReleasedCase(b"(1*2)(3*4)", -6),  # the second "(" is not pushed, so its ")" has none
    ReleasedCase(b"1*2*3*(4*)", -3),
    ReleasedCase(b"()1*2*3*4", -6),
    ReleasedCase(b"1++2", -5),
    ReleasedCase(b"9**9**9", -10),
    ReleasedCase(b"))((", -11),
    ReleasedCase(b"4 * (1+2+3)", -3),
    ReleasedCase(b" ", -3),
    ReleasedCase(b"1.0*2*3*4", -3),
    ReleasedCase(b"))((x", -3),
    ReleasedCase(b"x=1*2*3*4", -3),
    ReleasedCase("1×2*3*4".encode(), -3),  # noqa: RUF001
    ReleasedCase(b"2*3*4", 5, (2, 3, 4), THREE),
    ReleasedCase(b"(2-4-10)*(1-3)", 5, (1, 2, 3, 4, 10), FIVE),
)
