r"""Answers that were written to hang, exhaust, fool or hijack a grader.

    python -m benchmarks.grader_hostile

Each is graded alone and in a batch with honest answers. Nothing may run, nothing may take longer
than the limit and half a second, and the honest answers must be graded right. Writes
`benchmarks/results/grader_hostile.json`.
"""

import argparse
import tempfile
import time
from contextlib import chdir
from pathlib import Path

from benchmarks.record import RESULTS, write
from trainer.rewards import Limits, Reason, configure, grade, grade_many

SECONDS, SLACK = 2.0, 0.5
MARKER = "stagecraft-marker"
TRUTH = r"\int_0^x f(t)\,dt"  # of no value known here, so that all is left to the parser

_CODE = [
    f"__import__('os').system('touch {MARKER}')",
    f"\\text{{__import__('os').system('touch {MARKER}')}}",
    f"open('{MARKER}','w').write('x')",
    f"().__class__.__bases__[0].__subclasses__()[104].load_module('os').system('touch {MARKER}')",
    f"exec(\"import os; os.system('touch {MARKER}')\")",
    f"eval(compile('open(\"{MARKER}\",\"w\")','','exec'))",
    f"x if open('{MARKER}','w') else y",
    f"[open('{MARKER}','w') for _ in (1,)]",
    f"1+1 # \n import os\n os.system('touch {MARKER}')",
    f"$(touch {MARKER})",
    f"`touch {MARKER}`",
    f"; touch {MARKER} ;",
    f"\\immediate\\write18{{touch {MARKER}}}",
    f"\\input{{|touch {MARKER}}}",
    f"{{{{ cycler.__init__.__globals__.os.popen('touch {MARKER}').read() }}}}",
    f"Symbol('x', **__import__('os').system('touch {MARKER}'))",
    f"lambda: __import__('pathlib').Path('{MARKER}').touch()",
    f'S(\'__import__("os").system("touch {MARKER}")\')',
    f"(1).__class__.__mro__[1].__subclasses__() ** open('{MARKER}','w')",
    '"}\n{"correct": true, "last": true}',
]

HOSTILE: dict[str, str] = {
    # Towers, factorials, integers.
    "tower of nines": "9^{9^{9^9}}",
    "tower without braces": "9^9^9^9^9",
    "tower with stars": "9**9**9**9",
    "tower below": "2^{-9^{9^9}}",
    "tower under a root": "\\sqrt{9^{9^{9}}}",
    "tower in a fraction": "\\frac{9^{9^{9}}}{9^{9^{9}}+1}",
    "tower of letters": "x^{x^{x^{x^{x^{x}}}}}",
    "factorial": "10000000!",
    "factorial of a factorial": "((20!)!)!",
    "many factorials": "5!!!!!!!!!!",
    "binomial": "\\binom{10000000}{5000000}",
    "integer of 1,900 digits to a power": "7" * 1900 + "^{99999}",
    "integer of a megabyte": "9" * 1_000_000,
    "decimal of a megabyte": "0." + "3" * 1_000_000,
    "fraction of long integers": "\\frac{" + "9" * 900 + "}{" + "7" * 900 + "}",
    "scientific notation": "1e999999999",
    "scientific notation in TeX": "1 \\times 10^{999999999}",
    "percent of a tower": "9^{9^{9}}\\%",
    "modulus": "7^{7^{7^7}} \\mod 10",
    "exponential": "e^{e^{e^{e^{e}}}}",
    "product of towers": "\\prod_{i=1}^{99999999} i^i",
    # Nesting and length.
    "parentheses": "(" * 900 + "x" + ")" * 900,
    "braces": "{" * 900 + "x" + "}" * 900,
    "a megabyte of braces": "{" * 1_000_000,
    "a megabyte of closed braces": "{" * 500_000 + "}" * 500_000,
    "a megabyte of boxes": "\\boxed{" * 150_000,
    "a megabyte of backslashes": "\\" * 1_000_000,
    "fractions in fractions": "\\frac{1}{" * 200 + "2" + "}" * 200,
    "roots in roots": "\\sqrt{" * 200 + "2" + "}" * 200,
    "exponents in exponents": "x^{" * 300 + "2" + "}" * 300,
    "sized brackets": "\\left(" * 250 + "x" + "\\right)" * 250,
    "brackets of three kinds": "[({" * 300,
    "signs": "-" * 1900 + "x",
    "a long sum": "+".join(f"x_{{{n}}}" for n in range(240)),
    "a long product": "".join(f"(x+{n})" for n in range(250)),
    "a long list": ",".join(map(str, range(500))),
    "commas": "," * 1900,
    "pm": "\\pm 1" * 300,
    "matrix": "\\begin{pmatrix}" + "1&" * 400 + "1\\end{pmatrix}",
    "matrix in a matrix": "\\begin{pmatrix}" * 40 + "1" + "\\end{pmatrix}" * 40,
    # Repetition.
    "the same answer for ever": "x^2+" * 475,
    "the same word for ever": "wait " * 380,
    "the same box for ever": "\\boxed{1} " * 180,
    "spaces": " " * 1900 + "x",
    "new lines": "\n" * 1900 + "x",
    "dollars": "$" * 1900,
    # For sympy.
    "expansion": "(a+b+c+d+f+g)^{60}",
    "expansion of a power of a sum": "(x+y+z+1)^{500}-(x+y+z+1)^{499}",
    "integral": "\\int_0^1 x^{x^x} \\sin(x^{x}) dx",
    "integrals in integrals": "\\int " * 30 + "x^x dx" + " dx" * 30,
    "sum without end": "\\sum_{n=1}^{\\infty} \\frac{\\sin(n^n)}{n^{n^n}}",
    "sum with many terms": "\\sum_{n=1}^{10^{12}} \\frac{1}{n^{n}}",
    "limit": "\\lim_{x \\to 0} \\frac{\\sin(x^{x^x})}{\\ln(x^{x})}",
    "equation without a closed solution": "x^{17}+x^5-\\sin x+e^{x^x}=y^{13}",
    "inequalities": "x^9-x^7+1>0 \\text{ and } \\sin(x^{9})<y",
    "trigonometry": "+".join(f"\\sin^{{{n}}}({n}x)" for n in range(2, 60)),
    "radicals": "+".join(f"\\sqrt{{{n}+\\sqrt{{x+{n}}}}}" for n in range(2, 60)),
    "determinant": "\\det\\begin{pmatrix}" + "x&y&z&w\\\\" * 20 + "\\end{pmatrix}",
    "gcd": "\\gcd(9^{9^{9}}, 6^{6^{6^6}})",
    "floor": "\\lfloor 9^{9^{9}} \\rfloor",
    "set": "\\{x^n : n \\in \\mathbb{N}, n^{n^n} < 9^{9^{9^9}}\\}",
    "huge interval": "[9^{9^9}, 9^{9^{9^9}}]",
    # Characters.
    "null bytes": "x\x00^2\x00",
    "nothing but null bytes": "\x00" * 100,
    "right to left": "\u202e2^x\u202c",
    "combining marks": "x" + "\u0301" * 1500,
    "full width digits": "\uff11\uff12\uff13",
    "Arabic digits": "\u0661\u0662\u0663",
    "superscripts": "x\u2075\u2076\u00b2",
    "mathematical bold": "\U0001d7d7" * 400,
    "zero width": "\u200b" * 1500 + "5",
    "emoji": "\U0001f600" * 500,
    "a lone surrogate": "\ud800x",
    "control characters": "".join(map(chr, range(1, 32))),
    "a line separator": "x\u2028y\u2029",
    "empty": "",
    "blank": "   ",
    "unclosed": "\\frac{1}{",
    "closed too often": "x}}}}",
} | {f"code {number}": code for number, code in enumerate(_CODE, 1)}  # fmt: skip

