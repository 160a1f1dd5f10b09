"""verl's reward manager, which tells the reward what only the tokens say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

from trainer.checkpoint import eos_ids
from trainer.grading.extract import OPEN

LAST = 16  # tokens of a prompt that may hold the opening think tag


class RewardManager(NaiveRewardManager):
    """Adds what only tokens say to the facts of a response.

    Its length, whether it was cut off, and whether the prompt opened a thought. Cut off is what did
    not end by an end token, as in the metrics, the overlong filter and the evaluation: one that
    ends at the last token of the context was not.
    """

    def __init__(self, config, *arguments: Any, **settings: Any):
        super().__init__(config, *arguments, **settings)
        self.ends = eos_ids(Path(config.actor_rollout_ref.model.path))

    async def run_single(self, data: DataProto) -> dict:
        """Grade the last sequence of a rollout."""
        item = data[-1:][0]
        attended = item.batch["attention_mask"][-item.batch["responses"].shape[-1] :]
        end = self.tokenizer.decode(item.batch["prompts"][-LAST:], skip_special_tokens=False)
        facts = item.non_tensor_batch["extra_info"]  # the same object that verl hands on
        facts["response_tokens"] = tokens = int(attended.sum())
        facts["truncated"] = int(item.batch["responses"][tokens - 1]) not in self.ends
        facts["thinking"] = _opens(end)
        return await super().run_single(data)

    async def grade(
        self, prompt: dict[str, Any], prompt_ids: list[int], responses: Sequence[list[int]]
    ) -> list[dict[str, Any]]:
        """What `run_single` says of each response to one prompt, by one hand-over to a thread.

        Args:
            prompt: The row of the data set.
            prompt_ids: Its tokens.
            responses: Token ids of each.
        """
        return await self.loop.run_in_executor(None, self._grade, prompt, prompt_ids, responses)

    def _grade(self, prompt, prompt_ids, responses) -> list[dict[str, Any]]:
        thinking = _opens(self.tokenizer.decode(prompt_ids[-LAST:], skip_special_tokens=False))
        found = []
        for response in responses:
            result = self.compute_score(
                data_source=prompt["data_source"],
                solution_str=self.tokenizer.decode(response, skip_special_tokens=True),
                ground_truth=prompt["reward_model"]["ground_truth"],
                extra_info={
                    **prompt["extra_info"],
                    "response_tokens": len(response),
                    "truncated": response[-1] not in self.ends,
                    "thinking": thinking,
                },
            )
            found.append({"reward_score": result["score"], "reward_extra_info": dict(result)})
        return found


def _opens(end: str) -> bool:
    """Whether the end of a prompt opens a thought."""
    return end.rstrip().endswith(OPEN)
