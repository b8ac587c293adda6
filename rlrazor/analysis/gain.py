"""Methods at the same gain, each at its own learning rate: what `configs/gp_frontier.py` asks.

A run is read where it first reaches a gain under the rule of training, interpolated between its two
neighbouring checkpoints (the base before the first). The unit is a seed; where each seed has a base
of its own, a base. The rate of an arm is chosen where it is not reported: on the bases of the kind
"selection"; without such, for each seed on all the others; with one seed alone, in hindsight. Where
no rate reaches a gain there, the rate is that of the next lower gain.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlrazor.analysis.equivalence import Mean, error_of, holm, mean_of
from rlrazor.analysis.results import BASE_PREFIX, Results
from rlrazor.lines import OUTCOMES, PRIOR, unpack_outcomes

GAINS = (0.03, 0.06, 0.09)  # fractions of one, under the rule of training
PRIMARY = 0.06
MARGIN = 0.02  # differences within it are equivalent
ALPHA = 0.05
FORGETTING = "forgetting"
KNOB = "hyperparameters/"
KIND = f"{BASE_PREFIX}kind"
SELECTION, REPORTED = "selection", "reported"
LOWER, HIGHER, EQUIVALENT, UNDECIDED = "lower", "higher", "equivalent", "undecided"

Setting = tuple[str, ...]  # values of what an arm's runs differ in, its learning rate above all


@dataclass(frozen=True, eq=False)
class Crossing:
    """A run where it first reaches a gain."""

    values: Mapping[str, float]  # FORGETTING and "<shift>/change", fractions of one
    # The same, a number a question f64[n]; none where lines do not hold outcomes.
    questions: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class AtGain:
    """An arm at a gain, in the order of the units."""

    arm: str
    gain: float
    seeds: tuple[int, ...]
    settings: tuple[Setting | None, ...]  # chosen for each unit; None: none reaches any gain
    chosen: tuple[Crossing | None, ...]  # at that setting; None: not reached
    hindsight: tuple[Crossing | None, ...]  # at the setting that forgets least on the unit itself

    @property
    def reached(self) -> int:
        """Units at which the chosen setting reaches the gain."""
        return sum(crossing is not None for crossing in self.chosen)

    def mean(self, quantity: str, *, hindsight: bool = False) -> Mean:
        """Over the units that reach the gain: never more than `reached`."""
        crossings = self.hindsight if hindsight else self.chosen
        values = [math.nan if c is None else c.values[quantity] for c in crossings]
        errors = [math.nan if c is None else error_of(c.questions.get(quantity)) for c in crossings]
        return mean_of(np.array(values), np.array(errors))


@dataclass(frozen=True)
class Contrast:
    """What an arm has of a quantity more than the reference at a gain, on the units of both."""

    arm: str
    reference: str
    gain: float
    quantity: str
    difference: Mean
    p: float  # of a difference; Holm's, but for the primary contrast
    p_equivalent: float  # of a difference within MARGIN; likewise
    primary: bool

    @property
    def word(self) -> str:
        if self.p_equivalent < ALPHA:
            return EQUIVALENT
        if self.p < ALPHA:
            return HIGHER if self.difference.estimate > 0 else LOWER
        return UNDECIDED


def quantities(results: Results) -> tuple[str, ...]:
    """What is read at a gain: forgetting, and the change under every shift."""
    return (FORGETTING, *(f"{place}/change" for place in results.shifts))


def swept(results: Results) -> bool:
    """Whether an arm of RL or of plain SFT has several learning rates."""
    rate = f"{KNOB}learning_rate"
    if rate not in results or not results.has("gain", FORGETTING):
        return False
    arms = [results.of_arms(arm) for arm in (*results.rl, *results.sft)]
    return any(len(np.unique(arm[rate])) > 1 for arm in arms)


def at_gain(results: Results, gain: float, kind: str = REPORTED) -> list[AtGain]:
    """Every arm on the bases of a kind; on all, where lines do not tell kinds."""
    units, choosing = _seeds(results, kind)
    found = []
    for arm in results.arms:
        runs = crossings(results.of_arms(arm), gain)
        easier = [runs, *(crossings(results.of_arms(arm), at) for at in GAINS[::-1] if at < gain)]
        settings = tuple(_choose(easier, _others(choosing, units, seed)) for seed in units)
        chosen = tuple(
            None if setting is None else runs.get(setting, {}).get(seed)
            for seed, setting in zip(units, settings, strict=True)
        )
        hindsight = tuple(_best(runs, seed) for seed in units)
        found.append(AtGain(arm, gain, units, settings, chosen, hindsight))
    return found


def contrasts(
    results: Results, gains: Sequence[float] = GAINS, primary: float = PRIMARY
) -> list[Contrast]:
    """Every arm against plain SFT, paired on the units that both reach.

    The primary one is of forgetting, of the first plain arm of RL, at the primary gain. All others
    are corrected together.
    """
    if not results.sft:
        return []
    reference, first = results.sft[0], (results.rl or ("",))[0]
    raw: list[tuple[str, float, str, Mean]] = []
    for gain in gains:
        entries = {entry.arm: entry for entry in at_gain(results, gain)}
        for arm, entry in entries.items():
            if arm != reference:
                raw += [
                    (arm, gain, what, difference(entry, entries[reference], what))
                    for what in quantities(results)
                ]
    leads = [(arm, gain, what) == (first, primary, FORGETTING) for arm, gain, what, _ in raw]
    others = [mean for (*_, mean), lead in zip(raw, leads, strict=True) if not lead]
    adjusted = iter(
        zip(holm([m.p for m in others]), holm([m.p_equivalent(MARGIN) for m in others]),
            strict=True)
    )  # fmt: skip
    found = []
    for (arm, gain, what, mean), lead in zip(raw, leads, strict=True):
        p, p_equivalent = (mean.p, mean.p_equivalent(MARGIN)) if lead else next(adjusted)
        found.append(
            Contrast(arm, reference, gain, what, mean, float(p), float(p_equivalent), lead)
        )
    return found


def difference(mine: AtGain, other: AtGain, quantity: str) -> Mean:
    """The mean of mine less the other's, unit by unit; questions are paired where both have them.

    Runs from one base are asked the same questions.
    """
    values, errors = [], []
    for a, b in zip(mine.chosen, other.chosen, strict=True):
        if a is None or b is None:
            values.append(math.nan)
            errors.append(math.nan)
            continue
        values.append(a.values[quantity] - b.values[quantity])
        of_a, of_b = (c.questions.get(quantity) for c in (a, b))
        paired = of_a is not None and of_b is not None and len(of_a) == len(of_b)
        errors.append(error_of(of_a - of_b) if paired else math.nan)  # type: ignore[operator]
    return mean_of(np.array(values), np.array(errors))


def crossings(
    arm: Results, level: float, along: str = "gain"
) -> dict[Setting, dict[int, Crossing]]:
    """Setting -> seed -> where the run first reaches a level, of an arm's runs that do.

    `along` is a column that is 0 for the base: the gain, or a divergence from the base.
    """
    rows, _ = arm.finite(along, FORGETTING)
    found: dict[Setting, dict[int, Crossing]] = {}
    for setting, run in by_setting(rows):
        reached = np.flatnonzero(run[along] >= level)
        mine = found.setdefault(setting, {})
        if len(reached) and int(run["step"][reached[0]]) > 0:
            mine[int(run["seed"][0])] = _crossing(run, int(reached[0]), level, along)
    return found


def by_setting(arm: Results) -> list[tuple[Setting, Results]]:
    """The runs of an arm in order of their steps, each with what sets it apart in the arm."""
    names = [
        name for name in arm.columns if name.startswith(KNOB) and not name.startswith(BASE_PREFIX)
    ]
    # Written out, NaN is equal to NaN: a knob that no run has sets none apart.
    apart = [name for name in names if len(set(map(_written, arm[name].tolist()))) > 1]
    rate = f"{KNOB}learning_rate"
    if rate in names and rate not in apart:
        apart.append(rate)
    found = []
    for name in dict.fromkeys(arm["run"].tolist()):
        run = arm.select(arm["run"] == name)
        run = run.select(np.argsort(run["step"], kind="stable"))
        setting = tuple(_written(run[knob][0]) for knob in sorted(apart))
        found.append((setting, run))
    return found


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seeds(results: Results, kind: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(units that are reported, those that choose settings; none: the units do)."""
    if KIND not in results:
        return tuple(results.seeds.tolist()), ()
    kinds = results[KIND].astype(str)

    def of(name: str) -> tuple[int, ...]:
        return tuple(np.unique(results["seed"][kinds == name]).tolist())

    return of(kind), of(SELECTION)


