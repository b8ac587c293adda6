"""Equality of mathematics: what is equal, that it ends, and that its processes do."""

import subprocess
import sys
import threading

import pytest

from rlrazor.tasks.questions import latex
from rlrazor.tasks.questions.latex import DIFFERENT, EQUAL, LIMIT, equalities

pytest.importorskip("math_verify")
ENDLESS = ("2", r"9^{9^{9^{9}}}")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"3\sqrt{13}", r"\sqrt{117}"),
        ("12", "x=12"),
        ("x=12", "12"),
        (r"\{1,2\}", r"\{2,1\}"),
        ("10,20", "20,10"),
        ("(1,2)", r"\left( 1,2 \right)"),
        ("y=2x+1", "y-2x=1"),
        ("x<y", "y>x"),
        (r"\binom{5}{2}", "10"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    ],
)
def test_equal(gold, answer):
    assert equalities([(gold, answer)]) == [EQUAL]


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"3\sqrt{13}", r"\sqrt{118}"),
        ("[1,2)", "[1,2]"),
        ("(1,2)", "(2,1)"),
        ("5m", "5"),
        ("x+y=1", "1"),  # verify itself takes an equation for its right side
        ("|f_n - g_n| = 1", "|f_n - g_n| = 9"),
        (r"\frac{1}{20^{2012}}", r"\frac{4}{20^{2012}}"),  # equal in six decimals
        (r"\frac{\sqrt2}{10^9}", r"\frac{\sqrt3}{10^9}"),
        (r"\det(A) > 0", r"-\det(A) > 0"),
        (r"\foo{", r"\foo{"),  # of a gold that cannot be parsed nothing is right
        ("???", "???"),
        ("", ""),
        ("1" * 5000, "1" * 5000),
    ],
)
def test_different(gold, answer):
    assert equalities([(gold, answer)]) == [DIFFERENT]


def test_what_does_not_end_is_ended_and_the_next_is_judged():
    pairs = [ENDLESS, ("2", "1+1"), ENDLESS, ("2", "1+2")]
    assert equalities(pairs) == [LIMIT, EQUAL, LIMIT, DIFFERENT]


def test_it_works_in_threads():
    found = {}

    def ask(n):
        found[n] = equalities([(str(n), f"{n - 1}+1"), (str(n), f"{n}+1")])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(100, 108)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [EQUAL, DIFFERENT] for n in range(100, 108)}


def test_a_killed_process_is_replaced():
    assert equalities([("7", "3+4")]) == [EQUAL]
    latex.stop_processes()
    assert equalities([("8", "3+5")]) == [EQUAL]


def test_the_processes_end_with_the_program():
    program = (
        "from rlrazor.tasks.questions import latex\n"
        "assert latex.equalities([('5', '2+3')]) == ['equal']\n"
        "print(*[w.process.pid for w in latex._WORKERS if w.process])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    (pid,) = done.stdout.split()
    assert done.stderr == ""
    assert subprocess.run(["kill", "-0", pid], capture_output=True).returncode != 0


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(latex, "installed", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'rlrazor\[judges\]'"):
        equalities([("1", "1")])


def test_a_process_that_cannot_start_is_named(monkeypatch):
    monkeypatch.setattr(latex, "_PROGRAM", latex._PROGRAM.with_name("nothing.py"))
    latex.stop_processes()
    with pytest.raises(ValueError, match="math-verify cannot be imported by"):
        equalities([("17", "8+9")])
    monkeypatch.undo()
    assert equalities([("17", "8+9")]) == [EQUAL]
