"""Parts of answers to the hand A, 3, K, 6: those that are read, and those that are not."""

EXTRA = (
    b'"explanation": "4*6"', b'"note": ""', b'"": 1',
    b'"reasoning": "use {8, 3}, so \\\\boxed{24}"',
    b'"why": "the \\"best\\" way: }"', b'"why": "{{{[,"', b'"why": "a\\\\"', b'"result": 24',
    b'"x": -1.5e3',
    b'"ok": true', b'"none": null', b'"steps": []', b'"steps": ["13-1=12", "12*6 = {72}"]',
    b'"steps": [[12, 6], [72, "[3"], []]', b'"steps": [[[1]]]', b'"it\'s" : "it\'s"',
    b'"l":["it\'s", a b]',
    b'"Formula": "1+1"', b'"formulas": ["1"]', b'"result": 6*4=24', b'"a": \xc3\x97', b'"a\\"b": 1',
    b'"number of cards": 4', b'"formula ": "1"', b'"l":[,]', b'"a": "{ \'x"',
)  # fmt: skip

NO_EXTRA = (
    b'"steps": [[[[1]]]]', b'"a": 1 2', b'"a": ', b'"a"', b'"a": "b" "c"', b'"a": "b', b'"a": [1',
    b'"a": 1]',
    b"'a': 1", b"a: 1", b"\"a\": 'b'", b'"a": 1 // no', b'"a": [{}]', b'"a": [{"b": 1}]',
    b'"a": "{" "',
    b"/* no */", b'"formula": 1', b'"formula": null', b'"formula": ["1"]', b"\"formula\": '1+3'",
)  # fmt: skip

AROUND = (
    b"\\boxed{24}", b"so \\frac{24}{1} = 24 ", b"the set {8, 3} ", b"Format: {...}",
    b'{"cards": [', b"{{", b"}}",
    b'{"cards": ["8", "3"], "number": [8, 3]} ',
    b'{"cards": [each card as a string], "number": [what each card '
    b'counts, in the same order], "formula": "...=24"}',
    b'{\n  "cards": [x, y, z, w], where J is 11,\n  "number": '
    b'[a, b], where a is the number,\n  "formula": "an equation that equals 24",\n}',
    b'"formula": "1+1"',
    b"{'cards': [2], 'number': [2], 'formula': '2'}", b'{"formula": 24}', b'"', b'"{"', b"'",
    b"\\", b"\xff\xef\xbb\xbf",
    b"thoughts {8*3} of \"length\" " * 40,
)  # fmt: skip

# Not "cards" where a key must stand, and no key at all.
NO_CARDS_KEY = (b'"Cards"', b'"card"', b'"cardss"', b'"cards "', b'"\\u0063ards"', b'""')

NO_KEY = (b"'cards'", b"cards", b'"cards', b'cards"', b'"cards""')

# The ace, where the ace must stand; something else; nothing that can stand there.
ACE = (
    b"A", b"1", b'"1"', b"'1'", b'"a"', b"a", b'" A"', b'"A "', b'"Ace"', b"'ace'", b"ACE",
    b'"AS"', b'"Ac"', b"1h", b'"ace of spades"', b'"A of Hearts"', b'" 1  of\nclubs "',
    *(f'"{one}{suit}"'.encode() for one in "A1" for suit in "\u2660\u2665\u2666\u2663\u2664\u2667"),
    *(f"{one}\u2665\ufe0f".encode() for one in "a1"),
)  # fmt: skip

NO_CARD = (
    b'""', b'"11"', b"11", b'"AA"', b"AA", b"100", b"null", b'"Joker"', b'"0"', b'"Aces"',
    b'"Acee"',
    b'"A of"', b'"A of spade"', b'"Aof spades"', b'"A of spades."', b'"A spades"',
    b'"A \xe2\x99\xa0"',
    b'"\xe2\x99\xa0A"', b'"A\xe2\x99"', b'"A\xe2\x99\xa8"', b'"1 0"', b'"\\u0041"',
    b'"{A"', b'"A}"', b'"{8, 3}"', b"true", b'"A,"', b'"A]"', b"'A\"'", b"\"A'\"", b"A.", b"1.0",
    b'"one"', b"A:1", b'"A of spades of spades"',
)  # fmt: skip

NO_ITEM = (
    b"\"A'",
    b"'A\"",
    b'A"',
    b'"A',
    b"A A",
    b"1 0",
    b"[A]",
    b"{A}",
    b'"A" "A"',
    b"A{",
    b"",
    b'"A\\"',
)

WHOLE_HANDS = (
    b'["1", "3", "king", "6"]', b"[a, 3, k, 6]",
    b'["A\xe2\x99\xa0", "3\xe2\x99\xa5", "K\xe2\x99\xa6", "6\xe2\x99\xa3"]',
    b'["AS", "3H", "KD", "6C"]',
    b"['Ace of Spades', '3 of hearts', 'King of diamonds', '6 of clubs']",
    b'["6", "KING", "3", "1",]',
)  # fmt: skip

# The ace's value; another item; nothing that can stand there.
ONE = (b"1", b'"1"', b"'1'", b"1.0", b'"1.00"', b"1.", b'" 1 "', b"' 1.0 '")

