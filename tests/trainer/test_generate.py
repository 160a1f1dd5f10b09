"""What vLLM is asked for, without vLLM, and the parts that responses are left in."""

import os
import sys
from types import SimpleNamespace

import pytest

from trainer.generate import Request, Response, made, parts, vllm_responses, write_part


class Engine:
    """Stands in for `vllm.LLM`, and notes what it was made with."""

    made: dict

    def __init__(self, **given):
        Engine.made = given
        self.llm_engine = SimpleNamespace(
            add_request=lambda *_: None, has_unfinished_requests=lambda: False
        )


def test_the_longest_prompt_takes_nothing_from_a_responses_length(monkeypatch):
    stand_in = SimpleNamespace(LLM=Engine, SamplingParams=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    request = Request(
        checkpoint="model", prompts="", engine="vllm", device="cpu", dtype="float32", samples=1,
        temperature=1.0, top_p=1.0, context_length=3072, seed=0, batch_size=1, memory_share=0.5,
    )  # fmt: skip
    jobs = [("short", 0, [1] * 5), ("long", 0, [1] * 300), ("short", 1, [1] * 5)]
    assert list(vllm_responses(request, jobs, None)) == [[]]
    assert Engine.made["max_model_len"] == 300 + 3072


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_what_a_power_cut_left_of_a_part_is_made_anew(tmp_path, share):
    write_part(tmp_path, [Response("a", 0, "1", 1, False)], 1.0)
    [cut] = parts(tmp_path)
    write_part(tmp_path, [Response("b", 0, "2", 1, False)], 1.0)
    content = cut.read_bytes()
    cut.write_bytes(content[: int(share * len(content))])
    assert cut not in parts(tmp_path)
    assert made(tmp_path) == {("b", 0)}


def test_a_part_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}"))
    )
    write_part(tmp_path, [Response("a", 0, "1", 1, False)], 1.0)
    [part] = parts(tmp_path)
    assert synced == [str(part.with_name(f".{part.name}"))]
