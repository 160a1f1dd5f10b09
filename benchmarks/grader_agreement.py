r"""Our decisions beside Math-Verify's, on forms of real answers and on a grid of LaTeX forms.

    python -m benchmarks.grader_agreement [--answers 1500]

Each real answer is rewritten in ways that keep its value and in ways that change it, so what is
right is known. Writes `benchmarks/results/grader_agreement.json`: shares by form, and every
difference in which Math-Verify is right and we are not (answers of the data sets are not shown).
"""

import argparse
import json
import logging
import random
import re
from collections import Counter
from itertools import pairwise, product
from pathlib import Path

from math_verify import parse, verify

from benchmarks.grader_data import real_answers
from benchmarks.machine import about
from trainer.rewards import grade_many

RESULTS = Path(__file__).parent / "results"


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


def math_verify(answer: str, truth: str) -> bool:
    """As its users call it, with its own time limits."""
    return bool(verify(parse(f"${truth}$"), parse(f"The answer is $\\boxed{{{answer}}}$.")))


def main() -> None:
    """Compare, count, and list."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--answers", type=int, default=1500)
    count = asked.parse_args().answers
    logging.disable()
    real = sorted({answer for answers in real_answers() for answer in answers if len(answer) < 200})
    plain = [answer for answer in real if re.fullmatch(r"-?\d+", answer)]
    other = [answer for answer in real if answer not in set(plain)]
    draw = random.Random(0)
    chosen = draw.sample(plain, count // 5) + draw.sample(other, count - count // 5)
    rows = [
        (name, text, answer, right)
        for answer in chosen
        for name, (text, right) in rewritten(answer).items()
    ]
    ours = [
        grade.correct
        for grade in grade_many(
            [f"\\boxed{{{row[1]}}}" for row in rows], [[row[2]] for row in rows]
        )
    ]
    theirs = [math_verify(text, answer) for _, text, answer, _ in rows]
    forms: dict[str, Counter] = {}
    flips = []
    for (name, text, answer, right), we, they in zip(rows, ours, theirs, strict=True):
        found = forms.setdefault(name, Counter())
        found["pairs"] += 1
        found["ours right"] += we == right
        found["Math-Verify right"] += they == right
        if we != right and they == right:
            found["flipped"] += 1
            flips.append((name, text, answer))
            print("flipped:", name, text, "|", answer)
    pairs = grid()
    ours = [
        grade.correct
        for grade in grade_many(
            [f"\\boxed{{{one}}}" for one, _ in pairs], [[two] for _, two in pairs]
        )
    ]
    theirs = [math_verify(one, two) for one, two in pairs]
    differ = [
        {"answer": one, "truth": two, "ours": we, "Math-Verify": they}
        for (one, two), we, they in zip(pairs, ours, theirs, strict=True)
        if we != they
    ]
    record = {
        "command": f"python -m benchmarks.grader_agreement --answers {count}",
        "real": {"answers": len(chosen), "pairs": len(rows), "flipped": len(flips)},
        "forms": {name: dict(found) for name, found in sorted(forms.items())},
        "grid": {"pairs": len(pairs), "differences": len(differ)},
        "differences": differ,
        "machine": about(),
    }
    (RESULTS / "grader_agreement.json").write_text(
        json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    )
    print(record["real"], record["forms"], record["grid"], sep="\n")


if __name__ == "__main__":
    main()
