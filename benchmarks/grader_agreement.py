r"""Our decisions beside Math-Verify's, on forms of real answers and on a grid of LaTeX forms.

    python -m benchmarks.grader_agreement --answers 1500

Each real answer is rewritten in ways that keep its value and in ways that change it, so what is
right is known. Writes `benchmarks/results/grader_agreement.json`: shares by form, and every
difference in which Math-Verify is right and we are not (answers of the data sets are not shown).
"""

import argparse
import logging
import random
import re
from collections import Counter
from itertools import pairwise, product

from benchmarks.grader import math_verify
from benchmarks.grader_data import real_answers
from benchmarks.record import RESULTS, write
from trainer.rewards import grade_many


def rewritten(answer: str) -> dict[str, tuple[str, bool]]:
    """Forms of an answer by name: the text, and whether it is still right."""
    forms = {"same": (answer, True), "dollars": (f"${answer.strip('$ ')}$", True)}
    forms["spaces"] = (re.sub(r"([+=,])", r" \1 ", answer), True)
    if "\\frac" in answer:
        forms["dfrac"] = (answer.replace("\\frac", "\\dfrac"), True)
        swapped = re.sub(r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"\\frac{\2}{\1}", answer, count=1)
        found = re.search(r"\\frac\{([^{}]+)\}\{([^{}]+)\}", answer)
        if found and found[1].strip() != found[2].strip():
            forms["upside down"] = (swapped, False)
        if re.fullmatch(r"-?\\frac\{\d+\}\{\d+\}", answer):
            up, down = map(int, re.findall(r"\d+", answer))
            sign = "-" if answer.startswith("-") else ""
            forms["on one line"] = (f"{sign}{up}/{down}", True)
            forms["not reduced"] = (f"{sign}\\frac{{{3 * up}}}{{{3 * down}}}", True)
    if "\\left" in answer:
        forms["plain brackets"] = (answer.replace("\\left", "").replace("\\right", ""), True)
    if "\\pi" in answer:
        forms["pi as a character"] = (answer.replace("\\pi", "π "), True)
    if re.fullmatch(r"-?\d+", answer):
        number = int(answer)
        forms["decimal"] = (f"{number}.0", True)
        forms["next integer"] = (str(number + 1), False)
        if abs(number) > 999:
            forms["thousands"] = (f"{number:,}", True)
        if number:
            forms["other sign"] = (str(-number), False)
            forms["with x"] = (f"{number}x", False)
    elif not re.search(r"text|mathrm|\\pm|[{<>=,]|\d:\d|[A-Za-z]{3}", answer.replace("\\frac", "")):
        forms["other sign"] = (f"-({answer.strip('$ ')})", False)
    digits = list(re.finditer(r"(?<![\d.])\d(?![\d.])", answer))
    if digits and "!" not in answer:
        place = digits[-1]
        other = str((int(place[0]) + 3) % 8 + 1)
        if other != place[0] and "0" not in answer:
            forms["another digit"] = (
                answer[: place.start()] + other + answer[place.end() :],
                False,
            )
    if pair := re.fullmatch(r"(\\left)?\(([^(),]+),([^(),]+?)(\\right)?\)", answer):
        if pair[2].strip() != pair[3].strip():
            forms["exchanged"] = (f"({pair[3]},{pair[2]})", False)
        forms["sized"] = (f"\\left({pair[2]},{pair[3]}\\right)", True)
    return forms


ATOMS = [
    "2",
    "-3",
    "\\frac{1}{2}",
    "0.25",
    "\\sqrt{2}",
    "\\pi",
    "x",
    "2x+1",
    "\\infty",
    "\\text{no}",
]
WRAPS = {
    "bare": "{a}", "pair": "({a},{b})", "closed": "[{a},{b}]", "half open": "({a},{b}]",
    "set": "\\{{{a},{b}\\}}", "list": "{a},{b}", "named": "y={a}", "unit": "{a}\\text{{ cm}}",
    "sum": "{a}+{b}", "product": "{a} \\cdot {b}",
    "column": "\\begin{{pmatrix}}{a}\\\\{b}\\end{{pmatrix}}",
}  # fmt: skip


def grid() -> list[tuple[str, str]]:
    """Pairs of LaTeX forms; nothing is known of them but that equal texts are equal."""
    forms = sorted(
        {wrap.format(a=a, b=b) for wrap in WRAPS.values() for a, b in product(ATOMS, ATOMS)}
    )
    random.Random(0).shuffle(forms)
    pairs = list(pairwise(forms))
    swaps = [
        (wrap.format(a=a, b=b), wrap.format(a=b, b=a))
        for wrap in WRAPS.values()
        for a, b in product(ATOMS, ATOMS)
        if "{b}" in wrap and a < b
    ]
    across = [
        (WRAPS[one].format(a=a, b=b), WRAPS[two].format(a=a, b=b))
        for a, b in pairwise(ATOMS)
        for one, two in product(WRAPS, WRAPS)
    ]
    return pairs + swaps + across


def chosen(count: int) -> list[str]:
    """So many real answers, a fifth of them integers."""
    real = sorted({answer for answers in real_answers() for answer in answers if len(answer) < 200})
    plain = [answer for answer in real if re.fullmatch(r"-?\d+", answer)]
    other = [answer for answer in real if answer not in set(plain)]
    draw = random.Random(0)
    return draw.sample(plain, count // 5) + draw.sample(other, count - count // 5)


def decisions(pairs: list[tuple[str, str]]) -> list[tuple[bool, bool]]:
    """Whether an answer equals a truth, for each pair: what we say, and what Math-Verify says."""
    grades = grade_many([f"\\boxed{{{answer}}}" for answer, _ in pairs], [[t] for _, t in pairs])
    theirs = [math_verify(f"The answer is $\\boxed{{{one}}}$.", truth) for one, truth in pairs]
    return [(grade.correct, they) for grade, they in zip(grades, theirs, strict=True)]


def on_forms(answers: list[str]) -> dict:
    """Right decisions by form of real answers; `flipped` where Math-Verify alone is right."""
    rows = [
        (name, text, answer, right)
        for answer in answers
        for name, (text, right) in rewritten(answer).items()
    ]
    found: dict[str, Counter] = {}
    both = decisions([(text, answer) for _, text, answer, _ in rows])
    for (name, text, answer, right), (we, they) in zip(rows, both, strict=True):
        form = found.setdefault(name, Counter())
        form["pairs"] += 1
        form["ours right"] += we == right
        form["Math-Verify right"] += they == right
        if we != right and they == right:
            form["flipped"] += 1
            print("flipped:", name, text, "|", answer)
    flipped = sum(form["flipped"] for form in found.values())
    return {
        "real": {"answers": len(answers), "pairs": len(rows), "flipped": flipped},
        "forms": {name: dict(form) for name, form in sorted(found.items())},
    }


def on_grid() -> dict:
    """Every pair of the grid on which we and Math-Verify differ."""
    pairs = grid()
    differ = [
        {"answer": one, "truth": two, "ours": we, "Math-Verify": they}
        for (one, two), (we, they) in zip(pairs, decisions(pairs), strict=True)
        if we != they
    ]
    return {"grid": {"pairs": len(pairs), "differences": len(differ)}, "differences": differ}


def main() -> None:
    """Compare, count, and list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=1500)
    given = parser.parse_args()
    logging.disable()
    found = on_forms(chosen(given.answers)) | on_grid()
    write(RESULTS / "grader_agreement", found)
    print(found["real"], found["forms"], found["grid"], sep="\n")


if __name__ == "__main__":
    main()
