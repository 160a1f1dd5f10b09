"""Responses of a checkpoint to a set of prompts, in a process of its own.

python -m trainer.generate FOLDER [SHARD], where FOLDER/request.json holds the fields of `Request`.

Leaves parts, FOLDER/part-SHARD-*.parquet (id, sample, response, tokens, truncated), each written
aside and renamed. What earlier processes left there is not sampled again: a response depends on the
checkpoint, its prompt and its own seed, and not on which process made it, or with which others.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.holding import hold
from trainer.synced import sync
from trainer.warm import leave

COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("sample", pa.int32()),
        ("response", pa.string()),
        ("tokens", pa.int32()),
        ("truncated", pa.bool_()),
    ]
)
SECONDS = b"stagecraft.seconds"
"""Key in a part's metadata: what sampling it took."""
MAGIC = b"PAR1"  # the last bytes of a parquet file
OFTEN = 30.0  # seconds between parts of vLLM, which ends responses in no order


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
        tensor_parallel: GPUs that hold one model (vLLM).
        shards: Processes that divide the work, each with an engine of its own.
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
    tensor_parallel: int = 1
    shards: int = 1


@dataclass(frozen=True)
class Response:
    """One response: whose, which, its text, its length, and whether it was cut off."""

    id: str
    sample: int
    response: str
    tokens: int
    truncated: bool


Job = tuple[str, int, list[int]]
"""A response to make: the prompt's id, which sample of it, and the prompt's tokens."""


def torch_responses(request: Request, jobs: Sequence[Job], tokenizer) -> Iterator[list[Response]]:
    """Batches of responses by `trainer.sampling`, prompts of like length together."""
    import torch

    from trainer.lean import lean_transformers

    lean_transformers()
    from transformers import AutoModelForCausalLM

    from trainer.checkpoint import eos_ids
    from trainer.sampling import sample, seed_of

    folder = Path(request.checkpoint)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, request.dtype))
    model.to(request.device).eval()
    ends = eos_ids(folder)
    # By length: less padding, and what is left of a batch ends at about the same time.
    jobs = sorted(jobs, key=lambda job: len(job[2]))
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


def vllm_responses(request: Request, jobs: Sequence[Job], tokenizer) -> Iterator[list[Response]]:
    """Responses by vLLM as they end, each request with a seed of its own.

    All requests are given to the engine at once, and it is stepped by hand: no request waits for
    the longest of a batch, and what has ended is kept every half minute.
    """
    from vllm import LLM, SamplingParams

    from trainer.sampling import seed_of

    engine = LLM(
        model=request.checkpoint,
        dtype=request.dtype,
        seed=request.seed,
        tensor_parallel_size=request.tensor_parallel,
        # No prompt may cost a response its length, and the cache need not be larger.
        max_model_len=max(len(ids) for _, _, ids in jobs) + request.context_length,
        enforce_eager=request.device == "cpu",
        **({} if request.device == "cpu" else {"gpu_memory_utilization": request.memory_share}),
    ).llm_engine
    for place, (name, number, ids) in enumerate(jobs):
        sampling = SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.context_length,
            seed=seed_of(request.seed, name, number),
        )
        engine.add_request(str(place), {"prompt_token_ids": ids}, sampling)
    ended, since = [], time.monotonic()
    while engine.has_unfinished_requests():
        for output in engine.step():
            if not output.finished:
                continue
            # vLLM may lengthen a request's id; ours stands before its first dash.
            name, number, _ = jobs[int(output.request_id.split("-")[0])]
            made = output.outputs[0]
            ended.append(
                Response(
                    name,
                    number,
                    tokenizer.decode(made.token_ids, skip_special_tokens=True),
                    len(made.token_ids),
                    made.finish_reason == "length",
                )
            )
        if ended and time.monotonic() - since > OFTEN:
            yield ended
            ended, since = [], time.monotonic()
    yield ended


ENGINES: dict[str, Callable] = {"torch": torch_responses, "vllm": vllm_responses}


def generate(request: Request, folder: Path, shard: int = 0) -> None:
    """Sample what is missing in `folder` of one shard, a part after each batch.

    Raises:
        ValueError: the engine gave other responses than asked for.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(request.checkpoint)
    there = made(folder)
    wanted = missing(request, there, shard, request.shards)
    chats = {
        row["id"]: row["prompt"]
        for row in pq.read_table(request.prompts, columns=["id", "prompt"]).to_pylist()
    }
    tokens = {
        name: tokenizer.apply_chat_template(
            chats[name], add_generation_prompt=True, return_dict=False
        )
        for name in {name for name, _ in wanted}
    }
    jobs = [(name, number, tokens[name]) for name, number in wanted]
    left, since = set(wanted), time.monotonic()
    for batch in ENGINES[request.engine](request, jobs, tokenizer) if jobs else ():
        got = [(one.id, one.sample) for one in batch]
        if len(set(got)) < len(got) or not left.issuperset(got):
            raise ValueError("the engine gave a response twice, or one that nobody asked for")
        left -= set(got)
        now = time.monotonic()
        write_part(folder, batch, now - since, shard)
        since = now
    if left:
        raise ValueError(f"the engine gave {len(jobs) - len(left)} responses of {len(jobs)}")


def missing(
    request: Request, there: set[tuple[str, int]], shard: int = 0, shards: int = 1
) -> list[tuple[str, int]]:
    """Prompt and number of each response that is asked for and not there, in order.

    Shards divide what is asked for and not what is missing: they begin at different times, and
    would else see different things missing.
    """
    names = pq.read_table(request.prompts, columns=["id"])["id"].to_pylist()
    asked = [(name, number) for name in names for number in range(request.samples)]
    return [job for job in asked[shard::shards] if job not in there]


def parts(folder: Path, shard: int | str = "*") -> list[Path]:
    """The whole parts in a folder, of one shard or all; what a power cut left of one is none."""
    return sorted(filter(_whole, folder.glob(f"part-{shard}-*.parquet")))


def _whole(part: Path) -> bool:
    """Whether it ends as a parquet file does, which has its index there."""
    with part.open("rb") as file:
        file.seek(max(0, part.stat().st_size - len(MAGIC)))
        return file.read() == MAGIC


def made(folder: Path) -> set[tuple[str, int]]:
    """Prompt and number of each response in a folder."""
    return {
        (row["id"], row["sample"])
        for path in parts(folder)
        for row in pq.read_table(path, columns=["id", "sample"]).to_pylist()
    }


def write_part(folder: Path, responses: Sequence[Response], seconds: float, shard: int = 0) -> None:
    """Leave responses in `folder` as one more part; a reader sees all of it or nothing."""
    table = pa.Table.from_pylist([vars(one) for one in responses], schema=COLUMNS)
    table = table.replace_schema_metadata({SECONDS: repr(seconds).encode()})
    name = f"part-{shard}-{time.time_ns()}-{uuid4().hex[:8]}.parquet"
    aside = folder / f".{name}"
    pq.write_table(table, aside)
    sync(aside)
    os.replace(aside, folder / name)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    asked = Request(**json.loads((target / "request.json").read_text()))
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    hold(target, f"sampler-{number}")
    generate(asked, target, number)
    if asked.engine == "torch" and asked.device == "cpu":
        leave()  # others have processes to end, or a GPU to give back
