"""The process that `latex.py` starts: pairs of LaTeX texts in, one verdict a line out.

Run by its path, so that it imports nothing of rlrazor and so no jax. The limits are the kernel's:
no exception handler of sympy's can swallow them, and they hold should the parent be gone.
"""

import contextlib
import functools
import json
import logging
import signal
import sys
from typing import Any


def limit_memory(size: int) -> None:
    """`size` in bytes of address space; systems that cannot limit it are left alone."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))


def plausible(one: Any, other: Any) -> bool:
    """Whether two expressions that `verify` calls equal may be so.

    It compares six decimals, so that all tiny numbers are alike; it takes an equation for its right
    side, whatever is on the left; and where both are equations it can be content with one side.
    """
    import sympy
    from sympy.core.function import AppliedUndef

    equations = isinstance(one, sympy.Eq), isinstance(other, sympy.Eq)
    if all(equations):
        ratio = sympy.simplify((one.lhs - one.rhs) / (other.lhs - other.rhs))
        return bool(ratio.is_number and ratio.is_nonzero)
    if any(equations):
        equation, value = (one, other) if equations[0] else (other, one)
        name = equation.lhs
        named = name.is_Symbol or isinstance(name, AppliedUndef)
        named = named or (name.is_Mul and all(factor.is_Symbol for factor in name.args))
        return bool(named) and plausible(equation.rhs, value)
    if not all(isinstance(x, sympy.Expr) and x.is_number for x in (one, other)):
        return True
    apart, size = abs(sympy.N(one - other, 20)), abs(sympy.N(one, 20)) + abs(sympy.N(other, 20))
    return bool(apart <= 1e-6 * size)


def main(cpu_seconds: float, memory: int) -> None:
    """Answers until the input ends. A pair that takes longer ends the process by a signal."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints is no answer
    logging.disable(logging.CRITICAL)
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    limit_memory(memory)
    # Units are not taken away: they would make 5m equal to 5 for whatever m is.
    spelling = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all"
    )
    readers = (LatexExtractionConfig(normalization_config=spelling),)

    @functools.lru_cache(maxsize=1024)
    def expressions(text: str) -> list:
        """Without the texts that `parse` adds: two unparsable ones would be equal by them."""
        found = parse(f"${text}$", readers, parsing_timeout=None)  # type: ignore[arg-type]
        return [expression for expression in found if not isinstance(expression, str)]

    def equal(gold: str, answer: str) -> bool:
        wanted, said = expressions(gold), expressions(answer)
        if not (wanted and said and verify(wanted, said, timeout_seconds=None)):
            return False
        return any(plausible(one, other) for one in wanted for other in said)

    equal(r"\frac{1}{2}", "x=0.5")  # whatever is imported at the first use is nobody's time
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        if hasattr(signal, "setitimer"):  # SIGPROF is left at its default, which is to end
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            verdict = "equal" if equal(*json.loads(line)) else "different"
        except MemoryError:
            verdict = "limit"
        except Exception:  # sympy raises whatever it likes on what a model says
            verdict = "different"
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(verdict, file=answers, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        main(float(sys.argv[1]), int(sys.argv[2]))
