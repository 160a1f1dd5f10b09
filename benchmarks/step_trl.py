"""The benchmark's steps by TRL's GRPOTrainer. Run by `benchmarks.step`.

python -m benchmarks.step_trl FOLDER, where FOLDER/work.json says what to do.
"""

import json
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.step_reward import compute_score
from trainer.records import append_record


class Clock(TrainerCallback):
    """Writes a line for each step."""

    def __init__(self, records: Path):
        self.records = records

    def on_step_begin(self, args, state, control, **_):
        """A step begins with its rollouts."""
        self.began = time.monotonic()

    def on_step_end(self, args, state, control, **_):
        """It ends with the optimizer's."""
        parts = {"step": time.monotonic() - self.began}
        append_record(self.records, {"step": state.global_step, "parts": parts})


def reward(completions, truth, data_source, **_) -> list[float]:
    """Rewards of a batch of responses."""
    texts = [completion[0]["content"] for completion in completions]
    return [
        compute_score(source, text, answers)["score"]
        for source, text, answers in zip(data_source, texts, truth, strict=True)
    ]


def main(folder: Path) -> None:
    """Train, and write a line for each step."""
    work = json.loads((folder / "work.json").read_text())
    rows = pq.read_table(work["file"]).to_pylist()
    data = Dataset.from_list(
        [
            {
                "prompt": row["prompt"],
                "truth": row["reward_model"]["ground_truth"],
                "data_source": row["data_source"],
            }
            for row in rows
        ]
    )
    settings = GRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=not work["hardware"].startswith("gpu"),
        max_steps=work["steps"],
        per_device_train_batch_size=work["prompts"] * work["rollouts"],
        gradient_accumulation_steps=1,
        gradient_checkpointing=False,
        num_generations=work["rollouts"],
        max_completion_length=work["response"],
        generation_kwargs={"min_new_tokens": work["response"]},
        temperature=1.0,
        top_k=0,
        beta=0.0,
        learning_rate=3e-5,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_grad_norm=1.0,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(work["model"], dtype="float32"),
        processing_class=AutoTokenizer.from_pretrained(work["model"], padding_side="left"),
        reward_funcs=reward,
        args=settings,
        train_dataset=data,
        callbacks=[Clock(Path(work["records"]))],
    ).train()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
