r"""Accuracy, speed and staying power of the grader, beside Math-Verify 0.9.0.

    python -m benchmarks.grader accuracy     # cases by hand, by group
    python -m benchmarks.grader itself       # every answer of the real sets against itself
    python -m benchmarks.grader speed        # one RL batch, side by side in one run
    python -m benchmarks.grader endurance    # 100,000 answers in a row

Each writes `benchmarks/results/grader_<name>.json`.
"""

import argparse
import json
import logging
import random
import time
from collections import Counter

import numpy as np
import psutil

from benchmarks.grader_cases import cases
from benchmarks.grader_data import real_answers
from benchmarks.record import RESULTS, write
from trainer.grading import pool
from trainer.rewards import DEEPSCALER, Limits, answer_is_parsable, configure, grade_many

MIB = 2**20


def math_verify(response: str, truth: str) -> bool:
    """As its users call it: the truth as a formula, the whole response, its own time limits."""
    from math_verify import parse, verify

    return bool(verify(parse(f"${truth}$"), parse(response)))


def accuracy() -> dict:
    """Right decisions on the cases by hand, ours and Math-Verify's, by group."""
    table = cases()
    grades = grade_many([case.response for case in table], [[case.answer] for case in table])
    groups: dict[str, Counter] = {}
    wrong = []
    for case, found in zip(table, grades, strict=True):
        theirs = math_verify(case.response, case.answer)
        group = groups.setdefault(case.group, Counter())
        group["cases"] += 1
        group["ours"] += found.correct == case.expected
        group["Math-Verify"] += theirs == case.expected
        if found.correct != case.expected:
            wrong.append(case._asdict())
    total = sum(groups.values(), Counter())
    return {"total": total, "groups": groups, "ours_wrong": wrong}


def itself() -> dict:
    """Every accepted answer against itself; what is not equal, with its reason."""
    truths = real_answers()
    firsts = [accepted[0] for accepted in truths]
    grades = grade_many([f"\\boxed{{{one}}}" for one in firsts], [[one] for one in firsts])
    lost = [
        {
            "row": row,
            "characters": len(one),
            "reason": str(found.reason),
            "why": "empty" if not one else "its braces do not pair up",
            "refused_before_training": not answer_is_parsable(one),
        }
        for row, (one, found) in enumerate(zip(firsts, grades, strict=True))
        if not found.correct
    ]
    return {"answers": len(firsts), "equal": len(firsts) - len(lost), "not_equal": lost}


def batch(prompts: int, group: int, seed: int) -> tuple[list[str], list[list[str]]]:
    """Responses of an RL step to real training problems; what they say is made up.

    Of each group 40 % are right, 30 % wrong with the answer of another problem, 15 % cut off in
    thought, 15 % garbage. Wrong answers repeat within a group, as a model's do.
    """
    draw = random.Random(seed)
    truths = real_answers("train_L*.parquet")
    draw.shuffle(truths)
    truths = [accepted for accepted in truths if answer_is_parsable(accepted[0])]
    chosen, others = truths[:prompts], truths[prompts:]
    thought = "so we try the next case and count again, which gives 12 + 7 = 19. " * 120
    responses, answers = [], []
    for accepted in chosen:
        mistakes = [draw.choice(others)[0] for _ in range(3)]
        for _ in range(group):
            fate = draw.random()
            end = draw.choice(mistakes) if fate < 0.3 else accepted[0]
            if fate < 0.7:
                text = f"<think>{thought}</think>\n**Answer**\n\\[\\boxed{{{end}}}\\]"
            elif fate < 0.85:
                text = f"<think>{thought}"
            else:
                noise = "".join(draw.choices("\\{}$^_()+-=0123456789abcxyz \n", k=400))
                text = f"<think>{noise}</think>{noise}" + draw.choice(
                    ["", f"\\boxed{{{noise[:30]}}}"]
                )
            responses.append(text)
            answers.append(accepted)
    return responses, answers


