"""Success under both rules as rows of text; intervals in brackets, points or percent."""

from collections.abc import Sequence

from rlrazor.analysis.figures import number
from rlrazor.analysis.results import Results
from rlrazor.analysis.shift import Budget, Early, Shift, by_seed
from rlrazor.analysis.shift_series import Curve, Pair
from rlrazor.analysis.shift_words import words
from rlrazor.analysis.statistics import Interval, t_interval
from rlrazor.analysis.style import Styles
from rlrazor.analysis.tables import Table, make_table


def shift_table(
    entries: Sequence[Shift], names: Styles, place: str, early: Early | None = None
) -> Table:
    say = words(place)
    rows = [
        (
            names[e.arm].name,
            _hundredths(e.success["new"]),
            _hundredths(e.change["new"]),
            _hundredths(e.success[place]),
            _hundredths(e.change[place]),
            _hundredths(e.since_start),
            _hundredths(e.forgetting),
            str(e.n_runs),
            str(e.n_seeds),
            str(e.n_excluded),
        )
        for e in entries
    ]
    note = ""
    if early is not None:
        new, ood = (t_interval(early.success[task]) for task in ("new", place))
        up, other = (t_interval(early.change[task]) for task in ("new", place))
        found = (_hundredths(new), _hundredths(up), _hundredths(ood), _hundredths(other))
        seeds = str(len(early.seeds))
        rows.append((f"Best early SFT (step {early.step})", *found, "", "", "", seeds, ""))
        note = (
            f" Best early SFT: of {early.n_steps} checkpoints the one that generalizes best on "
            "average over seeds, chosen by that very score, which flatters SFT; with the step "
            f"chosen by the other seeds it succeeds in {_hundredths(t_interval(early.held_out))} %."
        )
    return make_table(
        "Success at the first answer in percent, and its change since the base in points, at the "
        "last checkpoint [95 %]. Since its start: since the run's own step 0, which differs where "
        "a run starts from an SFT checkpoint. Excluded: runs whose last line has no finite "
        f"change.{note}",
        (
            "Method",
            f"Trained {say.thing}, %",
            "Change",
            f"{say.other.capitalize()}, %",
            "Change",
            "Since its start",
            "Forgetting",
            "Runs",
            "Seeds",
            "Excluded",
        ),
        rows,
    )


def learnt_table(results: Results, names: Styles) -> Table:
    """Success on the new task at the last checkpoints; ValueError where no run has ended."""
    last, seeds = results.final(), results.seeds
    rows = []
    for arm in last.arms:
        mine = last.of_arms(arm)
        means = [t_interval(by_seed(mine, name, seeds)) for name in ("new/accuracy", "gain")]
        shown = (number(mean, 100, 1) for mean in means)
        rows.append((names[arm].name, *shown, str(mine.n_runs), str(len(mine.seeds))))
    if not rows:
        raise ValueError("no run has a last checkpoint")
    return make_table(
        "Success on the new task in percent, and its change since the base in points, at the last "
        "checkpoint [95 %].",
        ("Method", "Success, %", "Change", "Runs", "Seeds"),
        rows,
    )


def turns_table(budgets: Sequence[Budget], names: Styles, place: str) -> Table:
    thing, other = words(place).thing, words(place).other
    first = {b.method: b.arm for b in reversed(budgets)}  # of the fewest turns
    rows = [
        (
            names[first[b.method]].name,
            str(b.turns),
            *(_hundredths(b.first[task]) for task in ("new", place)),
            *(_hundredths(b.within[task]) for task in ("new", place)),
            str(b.n_runs),
            str(b.n_seeds),
        )
        for b in budgets
    ]
    return make_table(
        "Change of success since the base in points [95 %], by the turns of a training episode at "
        "matched generations. First: at the first answer. Within: within so many turns, against "
        "the base within so many turns, so retries alone gain nothing.",
        (
            "Method",
            "Turns",
            f"First, trained {thing}",
            f"First, {other}",
            f"Within, trained {thing}",
            f"Within, {other}",
            "Runs",
            "Seeds",
        ),
        rows,
    )


def pairs_table(
    pairs: Sequence[Pair],
    names: Styles,
    caption: str,
    heads: tuple[str, str],  # of the two columns
    *,
    folded: bool = False,
) -> Table:
    first, second = heads
    rows = [
        (
            names[p.arm].name,
            _hundredths(p.first),
            _hundredths(p.second),
            _hundredths(p.difference),
            str(p.n_runs),
            str(p.n_seeds),
            str(p.n_excluded),
        )
        for p in pairs
    ]
    head = ("Method", f"{first}, %", f"{second}, %", "Difference, points")
    return make_table(caption, (*head, "Runs", "Seeds", "Excluded"), rows, folded=folded)


def tries_table(curves: Sequence[Curve], names: Styles, rule: str) -> Table:
    """pass@k at the smallest, a middle and the largest k."""
    ks = curves[0].x
    picks = sorted({0, len(ks) // 2, len(ks) - 1})
    rows = [
        (
            names[c.arm].name if c.arm else "Base",
            *(_hundredths(Interval(c.y[i], c.low[i], c.high[i], c.n_seeds)) for i in picks),
            str(c.n_runs),
            str(c.n_seeds),
        )
        for c in curves
    ]
    return make_table(
        f"Solved within k tries under the {rule}, percent [95 %], at the last checkpoint.",
        ("Method", *(f"k = {ks[i]:g}" for i in picks), "Runs", "Seeds"),
        rows,
    )


def _hundredths(interval: Interval) -> str:
    """Percent of a success, percentage points of a change."""
    return number(interval, 100, 1)
