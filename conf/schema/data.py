"""The training problems: where they come from, and their division into prompt sets."""

from typing import Annotated, Literal

from pydantic import Field

from conf.schema.knobs import NAME, SEEDS, Knobs, knob

Characters = Annotated[int, Field(gt=0)]


class Source(Knobs):
    """Where a set of problems comes from."""

    name: str = knob(
        "train", "Name of the set, used in folders, tables and metric names.", "name", pattern=NAME
    )
    kind: Literal["lab", "hub", "file"] = knob(
        "lab", "lab: made by seeded code; hub: a Hugging Face dataset; file: local files.", "choice"
    )
    path: str | list[str] = knob(
        "", "hub: dataset name; file: one or several parquet, json or jsonl files.", "path"
    )
    files: list[str] = knob(
        list, "hub: files of the repository to read; none: those its card names.", "paths"
    )
    revision: str = knob("main", "hub: commit, tag or branch to read.", "git revision")
    split: str = knob(
        "train", "hub: split to read; lab: `train` or `test`, never overlapping.", "name"
    )
    rows: int = knob(2048, "lab: problems to make.", "problems", gt=0)
    seed: int = knob(0, "lab: seed of the problems.", "seed", **SEEDS)


class Segmentation(Knobs):
    """How the training set is divided into prompt sets L1 (short), L2 (all) and L3 (long)."""

    length_of: Literal["raw_question", "repr_chat"] = knob(
        "raw_question",
        "What is measured: the question without the instruction, or str() of the chat list.",
        "choice",
    )
    threshold: Characters | Literal["mean"] = knob(
        "mean", "Longest prompt of L1; mean: the rounded mean length of the set.", "characters"
    )


class Data(Knobs):
    """The training problems and their division into prompt sets."""

    train: Source = knob(Source, "The training set.", "source")
    instruction: str = knob(
        "Let's think step by step and output the final answer within \\boxed{}.",
        "Instruction that ends each prompt; it is taken off where lengths are of the raw question.",
        "text",
    )
    segmentation: Segmentation = knob(Segmentation, "Division into L1, L2 and L3.", "rule")
    unanswerable: Literal["refuse", "keep"] = knob(
        "refuse",
        "Problems without an answer to grade by: refuse to start, or keep them, never right.",
        "choice",
    )
    max_prompt_length: int = knob(
        1024, "Longest prompt admitted, chat template included.", "tokens", gt=0
    )