def _others(choosing: tuple[int, ...], units: tuple[int, ...], seed: int) -> tuple[int, ...]:
    return choosing or tuple(unit for unit in units if unit != seed) or (seed,)


def _choose(
    gains: Sequence[Mapping[Setting, Mapping[int, Crossing]]], seeds: Sequence[int]
) -> Setting | None:
    """The setting that reaches the gain on most of these seeds; of equals, that forgets least.

    `gains` are crossings at the gain and at lower ones, which count where nothing gets further.
    """
    for runs in gains:
        order: dict[Setting, tuple[int, float]] = {}
        for setting, found in runs.items():
            lost = [found[seed].values[FORGETTING] for seed in seeds if seed in found]
            if lost:
                order[setting] = -len(lost), float(np.mean(lost))
        if order:
            return min(order, key=order.__getitem__)
    return None


def _best(runs: Mapping[Setting, Mapping[int, Crossing]], seed: int) -> Crossing | None:
    found = [mine[seed] for mine in runs.values() if seed in mine]
    return min(found, key=lambda crossing: crossing.values[FORGETTING]) if found else None


def _crossing(run: Results, at: int, level: float, along: str) -> Crossing:
    """Between the checkpoint that first reaches the level and the one before it, or the base."""
    names = quantities(run)
    before = 0.0 if at == 0 else float(run[along][at - 1])
    share = float(np.clip((level - before) / (run[along][at] - before), 0.0, 1.0))

    def between(values: np.ndarray) -> float:
        low = 0.0 if at == 0 else float(values[at - 1])
        return low + share * (float(values[at]) - low)

    values = {name: between(run[name]) for name in names}
    questions = {}
    if at > 0 and run["step"][0] == 0:  # the base's own answers are there
        for name in names:
            place = PRIOR if name == FORGETTING else name.removesuffix("/change")
            bits = [_outcomes(run, place, row) for row in (0, at - 1, at)]
            known = [bit for bit in bits if bit is not None]
            if len(known) == len(bits):
                base, low, high = known
                now = low + share * (high - low)
                questions[name] = base - now if name == FORGETTING else now - base
    return Crossing(values, questions)


def _outcomes(run: Results, place: str, row: int) -> np.ndarray | None:  # f64[n]
    """Right answers to the questions of a place, suite by suite of the prior tasks."""
    whole = f"{OUTCOMES}/{place}"
    names = sorted(n for n in run.columns if n == whole or n.startswith(f"{whole}/"))
    texts = [run[name][row] for name in names]
    if not texts or not all(isinstance(text, str) for text in texts):
        return None
    return np.concatenate([unpack_outcomes(text) for text in texts]).astype(float)
