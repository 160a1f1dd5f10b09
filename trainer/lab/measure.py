"""How well a model does on the lab: avg@k, pass@k, truncation and length, in all and by level.

The pipeline's evaluation reports the same; this one needs neither its folders nor its settings, so
the script that makes the base can use it.
"""

from collections.abc import Mapping
from statistics import mean

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.lab import task
from trainer.sampling import sample, seed_of


def prompt_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Token ids of the prompt that a question becomes, its thinking opened."""
    chat = [{"role": "user", "content": f"{question} {task.INSTRUCTION}"}]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    rows: int,
    samples: int,
    context_length: int,
    first_context_length: int,
    seed: int = 0,
    temperature: float = 1.0,
) -> dict:
    """Scores of a model on the lab's test split.

    Args:
        model: The model, on a CPU.
        tokenizer: Its tokenizer.
        rows: Test problems.
        samples: Responses per problem: k.
        context_length: Longest response in tokens.
        first_context_length: Context length in tokens of a curriculum's first stage: a response
            that needs more is counted as truncated there.
        seed: Of problems and sampling.
        temperature: Of sampling.

    Returns:
        avg@k and pass@k (the best of all k, so no estimate), shares of responses cut off at either
        length, and mean length in tokens; and the same by level under `levels`.
    """
    questions = [problem.question for problem in task.different(rows, seed, "test")]
    prompts = [prompt_ids(tokenizer, question) for question in questions]
    results = []
    for first in range(0, rows, 32):
        block = range(first, min(first + 32, rows))
        drawn = sample(
            model,
            [prompts[row] for row in block for _ in range(samples)],
            max_new_tokens=context_length,
            temperature=temperature,
            eos_ids={tokenizer.eos_token_id},
            pad_id=tokenizer.pad_token_id,
            seeds=[seed_of(seed, questions[row], k) for row in block for k in range(samples)],
        )
        texts = tokenizer.batch_decode([one.tokens for one in drawn], skip_special_tokens=True)
        for row in block:
            here = slice((row - first) * samples, (row - first + 1) * samples)
            results.append(
                {
                    "level": task.parse(questions[row]).level,
                    "correct": [task.is_correct(questions[row], text) for text in texts[here]],
                    "tokens": [len(one.tokens) for one in drawn[here]],
                    "finished": [one.finished for one in drawn[here]],
                }
            )
    levels = sorted({result["level"] for result in results})
    return _scores(results, first_context_length) | {
        "levels": {
            level: _scores([r for r in results if r["level"] == level], first_context_length)
            for level in levels
        }
    }


def _scores(results: list[Mapping], first_context_length: int) -> dict:
    tokens = [count for result in results for count in result["tokens"]]
    return {
        "problems": len(results),
        "avg_at_k": round(mean(mean(result["correct"]) for result in results), 4),
        "pass_at_k": round(mean(any(result["correct"]) for result in results), 4),
        "truncated_first": round(mean(count > first_context_length for count in tokens), 4),
        "truncated": round(mean(not f for result in results for f in result["finished"]), 4),
        "tokens_mean": round(mean(tokens), 2),
    }
