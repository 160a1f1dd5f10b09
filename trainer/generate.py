"""Responses of a checkpoint to a set of prompts, in a process of its own.

python -m trainer.generate FOLDER, where FOLDER/request.json holds the fields of `Request`.
Leaves FOLDER/generated.parquet (id, sample, response, tokens, truncated), written aside and
renamed, and meanwhile FOLDER/progress.json with what is done.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("sample", pa.int32()),
        ("response", pa.string()),
        ("tokens", pa.int32()),
        ("truncated", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Request:
    """What to sample, and with what.

    Attributes:
        checkpoint: Folder in Hugging Face format.
        prompts: Parquet with columns `id` and `prompt` (a chat).
        engine: "torch" or "vllm".
        device: "cpu" or "cuda".
        dtype: "float32" or "bfloat16".
        samples: Responses per prompt.
        temperature: Sampling temperature.
        top_p: Nucleus.
        context_length: Longest response, tokens.
        seed: Seed of all sampling.
        batch_size: Responses sampled together (torch).
        memory_share: Share of GPU memory (vLLM).
        max_prompt_length: Longest prompt, tokens; sizes vLLM's cache.
        tensor_parallel: GPUs that hold one model (vLLM).
    """

    checkpoint: str
    prompts: str
    engine: str
    device: str
    dtype: str
    samples: int
    temperature: float
    top_p: float
    context_length: int
    seed: int
    batch_size: int
    memory_share: float
    max_prompt_length: int
    tensor_parallel: int = 1


@dataclass(frozen=True)
class Response:
    """One response: whose, which, its text, its length, and whether it was cut off."""

    id: str
    sample: int
    response: str
    tokens: int
    truncated: bool


Prompts = list[tuple[str, list[int]]]


def torch_responses(request: Request, prompts: Prompts, tokenizer) -> Iterator[list[Response]]:
    """Batches of responses by `trainer.sampling`, prompts of like length together."""
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.checkpoint import eos_ids
    from trainer.sampling import sample, seed_of

    folder = Path(request.checkpoint)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, request.dtype))
    model.to(request.device).eval()
    ends = eos_ids(folder)
    # By length: less padding, and what is left of a batch ends at about the same time.
    jobs = [
        (name, number, ids)
        for name, ids in sorted(prompts, key=lambda prompt: len(prompt[1]))
        for number in range(request.samples)
    ]
    for start in range(0, len(jobs), request.batch_size):
        batch = jobs[start : start + request.batch_size]
        samples = sample(
            model,
            [ids for _, _, ids in batch],
            max_new_tokens=request.context_length,
            temperature=request.temperature,
            top_p=request.top_p,
            eos_ids=ends,
            pad_id=tokenizer.pad_token_id,
            seeds=[seed_of(request.seed, name, number) for name, number, _ in batch],
        )
        yield [
            Response(
                name,
                number,
                tokenizer.decode(one.tokens, skip_special_tokens=True),
                len(one.tokens),
                not one.finished,
            )
            for (name, number, _), one in zip(batch, samples, strict=True)
        ]


def vllm_responses(request: Request, prompts: Prompts, tokenizer) -> Iterator[list[Response]]:
    """Batches of responses by vLLM, each request with a seed of its own."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=request.checkpoint,
        dtype=request.dtype,
        seed=request.seed,
        tensor_parallel_size=request.tensor_parallel,
        max_model_len=request.max_prompt_length + request.context_length,
        enforce_eager=request.device == "cpu",
        **({} if request.device == "cpu" else {"gpu_memory_utilization": request.memory_share}),
    )
    jobs = [(name, number, ids) for name, ids in prompts for number in range(request.samples)]
    batch_size = max(request.batch_size, 1024)  # vLLM schedules by itself; this is for progress
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        outputs = engine.generate(
            [{"prompt_token_ids": ids} for _, _, ids in batch],
            [
                SamplingParams(
                    temperature=request.temperature,
                    top_p=request.top_p,
                    max_tokens=request.context_length,
                    seed=request.seed * 1_000_003 + start + offset,
                )
                for offset in range(len(batch))
            ],
            use_tqdm=False,
        )
        yield [
            Response(
                name,
                number,
                tokenizer.decode(output.outputs[0].token_ids, skip_special_tokens=True),
                len(output.outputs[0].token_ids),
                output.outputs[0].finish_reason == "length",
            )
            for (name, number, _), output in zip(batch, outputs, strict=True)
        ]


ENGINES: dict[str, Callable] = {"torch": torch_responses, "vllm": vllm_responses}


def generate(request: Request, folder: Path) -> None:
    """Sample every response and leave them in `folder`.

    Raises:
        ValueError: the engine gave another number of responses than asked for.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(request.checkpoint)
    table = pq.read_table(request.prompts, columns=["id", "prompt"]).to_pylist()
    prompts = [
        (
            row["id"],
            tokenizer.apply_chat_template(
                row["prompt"], add_generation_prompt=True, return_dict=False
            ),
        )
        for row in table
    ]
    wanted = len(prompts) * request.samples
    started = time.monotonic()
    responses: list[Response] = []
    for batch in ENGINES[request.engine](request, prompts, tokenizer):
        responses += batch
        _write(folder / "progress.json", _progress(responses, wanted, started))
    if len(responses) != wanted:
        raise ValueError(f"the engine gave {len(responses)} responses of {wanted}")
    rows = [vars(response) for response in sorted(responses, key=lambda r: (r.id, r.sample))]
    aside = folder / "generated.part"
    pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS), aside)
    os.replace(aside, folder / "generated.parquet")


def _progress(responses: list[Response], wanted: int, started: float) -> dict:
    return {
        "done": len(responses),
        "wanted": wanted,
        "tokens": sum(response.tokens for response in responses),
        "seconds": time.monotonic() - started,
    }


def _write(path: Path, record: dict) -> None:
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(record))
    os.replace(aside, path)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    generate(Request(**json.loads((target / "request.json").read_text())), target)
