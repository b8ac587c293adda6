"""Numbers as people and models write them: exact values, percent, units."""

import dataclasses
import re
import unicodedata
from fractions import Fraction

LONGEST = 20_000  # characters of a number; a longer one is compared as text only
_EXACT = 400  # digits, and the exponent, of what becomes a Fraction

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2212\ufe63\uff0d\u2010\u2011", "-"),  # a minus sign, hyphens
        **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u200a\u202f", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
        **dict.fromkeys("\u00d7\u00b7\u22c5\u2217", "*"),
        "\u2044": "/",
        "\u2215": "/",
        "\u2019": "'",
        "°": " degrees ",
        "π": r"\pi ",
        "√": r"\sqrt ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "±": r"\pm ",
        "∞": r"\infty ",
        "≈": r"\approx ",
    }
)
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_LATEX = (
    (
        re.compile(r"(?:\b(?:US|CA|AU)\s?)?\\?\$|\\[()\[\]]"),
        "",
    ),  # where maths begins and ends, and dollars
    (re.compile(r"\\!\s*"), ""),
    (re.compile(r"\\[,;:> ~]|~|\\q?quad\b"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\left\b\s*|\\right\b\s*|\\displaystyle\b|\\(?:bf|rm|it)\b"), ""),
    (re.compile(r"\\[dtc]frac\b"), r"\\frac"),
    (re.compile(r"\\(?:times|cdot|ast)\b"), "*"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b"), " degrees "),
    (re.compile(r"\\%"), "%"),
    (
        re.compile(r"\\(?:text|math|mbox|operatorname)(?:bf|rm|it|sf|tt|normal)?\s*\{([^{}]*)\}"),
        r" \1 ",
    ),
)
# 1 000 000 and 1'000: groups of three that no digit, point or comma touches.
_SPACED = re.compile(r"(?<![\d.,/^'])\d{1,3}(?:[ ']\d{3})+(?![\d'])(?! ?/)")


def clean(text: str) -> str:
    """The same words in few spellings: no maths mode, one minus, one fraction, one space."""
    if not text.isascii():
        text = re.sub(
            "[⁰¹²³⁴-⁹⁺⁻]+", lambda m: "^{" + m.group().translate(_SUPERSCRIPTS) + "}", text
        )
        text = _VULGAR.sub(lambda m: " " + unicodedata.normalize("NFKC", m.group()), text)
        text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS))
        text = re.sub(r"(?<![\w\s)])\s*\u2013(?=[\d.])|^\u2013(?=[\d.])", "-", text)
    if "\\" in text or "$" in text or "~" in text or "{" in text:
        for pattern, new in _LATEX:
            text = pattern.sub(new, text)
    text = _SPACED.sub(lambda m: re.sub("[ ']", "", m.group()), text)
    return " ".join(text.split())


@dataclasses.dataclass(frozen=True)
class Quantity:
    """What a text measures, such as 12 cm; of two very large numbers only equality is known."""

    value: Fraction | tuple[bool, str, int | str]  # or (negative, digits, exponent)
    percent: bool
    unit: str  # "" where none is known


def same_quantity(one: Quantity, other: Quantity) -> bool:
    """Exactly equal; a unit or percent sign that only one has is not held against it.

    50% is 50 and also .5, as for `math-verify`; two units that are both known must agree.
    """
    if one.unit and other.unit and one.unit != other.unit:
        return False
    if one.value == other.value:
        return True
    if one.percent == other.percent:
        return False
    part, whole = (one.value, other.value) if one.percent else (other.value, one.value)
    return isinstance(part, Fraction) and part / 100 == whole


_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)"
_QUANTITY = re.compile(
    rf"""
    (?P<sign>[-+]?)\s*
    (?:[€£¥₹]|US\b|(?:USD|EUR|GBP|Rs\.?)\s)?\s*(?P<sign_behind>-?)
    (?:
      (?:(?P<whole>\d+)\s*)?\\frac\s*(?:\{{\s*(?P<above>-?{_DIGITS})\s*\}}|(?P<above1>\d))
        \s*(?:\{{\s*(?P<below>-?{_DIGITS})\s*\}}|(?P<below1>\d))
      | (?P<mixed>\d+)(?:\s+|\s+and\s+)(?P<up>\d+)\s*/\s*(?P<down>\d+)(?![\d.^])
      | (?P<over>{_DIGITS})\s*/\s*(?P<under>-?{_DIGITS})
      | (?P<ten>10\s*\^\s*(?:\{{\s*(?P<power1>[-+]?\d+)\s*\}}|(?P<power2>[-+]?\d+)))
      | (?P<number>{_DIGITS})
        (?:[eE](?P<e>[-+]?\d+)(?![\w.])
          |\s*[*x]\s*10\s*\^\s*(?:\{{\s*(?P<power3>[-+]?\d+)\s*\}}|(?P<power4>[-+]?\d+)))?
    )
    (?P<rest>[^\d].*)?""",
    re.VERBOSE | re.DOTALL,
)
SCALES = {
    "hundred": 2,
    "thousand": 3,
    "k": 3,
    "million": 6,
    "mn": 6,
    "billion": 9,
    "bn": 9,
    "trillion": 12,
}
# Words that make another number of the one before them, or a second one beside it.
_OPERATORS = re.compile(
    "(?:ten|hundred|thousand|million)ths?|or|and|to|over|pi|sqrt|squared|cubed|factorial|half|halves|thirds?|quarters?|plus|minus|times"
    "|mod|sin|cos|tan|log|ln|exp|through|choose|more|less|than|not|divided|multiplied|with|where"
    "|if|but|is|are|was|frac|infty|le|ge|ne|pm"
)
UNITS = {
    name: names.split()[0]
    for names in (
        "mm millimeter millimeters millimetre millimetres",
        "cm centimeter centimeters centimetre centimetres",
        "m meter meters metre metres",
        "km kilometer kilometers kilometre kilometres",
        "in inch inches",
        "ft foot feet",
        "yd yard yards",
        "mile miles mi",
        "mg milligram milligrams",
        "g gram grams",
        "kg kilogram kilograms",
        "lb lbs pound pounds",
        "oz ounce ounces",
        "ton tons tonne tonnes",
        "ml milliliter milliliters millilitre millilitres",
        "l liter liters litre litres",
        "gallon gallons",
        "ms millisecond milliseconds",
        "s sec secs second seconds",
        "min mins minute minutes",
        "h hr hrs hour hours",
        "day days",
        "week weeks",
        "month months",
        "year years yr yrs",
        "dollar dollars usd",
        "cent cents",
        "euro euros eur",
        "degree degrees",
        "radian radians rad",
        "mph",
        "j joule joules",
        "n newton newtons",
        "w watt watts",
        "v volt volts",
        "kj",
        "mol moles",
        "pa",
        "hz",
        "k kelvin",
        "c",
        "f",
    )
    for name in names.split()
}
_LETTERS = frozenset("mgslhLNJWVKCF")  # single ones that are units
_WORDS = re.compile(r"[A-Za-zµμΩ][A-Za-zµμΩ'-]*\.?(?:\s*\^\s*\{?\s*-?\d\s*\}?)?")


