"""verl's reward manager, which tells the reward what only the tokens say."""

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

from trainer.grading.extract import OPEN

LAST = 16  # tokens of a prompt that may hold the opening think tag


class RewardManager(NaiveRewardManager):
    """Adds the length of the response, and whether the prompt opened a thought, to its facts."""

    async def run_single(self, data: DataProto) -> dict:
        """Grade the last sequence of a rollout."""
        item = data[-1:][0]
        attended = item.batch["attention_mask"][-item.batch["responses"].shape[-1] :]
        end = self.tokenizer.decode(item.batch["prompts"][-LAST:], skip_special_tokens=False)
        facts = item.non_tensor_batch["extra_info"]  # the same object that verl hands on
        facts["response_tokens"] = int(attended.sum())
        facts["thinking"] = end.rstrip().endswith(OPEN)
        return await super().run_single(data)