def speed() -> dict:
    """One batch of 2,048 responses: ours on all cores, Math-Verify in one process."""
    responses, answers = batch(128, 16, seed=1)
    configured = pool.shared()
    started = time.perf_counter()
    configured.warm()
    start = time.perf_counter() - started
    other, others = batch(8, 4, seed=2)
    grade_many(other, others, form=DEEPSCALER)
    math_verify("\\boxed{x+1}", "1+x")
    started, used = time.perf_counter(), processor(configured)
    grades = grade_many(responses, answers, form=DEEPSCALER)
    ours, our_processor = time.perf_counter() - started, processor(configured) - used
    memory = pool_memory(configured)
    started, used = time.perf_counter(), time.process_time()
    theirs = [
        math_verify(one, accepted[0]) for one, accepted in zip(responses, answers, strict=True)
    ]
    alone, their_processor = time.perf_counter() - started, time.process_time() - used
    seconds = [one.seconds for one in grades]
    return {
        "responses": len(responses),
        "pool_start_seconds": start,
        "ours_seconds": ours,
        "math_verify_seconds": alone,
        "times_faster": alone / ours,
        "ours_processor_seconds": our_processor,
        "math_verify_processor_seconds": their_processor,
        "times_less_processor": their_processor / our_processor,
        "load_average": psutil.getloadavg()[0],
        "p50_ms": 1000 * float(np.quantile(seconds, 0.5)),
        "p99_ms": 1000 * float(np.quantile(seconds, 0.99)),
        "slowest_ms": 1000 * max(seconds),
        "pool_memory_mib": memory,
        "reasons": Counter(str(one.reason) for one in grades),
        "math_verify_right": sum(theirs),
        "note": "Math-Verify sees the whole response, as in its users' reward functions",
    }


def processor(one: pool.Pool) -> float:
    """Processor time of this process and of the processes of a pool, so far."""
    head = psutil.Process(one.pid)
    times = [process.cpu_times() for process in (head, *head.children())]
    return time.process_time() + sum(used.user + used.system for used in times)


def pool_memory(one: pool.Pool) -> dict[str, float]:
    """Memory of a pool's processes: each page once (PSS), and as if nothing were shared (RSS)."""
    if one.pid is None:
        return {"pss": 0.0, "rss": 0.0, "processes": 0}
    head = psutil.Process(one.pid)
    family = [head, *head.children()]
    return {
        "pss": sum(process.memory_full_info().pss for process in family) / MIB,
        "rss": sum(process.memory_info().rss for process in family) / MIB,
        "processes": len(family),
    }


def endurance(count: int = 100_000) -> dict:
    """Answers in a row, no two alike to the cache: memory and processes at each tenth."""
    draw = random.Random(0)
    rows = []
    started = time.perf_counter()
    for tenth in range(10):
        responses, answers = [], []
        for number in range(tenth * count // 10, (tenth + 1) * count // 10):
            kind = number % 20
            if kind == 0:  # for math-verify, right or wrong
                text, truth = (
                    f"(x+{number})^2",
                    f"x^2+{2 * number}x+{number**2 + draw.randint(0, 1)}",
                )
            elif number % 5_000 == 1:
                text, truth = f"{number}^{{9^{{9^9}}}}", "x"
            else:
                text, truth = (
                    f"\\frac{{{number}}}{{7}}+\\sqrt{{{kind}}}",
                    f"\\sqrt{{{kind}}}+{number}/7",
                )
            responses.append(f"<think></think>\\boxed{{{text}}}")
            answers.append([truth])
        grades = grade_many(responses, answers, form=DEEPSCALER)
        us = psutil.Process()
        rows.append(
            {
                "answers": (tenth + 1) * count // 10,
                "right": sum(one.correct for one in grades),
                "own_rss_mib": us.memory_info().rss / MIB,
                "pool_mib": pool_memory(pool.shared()),
                "zombies": sum(p.status() == "zombie" for p in us.children(recursive=True)),
                "seconds": time.perf_counter() - started,
            }
        )
        print(rows[-1])
    return {"answers": count, "rows": rows}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    measures = {one.__name__: one for one in (accuracy, itself, speed, endurance)}
    parser.add_argument("what", choices=measures)
    name = parser.parse_args().what
    logging.disable()
    configure(Limits(seconds=2.0))
    found = measures[name]()
    write(RESULTS / f"grader_{name}", found)
    print(json.dumps({k: v for k, v in found.items() if k not in ("rows", "ours_wrong")})[:3000])


if __name__ == "__main__":
    main()
