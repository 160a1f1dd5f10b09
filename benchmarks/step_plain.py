"""The benchmark's steps in a plain loop of PyTorch. Run by `benchmarks.step`.

python -m benchmarks.step_plain FOLDER, where FOLDER/work.json says what to do.
"""

import json
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.lab_loop import Loop, advantages, pack, update
from benchmarks.step_reward import compute_score
from trainer.records import append_record
from trainer.sampling import sample, seed_of


def main(folder: Path) -> None:
    """Train, and write a line for each step."""
    work = json.loads((folder / "work.json").read_text())
    size, group = work["prompts"], work["rollouts"]
    loop = Loop(learning_rate=3e-5, batch_size=size, mini_batch_size=size, group_size=group)
    device = "cuda" if work["hardware"].startswith("gpu") else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=loop.learning_rate, weight_decay=0.01)
    rows = pq.read_table(work["file"]).to_pylist()
    for step in range(1, work["steps"] + 1):
        began = time.monotonic()
        asked = [row for row in rows[(step - 1) * size : step * size] for _ in range(group)]
        prompts = [
            tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
            for row in asked
        ]
        drawn = sample(
            model,
            prompts,
            max_new_tokens=work["response"],
            eos_ids=set(),
            pad_id=tokenizer.pad_token_id,
            seeds=[seed_of(step, number) for number in range(len(prompts))],
        )
        generated = time.monotonic()
        texts = tokenizer.batch_decode([one.tokens for one in drawn], skip_special_tokens=True)
        rewards = [
            compute_score(row["data_source"], text, row["reward_model"]["ground_truth"])["score"]
            for row, text in zip(asked, texts, strict=True)
        ]
        advantage = advantages(torch.tensor(rewards).view(size, group), "grpo").view(-1)
        ids, mask, old = pack(prompts, drawn, tokenizer.pad_token_id)
        graded = time.monotonic()
        tensors = [tensor.to(device) for tensor in (ids, mask, old, advantage)]
        update(model, optimizer, loop, *tensors, micro_batch=work["micro_batch"])
        ended = time.monotonic()
        parts = {
            "generate": generated - began,
            "grade": graded - generated,
            "update": ended - graded,
            "step": ended - began,
        }
        append_record(Path(work["records"]), {"step": step, "parts": parts})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