NO_NUMBER = (
    b"01", b"00", b"-1", b"+1", b"1e0", b"A", b"\xef\xbc\x91", b"null", b"true", b'""', b'"A"',
    b"1.5",
    b"1.05", b".1", b'"1 1"', b'"1,1"', b"1/1", b'"one"', b"'1\"'", b'"{1}"', b"1_0", b"0.1", b"0",
)  # fmt: skip

# Other ways to write a formula that is right, and those that have symbols of other scripts.
SPELLED = (
    "(13-1)\u00d76\u00f73", "(13\u22121)*6/3", "(13\u20131)\u00b76\u22153", "(13-1)x6/3",
    "(13-1) X 6/3",
    "(13-1)\u22c56/3", "(13-1)\u22176/3", "(13-1)\\times6\\div 3", "(13-1)\\\\cdot 6\\\\div3",
    "(13-1)\\ast6/3", "(13\u00a0-\u00a01)*6/3\u202f=\u00a024", "(13-1)\\u00d76\\u00F73",
    "(13\\u22121)*6/3",
    "(13\\u20131)\\u22c56\\u00A0\\u2215\\u202F3", "6\\u00d7(13\\u22121)\\u00f73\\u00a0=24",
)  # fmt: skip

ESCAPED = (
    b"(13-1)*6\\/3", b"(13-1)\\u002a6\\u002f3", b"(13-1)\\u002A6\\u002F3",
    b"\\u002813\\u002D1\\u0029*6/3\\u003d24", b"6*\\u002813-1\\u0029/3\\u003D24",
)  # fmt: skip

# Formulas that are not in the grammar, right of "=" first.
ILLEGAL = (
    b"(13-1)*6/3=", b"(13-1)*6/3=024", b"(13-1)*6/3=-24", b"(13-1)*6/3=2 4", b"(13-1)*6/3=(24)",
    b"(13-1)*6/3=24+0", b"(13-1)*6/3=24.0", b"(13-1)*6/3=24=24", b"(13-1)*6/3==24",
    b"((13-1)*6/3=24)", b"24=(13-1)*6/3", b"=24", b"=", b"", b" \n", b"()", b"(", b")", b"))((",
    b"+", b"(13-1)*6/3+", b"(13-1)*6/", b"*(13-1)*6/3", b"-1+3+13+6", b"+1+3+13+6",
    b"(-1)+3+13+6", b"3--1+13+6", b"1++2", b"2**3", b"9**9**9", b"6//3", b"(13-1)*6/3)",
    b"((13-1)*6/3", b"(13-1*6/3", b")13-1(*6/3", b"(13-1)6/3", b"6(13-1)/3", b"(13-1)(6/3)",
    b"()(13-1)*6/3", b"(13-1)*6/3()", b"(13-)1*6/3", b"(13-(+1))*6/3", b"1 3+6", b"13 1",
    b"(1 3-1)*6/3", b"(013-1)*6/3", b"(13-01)*6/3", b"(13-1)*6/3+00", b"(13-1.0)*6/3",
    b"(13-1)*6e0/3", b"(1_3-1)*6/3", b"(K-A)*6/3", b"(13-1)*6/3;",
    b"(13-1)*6/3,", b"(13-1)*6/3\0", b"(13-1)\\*6/3", b"(13-1)*6/3\\n",
    b"(13-1)*6/3\v", b"(13-1)*6/3\x0c", b"[13-1]*6/3", b"'(13-1)*6/3'", b"(13-1)*6/3\xff",
    "(\uff11\uff13-1)*6/3".encode(),  # full-width digits
    # Symbols cut short or not known, and signs where none may stand.
    b"(13-1)\xc36/3", b"(13-1)\xe2\x886/3", b"(13-1)*6/3\xc3", b"(13-1)*6/3\xe2\x88",
    b"(13\xe2\x80\x951)*6/3",
    b"(13-1)\\tim6/3", b"(13-1)*6/3\\t", b"(13-1)\\\\6/3", b"(13-1)*6/3\\\\",
    b"(13-1)\\\\\\times6/3",
    b"(13-1)\\u00d6/3", b"(13-1)\\u00D76/3\\u00", b"\\u0031*2", b"(13-1)\\U00d76/3",
    b"(13-1)\\frac6/3",
    b"(13-1)xx6/3", b"x(13-1)*6/3", b"(13-1)*6/3x", b"\xe2\x88\x921+3", b"(13-1)\xc3\xc3\x976/3",
    b"(13-1)*6/3=\xc3\x9724", b"(13-1)*6/3=2\xc2\xa04", b"(13-1)*6/3\\\"", b"1\xc2\xa03-1",
    b"(13-1)y6/3",
    b"(13-1)*6/3=\xe2\x80\xaf", b"{(13-1)}*6/3", b"\\frac{(13-1)*6}{3}", b"$(13-1)*6/3$",
    b"(13-1)*6/3 equals 24", b"(13-1)*6/3=24.", b"\\left(13-1\\right)*6/3", b"{ (13-1)*6/3",
    "(13-1)*6/\u0663".encode(),  # an Arabic-Indic three
    b"(" * 1024 + b"(13-1)*6/3" + b")" * 1024,
    b"13(", b"(13-1)*6/3(", b"(13-1)*6/3((1",
    b"(" * 500 + b"13", b"13" + b")" * 500, b"(" * 200 + b"13" + b")" * 201,
)  # fmt: skip