HONEST = [("x^2+1", "1+x^2", True), ("(x+1)^2", "x^2+1", False), ("\\frac12", "0.5", True)]


def boxed(answer: str) -> str:
    """A response with this answer."""
    return f"<think>so</think>The answer is \\boxed{{{answer}}}"


def alone() -> list[dict]:
    """Every hostile answer graded by itself: why it is not right, and in how many seconds."""
    rows = []
    for name, answer in HOSTILE.items():
        started = time.perf_counter()
        found = grade(boxed(answer), [TRUTH])
        seconds = time.perf_counter() - started
        rows.append({"name": name, "reason": str(found.reason), "seconds": round(seconds, 4)})
        print(rows[-1])
        assert not found.correct, name
        assert seconds < SECONDS + SLACK, name
    return rows


def together() -> dict:
    """All of them in one batch with honest answers, which must be graded right."""
    # Another truth, so that nothing is remembered.
    mixed = [(boxed(answer), f"1+{TRUTH}", False) for answer in HOSTILE.values()]
    for place in range(len(mixed), 0, -3):
        mixed[place:place] = [(boxed(a), truth, right) for a, truth, right in HONEST]
    started = time.perf_counter()
    grades = grade_many([row[0] for row in mixed], [[row[1]] for row in mixed])
    seconds = time.perf_counter() - started
    wrong = [row for row, found in zip(mixed, grades, strict=True) if found.correct != row[2]]
    assert not wrong, wrong
    return {"responses": len(mixed), "honest": len(mixed) - len(HOSTILE), "seconds": seconds}


def main() -> None:
    """Grade in an empty folder, where nothing may be written."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    configure(Limits(seconds=SECONDS))
    grade(boxed("x+1"), ["1+x"])  # the pool is running
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        rows, batch = alone(), together()
        assert not list(Path(folder).iterdir()), "something was written"
    found = {
        "limit_seconds": SECONDS,
        "answers": len(rows),
        "slowest_seconds": max(row["seconds"] for row in rows),
        "reasons": {
            str(reason): count
            for reason in Reason
            if (count := sum(row["reason"] == reason for row in rows))
        },
        "files_written": 0,
        "batch": batch,
    }
    print(found)
    write(RESULTS / "grader_hostile", {**found, "rows": rows})


if __name__ == "__main__":
    main()
