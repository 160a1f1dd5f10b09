"""The lab's four-stage curriculum in a plain PyTorch loop, without verl or any orchestration.

    python -m benchmarks.lab_loop --seed 0 --output benchmarks/results/lab_loop_seed0.json

The yardstick for the pipeline: what the same stages learn, and how fast, where nothing stands
between sampler and optimizer.

Shapes: P prompts in a batch, G rollouts per prompt, R = P * G rollouts, T tokens.
"""

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.record import write
from trainer.lab import BASE, task
from trainer.lab.measure import measure, prompt_ids
from trainer.sampling import Sample, sample, seed_of


@dataclass(frozen=True)
class Loop:
    """Settings of all stages; lengths in tokens, sizes in prompts."""

    seed: int = 0
    steps: tuple[int, ...] = (8, 12, 8, 12)
    context_lengths: tuple[int, ...] = (48, 96, 144, 96)
    prompt_sets: tuple[str, ...] = ("L1", "L2", "L3", "L2")
    learning_rate: float = 3e-5
    batch_size: int = 32
    mini_batch_size: int = 16
    group_size: int = 8
    temperature: float = 1.0
    advantage: str = "grpo"
    loss_average: str = "token-mean"
    clip: float = 0.2
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    train_rows: int = 2048
    train_seed: int = 0
    test_rows: int = 200
    test_samples: int = 8
    evaluate_each: bool = True


def prompt_sets(questions: list[str]) -> dict[str, list[str]]:
    """FastCuRL's sets by the mean rule: L1 up to the mean length, L2 all, L3 the rest."""
    threshold = round(mean(map(len, questions)))
    return {
        "L1": [question for question in questions if len(question) <= threshold],
        "L2": questions,
        "L3": [question for question in questions if len(question) > threshold],
    }


def advantages(rewards: Tensor, kind: str) -> Tensor:
    """[P, G] rewards to [P, G] advantages: `grpo` or `rloo`, as in verl."""
    centred = rewards - rewards.mean(dim=-1, keepdim=True)
    if kind == "rloo":
        return centred * rewards.shape[-1] / (rewards.shape[-1] - 1)
    return centred / (rewards.std(dim=-1, keepdim=True) + 1e-6)


def pack(prompts: list[list[int]], drawn: list[Sample], pad: int) -> tuple[Tensor, ...]:
    """Ids [R, T], mask of response tokens and old log-probabilities [R, T - 1]."""
    width = max(len(p) + len(one.tokens) for p, one in zip(prompts, drawn, strict=True))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros(len(prompts), width - 1)
    old = torch.zeros(len(prompts), width - 1)
    for row, (prompt, one) in enumerate(zip(prompts, drawn, strict=True)):
        whole = torch.tensor(prompt + one.tokens)
        ids[row, : len(whole)] = whole
        mask[row, len(prompt) - 1 : len(whole) - 1] = 1
        old[row, len(prompt) - 1 : len(whole) - 1] = torch.tensor(one.logprobs)
    return ids, mask, old


def update(model, optimizer, loop: Loop, ids, mask, old, advantage, micro_batch=None) -> float:
    """One clipped policy-gradient update on a mini-batch; gives the gradient norm.

    `micro_batch` rollouts go through the model at a time, all of them without it.
    """
    used = int(mask.any(dim=0).nonzero().max()) + 2
    ids, mask, old = ids[:, :used], mask[:, : used - 1], old[:, : used - 1]
    if loop.loss_average == "token-mean":
        weight = mask / mask.sum()
    elif loop.loss_average == "seq-mean-token-mean":
        weight = mask / mask.sum(-1, keepdim=True) / len(mask)
    else:
        weight = mask / len(mask)
    optimizer.zero_grad()
    for part in torch.arange(len(ids), device=ids.device).split(micro_batch or len(ids)):
        logits = model(input_ids=ids[part, :-1]).logits / loop.temperature
        new = logits.log_softmax(-1).gather(-1, ids[part, 1:, None]).squeeze(-1)
        ratio = (new - old[part]).exp()
        gain = torch.minimum(
            ratio * advantage[part, None],
            ratio.clamp(1 - loop.clip, 1 + loop.clip) * advantage[part, None],
        )
        (-(gain * weight[part]).sum()).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), loop.gradient_clip)
    optimizer.step()
    return norm.item()


