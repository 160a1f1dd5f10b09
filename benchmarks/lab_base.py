"""The shipped base, measured; and how the response a problem needs grows with its question.

    python -m benchmarks.lab_base

Writes `benchmarks/results/lab_base.json` and `lab_lengths.png` beside it.
"""

import argparse
from pathlib import Path
from statistics import mean

import torch
from matplotlib.figure import Figure
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.record import RESULTS, write
from trainer.lab import BASE, task
from trainer.lab.measure import measure
from trainer.lab.tokenizer import END


def needed_length(tokenizer: PreTrainedTokenizerBase, problem: task.Problem) -> int:
    """Tokens of the shortest right response in the lab's format."""
    return len(tokenizer(task.chain(problem) + END)["input_ids"])


def lengths_figure(
    tokenizer: PreTrainedTokenizerBase,
    problems: list[task.Problem],
    sampled: dict[int, float],
    context_lengths: tuple[int, int, int],
) -> Figure:
    """Response length against question length: needed, and as the base writes.

    Args:
        tokenizer: Counts tokens.
        problems: Problems to draw.
        sampled: Mean response length in tokens of the base by level.
        context_lengths: Of the first, second and third stage, in tokens.
    """
    characters = [len(problem.question) for problem in problems]
    needed = {
        len(problem.question): (needed_length(tokenizer, problem), problem.level)
        for problem in problems
    }
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    ordered = sorted(needed)
    axes.plot(ordered, [needed[x][0] for x in ordered], "o-", label="needed: the reference chain")
    axes.plot(
        ordered, [sampled[needed[x][1]] for x in ordered], "s--", label="written: the base, mean"
    )
    threshold = round(mean(characters))
    axes.axvline(threshold, color="gray", linewidth=1)
    axes.annotate(
        f"mean question, {threshold} characters:\nL1 to the left, L3 to the right",
        (threshold, mean(context_lengths[1:])),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
    )
    for context, stages in zip(context_lengths, ("stage 1", "stages 2, 4", "stage 3"), strict=True):
        axes.axhline(context, color="tab:red", linewidth=1, linestyle=":")
        axes.annotate(
            f"{stages}: {context} tokens",
            (0.01, context),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=9,
            color="tab:red",
        )
    axes.set(
        title="Longer questions need longer responses",
        xlabel="question length (characters)",
        ylabel="response length (tokens)",
        ylim=(0, max(context_lengths) * 1.1),
    )
    axes.legend(loc="lower right", frameon=False)
    return figure


def main() -> None:
    """Measure, print, and write JSON and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200, help="test problems")
    parser.add_argument("--samples", type=int, default=8, help="responses per problem")
    parser.add_argument(
        "--contexts", type=int, nargs=3, default=(48, 96, 144), help="of the stages"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    settings = {
        "rows": given.rows,
        "samples": given.samples,
        "context_length": max(given.contexts),
        "first_context_length": given.contexts[0],
        "temperature": 1.0,
        "seed": 0,
    }
    measured = measure(model, tokenizer, **settings)
    levels = measured["levels"]
    print(f"{'level':>5} {'problems':>9} {'avg@k':>6} {'pass@k':>6} {'cut off':>8} {'tokens':>7}")
    for level, row in [*levels.items(), ("all", measured)]:
        print(
            f"{level:>5} {row['problems']:>9} {row['avg_at_k']:>6.3f} {row['pass_at_k']:>6.3f} "
            f"{row['truncated_first']:>8.3f} {row['tokens_mean']:>7.1f}"
        )
    given.output.mkdir(parents=True, exist_ok=True)
    figure = lengths_figure(
        tokenizer,
        task.different(2048, 0, "train"),
        {level: row["tokens_mean"] for level, row in levels.items()},
        tuple(given.contexts),
    )
    figure.savefig(given.output / "lab_lengths.png", dpi=130)
    write(given.output / "lab_base", {"settings": settings, "measured": measured})


if __name__ == "__main__":
    main()
