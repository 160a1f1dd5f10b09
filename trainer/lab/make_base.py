"""Makes the lab's base model: a model that knows how, but is sloppy and rambles.

    python -m trainer.lab.make_base            # about ten minutes on one core

Reinforcement learning sharpens what a model can already do now and then. So the base is taught, by
plain supervision, in two parts: first to solve; then on traces in which some results slip, at
random and with all that follows consistent, and some steps are gone through again and again. Both
are habits that it can drop: the right behaviour stays its likeliest, and it is short.

Writes `base/`: config, weights in 16 bits, tokenizer, and `base.json` with the hash of this script,
the seed, the settings and what was measured.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from trainer.lab import BASE, task
from trainer.lab.measure import measure, prompt_ids
from trainer.lab.tokenizer import AGAIN, END, new_tokenizer


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the base becomes.

    Attributes:
        seed: Of weights and data.
        clean_steps: Supervised steps on clean chains.
        habit_steps: Supervised steps on chains with the habits below.
        batch_size: Chains per step.
        learning_rate: Largest; it warms up over 100 steps and falls to a tenth along a cosine.
        slip: Chance that the result of a chain's first step is a random other digit.
        slip_growth: What each further step adds to that chance: attention wanes along a chain, so
            that short problems do not teach all that long ones need.
        again: Chance that a finished step is gone through again.
        linger: Chance that, having gone through it again, the same step is once more.
        first_context_length: Tokens of the first stage that the base is measured against.
        context_length: Tokens of the longest stage, at which the base is measured.
    """

    seed: int = 0
    clean_steps: int = 400
    habit_steps: int = 250
    batch_size: int = 64
    learning_rate: float = 2e-3
    slip: float = 0.05
    slip_growth: float = 0.009
    again: float = 0.04
    linger: float = 0.85
    first_context_length: int = 48
    context_length: int = 144

    @property
    def habits(self) -> dict[str, float]:
        """The chances that make a chain sloppy and long."""
        return {name: getattr(self, name) for name in ("slip", "slip_growth", "again", "linger")}


def new_model(tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """A model of Qwen2's shape with random weights, just large enough for the task."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=0.05,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )


def habitual_chain(
    problem: task.Problem,
    rng: random.Random,
    *,
    slip: float = 0,
    slip_growth: float = 0,
    again: float = 0,
    linger: float = 0,
) -> str:
    """A chain with slips and repetitions; with neither, the reference chain.

    A slip is carried on: the following steps start from the wrong digit. A step that is gone
    through again comes out as it did before, so repetition costs tokens and mends nothing. The
    chances are those of `Recipe`.
    """
    value = problem.start
    lines = [f"={value};"]
    for index, (step, operand) in enumerate(zip(problem.steps, problem.operands, strict=True)):
        value = (value + operand) % 10
        if rng.random() < slip + slip_growth * index:
            value = (value + rng.randrange(1, 10)) % 10
        lines.append(f"{step}={value};")
        repeat = rng.random() < again
        while repeat:
            lines.append(f"{AGAIN}{step}={value};")
            repeat = rng.random() < linger
    return f"{''.join(lines)}</think>\\boxed{{{value}}}"


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids and labels [B, T], clean chains first; labels are -100 on prompts and padding."""
    rng = random.Random(recipe.seed)
    source = task.draw(recipe.seed, "train")
    for step in range(recipe.clean_steps + recipe.habit_steps):
        habits = {} if step < recipe.clean_steps else recipe.habits
        pairs = []
        for _ in range(recipe.batch_size):
            problem = next(source)
            text = habitual_chain(problem, rng, **habits) + END
            response = tokenizer(text)["input_ids"][: recipe.context_length]
            pairs.append((prompt_ids(tokenizer, problem.question), response))
        width = max(len(prompt) + len(response) for prompt, response in pairs)
        ids = torch.full((len(pairs), width), tokenizer.pad_token_id)
        labels = torch.full((len(pairs), width), -100)
        for row, (prompt, response) in enumerate(pairs):
            whole = torch.tensor(prompt + response)
            ids[row, : len(whole)] = whole
            labels[row, len(prompt) : len(whole)] = whole[len(prompt) :]
        yield ids, labels


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step: linear warm-up, then a cosine down to a tenth."""
    done = step / (recipe.clean_steps + recipe.habit_steps)
    falling = 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2
    return recipe.learning_rate * falling * min(1.0, (step + 1) / 100)


def train(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """The trained base, rounded to the 16 bits that it is stored in."""
    torch.manual_seed(recipe.seed)
    model = new_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    started = time.monotonic()
    for step, (ids, labels) in enumerate(batches(recipe, tokenizer)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"{step:5d}  loss {loss:.4f}  {time.monotonic() - started:6.1f} s", flush=True)
    return model.half().float()


def corpus_digest(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the first 256 chains with habits, as tokens.

    It changes with the task, the tokenizer and the chat format, none of which this script holds.
    """
    rng = random.Random(recipe.seed)
    digest = hashlib.sha256()
    for problem in islice(task.draw(recipe.seed, "train"), 256):
        text = habitual_chain(problem, rng, **recipe.habits) + END
        digest.update(repr(prompt_ids(tokenizer, problem.question)).encode())
        digest.update(repr(tokenizer(text)["input_ids"]).encode())
    return digest.hexdigest()


def script_digest() -> str:
    """Hash of this file, which stands in `base.json`."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, facts: dict, folder: Path):
    """Writes the base aside, then puts it in place of the one before."""
    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    model.half().save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    GenerationConfig(do_sample=True, temperature=1.0, **ends).save_pretrained(aside)
    # Stored in 16 bits, used in 32: what `from_pretrained` takes when it is not told.
    config = json.loads((aside / "config.json").read_text())
    (aside / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
    (aside / "base.json").write_text(json.dumps(facts, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)


def main() -> None:
    """Trains, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=BASE, help="folder to write")
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    chosen = vars(parser.parse_args())
    output = chosen.pop("output")
    recipe = Recipe(**chosen)
    torch.set_num_threads(1)  # sums in one order, whatever the machine's cores

    tokenizer = new_tokenizer()
    started = time.monotonic()
    model = train(recipe, tokenizer)
    seconds = round(time.monotonic() - started)
    settings = {
        "rows": 200,
        "samples": 8,
        "context_length": recipe.context_length,
        "first_context_length": recipe.first_context_length,
    }
    measured = measure(model, tokenizer, **settings)
    facts = {
        "script": "trainer/lab/make_base.py",
        "script_sha256": script_digest(),
        "corpus_sha256": corpus_digest(recipe, tokenizer),
        "recipe": asdict(recipe),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": seconds,
        "measured": {"settings": settings | {"temperature": 1.0, "seed": 0}, **measured},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    save(model, tokenizer, facts, output)
    print(json.dumps(facts["measured"], indent=2))


if __name__ == "__main__":
    main()