def train_stage(model, tokenizer, loop: Loop, position: int, questions: list[str]) -> list[dict]:
    """One stage with a fresh optimizer, in place; gives a row of figures per step."""
    generator = torch.Generator().manual_seed(1000 * loop.seed + position)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=loop.learning_rate, weight_decay=loop.weight_decay
    )
    rows: list[dict] = []
    order: list[int] = []
    while len(rows) < loop.steps[position]:
        started = time.monotonic()
        while len(order) < loop.batch_size:
            order += torch.randperm(len(questions), generator=generator).tolist()
        batch, order = order[: loop.batch_size], order[loop.batch_size :]
        prompts = [prompt_ids(tokenizer, questions[row]) for row in batch]
        prompts = [prompt for prompt in prompts for _ in range(loop.group_size)]
        asked = [questions[row] for row in batch for _ in range(loop.group_size)]
        drawn = sample(
            model,
            prompts,
            max_new_tokens=loop.context_lengths[position],
            temperature=loop.temperature,
            eos_ids={tokenizer.eos_token_id},
            pad_id=tokenizer.pad_token_id,
            seeds=[seed_of(loop.seed, position, len(rows), row) for row in range(len(prompts))],
        )
        generated = time.monotonic()
        texts = tokenizer.batch_decode([one.tokens for one in drawn], skip_special_tokens=True)
        rewards = torch.tensor(
            [float(task.is_correct(q, text)) for q, text in zip(asked, texts, strict=True)]
        ).view(loop.batch_size, loop.group_size)
        advantage = advantages(rewards, loop.advantage).view(-1)
        ids, mask, old = pack(prompts, drawn, tokenizer.pad_token_id)
        norms = []
        rollouts = loop.mini_batch_size * loop.group_size
        for first in range(0, len(ids), rollouts):
            part = slice(first, first + rollouts)
            norms.append(
                update(model, optimizer, loop, ids[part], mask[part], old[part], advantage[part])
            )
        rows.append(
            {
                "stage": position + 1,
                "step": len(rows) + 1,
                "reward": rewards.mean().item(),
                "same_reward": (rewards.std(dim=-1) == 0).float().mean().item(),
                "length": mean(len(one.tokens) for one in drawn),
                "truncated": mean(not one.finished for one in drawn),
                "surprise": -(old * mask).sum().item() / mask.sum().item(),
                "grad_norm": mean(norms),
                "generate_s": generated - started,
                "step_s": time.monotonic() - started,
            }
        )
        print("  ".join(f"{k} {v:.3g}" for k, v in rows[-1].items()), flush=True)
    return rows


def score(model, tokenizer, loop: Loop) -> dict:
    """Scores on the lab's evaluation set, at the longest stage's context length."""
    figures = measure(
        model,
        tokenizer,
        rows=loop.test_rows,
        samples=loop.test_samples,
        context_length=max(loop.context_lengths),
        first_context_length=loop.context_lengths[0],
        temperature=loop.temperature,
    )
    levels = "  ".join(f"{k}: {v['avg_at_k']:.2f}" for k, v in figures["levels"].items())
    print({k: v for k, v in figures.items() if k != "levels"}, levels, sep="\n", flush=True)
    return figures


def asked() -> tuple[Path | None, Path, Loop]:
    """What the command line says: the file to write, the model to start from, and the settings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--base", type=Path, default=BASE, help="folder of the model to start from")
    for name, value in asdict(Loop()).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, tuple):
            parser.add_argument(flag, type=type(value[0]), nargs=len(value), default=value)
        elif isinstance(value, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=value)
        else:
            parser.add_argument(flag, type=type(value), default=value)
    given = vars(parser.parse_args())
    return given.pop("output"), given.pop("base"), Loop(**given)


def main() -> None:
    """Train all stages, scoring the base and each stage."""
    output, base, loop = asked()
    torch.manual_seed(loop.seed)
    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    drawn = task.different(loop.train_rows, loop.train_seed, "train")
    questions = [problem.question for problem in drawn]
    sets = prompt_sets(questions)
    print({name: len(rows) for name, rows in sets.items()})

    scores, steps = [score(model, tokenizer, loop)], []
    for position, name in enumerate(loop.prompt_sets):
        steps += train_stage(model, tokenizer, loop, position, sets[name])
        if loop.evaluate_each or position == len(loop.prompt_sets) - 1:
            scores.append(score(model, tokenizer, loop))
    seconds = time.monotonic() - started
    print(f"{seconds:.0f} s")
    if output:
        facts = {"settings": asdict(loop), "scores": scores, "steps": steps}
        write(output, {**facts, "seconds": round(seconds, 1)})


if __name__ == "__main__":
    main()
