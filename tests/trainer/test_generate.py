"""What vLLM is asked for, without vLLM."""

import sys
from types import SimpleNamespace

from trainer.generate import Request, vllm_responses


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