def quantity(text: str, *, loose: bool = True) -> Quantity | None:
    """What a `clean` text says as a whole, None if it is not one number with perhaps a unit.

    `loose` reads 5m as 5 metres; a truth 5m is a product, for which 5 must not be right.
    """
    if len(text) > LONGEST:
        return None
    found = _QUANTITY.fullmatch(text.strip().rstrip(".,;: "))
    if found is None or (found["sign"] and found["sign_behind"]):
        return None
    ending = _ending(found["rest"] or "", loose)
    value = _value(found)
    if ending is None or value is None:
        return None
    percent, scale, unit = ending
    negative = found["sign"] == "-" or found["sign_behind"] == "-"
    if isinstance(value, Fraction):
        value = value * 10**scale * (-1 if negative else 1)
    elif scale:
        return None
    else:
        value = (value[0] != negative, *value[1:])
    return Quantity(value, percent, unit)


def _value(found: re.Match[str]) -> Fraction | tuple[bool, str, int | str] | None:
    above = found["above"] or found["above1"] or found["over"] or found["up"]
    if above:
        below = found["below"] or found["below1"] or found["under"] or found["down"]
        parts = [_decimal(part or "0") for part in (found["whole"] or found["mixed"], above, below)]
        exact = [part for part in parts if isinstance(part, Fraction)]
        if len(exact) < 3 or exact[2] == 0:
            return None
        whole, numerator, denominator = exact
        if found["mixed"] and (numerator >= denominator or above.startswith("0")):
            return None
        return whole + numerator / denominator
    if found["ten"]:
        return _decimal("1", found["power1"] or found["power2"])
    return _decimal(found["number"], found["e"] or found["power3"] or found["power4"] or "0")


def _decimal(mantissa: str, exponent: str = "0") -> Fraction | tuple[bool, str, int | str]:
    """Never the integer of a huge text: 1e999999999 and ten thousand digits stay text."""
    negative = mantissa.startswith("-")
    whole, _, part = mantissa.lstrip("-").replace(",", "").partition(".")
    digits = (whole + part).lstrip("0")
    if not digits:
        return Fraction(0)
    short = digits.rstrip("0")
    if len(exponent) > 18:
        return negative, digits, exponent.lstrip("+")
    power = int(exponent) - len(part) + len(digits) - len(short)
    if len(short) > _EXACT or abs(power) > _EXACT:
        return negative, short, power
    return Fraction(int(short)) * Fraction(10) ** power * (-1 if negative else 1)


def _ending(rest: str, loose: bool) -> tuple[bool, int, str] | None:
    """Percent, power of ten and unit of what stands behind the digits; None for more than that."""
    glued = rest[:1].isalpha()
    rest = rest.strip()
    percent = re.match(r"%|percent\b|per cent\b", rest)
    if percent:
        rest, glued = rest[percent.end() :].strip(), False
    rest = re.sub(r"^[€£¥₹]\s*", "", rest)
    words = _WORDS.findall(rest)
    if re.sub(r"[\s/(),]|\bper\b", "", _WORDS.sub("", rest)) or len(words) > 6:
        return None
    scale = 0
    if words and words[0].lower().rstrip(".") in SCALES and not (glued and len(words[0]) > 2):
        known = words[0].lower().rstrip(".")
        if known != "k" or glued:
            scale, words, glued = SCALES[known], words[1:], False
    names = [re.split(r"[\s^]", word.lower())[0].rstrip(".") for word in words]
    if not names:
        return bool(percent), scale, ""
    if any(_OPERATORS.fullmatch(name) for name in names):
        return None
    if len(names[0]) == 1 and (words[0][0] not in _LETTERS or (glued and not loose)):
        return None
    if glued and len(names[0]) == 2 and names[0] not in UNITS:
        return None
    unit = UNITS.get(names[0], "") if len(names) == 1 else ""
    if unit and "^" in words[0]:
        unit += re.sub(r"[^\d-]", "", words[0].partition("^")[2])
    return bool(percent), scale, unit
