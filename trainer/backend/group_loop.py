"""Rollouts by prompt group: one tokenisation, one request to the engine, one grading.

verl's own agent loop does each of these once per rollout, in Python, which on a laptop takes longer
than sampling. This manager and its worker take their places at verl's seam
(`rollout.agent.agent_loop_manager_class`); single-turn prompts only.

Every rollout has a seed of its own, made of the stage's seed, its prompt group and its number. So a
stage that was interrupted draws what it would have drawn.
"""

import random
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ
from verl.utils import tensordict_utils as tu
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from trainer.backend.group_store import GroupStore, Row
from trainer.backend.submission import Submission
from trainer.checkpoint import eos_ids
from trainer.sampling import seed_of


@ray.remote
class GroupLoopWorker(AgentLoopWorkerTQ.__ray_metadata__.modified_class):
    """Brings prompt groups from text to graded rollouts in the transfer queue."""

    def __init__(self, config, llm_client, *arguments: Any, **settings: Any):
        super().__init__(config, llm_client, *arguments, **settings)
        self.router = llm_client._load_balancer
        # Without reward workers of its own (reward.num_workers=0), verl's is a part of this one: a
        # process less to start, which on two cores is worth more than grading in parallel.
        self.grader = None if self.reward_loop_worker_handles else RewardLoopWorker(config)
        self.store = GroupStore()
        self.ends = eos_ids(Path(config.actor_rollout_ref.model.path))
        self.own = config.trainer.stagecraft
        self.tokens = create_continuous_token_builder(
            self.tokenizer,
            hf_model_type=self.hf_model_type,
            chat_template_kwargs=config.data.get("apply_chat_template_kwargs", {}),
        )

    async def generate_sequences(self, batch: TensorDict) -> None:
        """Begin with groups that reach their engine together; does not wait for them."""
        tu.assign_non_tensor_data(batch, "submission", Submission(self.router, len(batch)))
        await super().generate_sequences(batch)

    async def stored_more_than(self, known: int) -> int:
        """As `GroupStore.more_than`."""
        return await self.store.more_than(known)

    async def _run_prompt(self, prompt: dict, sampling_params: dict, trajectory: dict, trace=False):
        """Rollouts of a group, and then the word that they are there, or why they failed.

        Which of its rollouts stands in `first` and `count`, so that a group can be screened with a
        few and continued with the others.
        """
        uid, first, count = prompt["uid"], prompt.pop("first"), prompt.pop("count")
        rows: list[Row] = []
        tag: dict[str, Any] = {"first": first}
        try:
            rows = await self.roll_out(prompt, sampling_params, range(first, first + count))
            tag |= {"status": "finished", "rollouts": [_told(row) for row in rows]}
        except Exception as error:  # whatever it was, who waits for the group must hear of it
            print(f"prompt group {uid} failed:\n{traceback.format_exc()}", flush=True)
            cause = getattr(error, "cause", None) or error  # out of Ray's wrapping
            tag |= {"status": "failure", "reason": type(cause).__name__}
        await self.store.put(uid, tag, rows)

    async def roll_out(self, prompt: dict, sampling_params: dict, numbers: range) -> list[Row]:
        """Sample and grade rollouts of one prompt group.

        Args:
            prompt: The row of the data set, with `uid`, `global_steps` and `submission`.
            sampling_params: temperature, top_p, top_k.
            numbers: Which rollouts of the group, from 0.
        """
        uid = prompt["uid"]
        submission: Submission = prompt["submission"]
        try:
            prompt_ids = self._tokens(prompt)
        except Exception:
            submission.withdraw()  # the others wait for it
            raise
        seeds = [
            seed_of(self.own.seed, uid, number) if self.own.seeded else None for number in numbers
        ]
        outputs = await submission.ask(uid, prompt_ids, seeds, sampling_params)
        limit = self.rollout_config.response_length
        responses = [output.token_ids[:limit] for output in outputs]
        if not all(responses):
            raise ValueError("the engine gave a response without tokens")
        with self.store.soon():
            grades = await self._grade(prompt, prompt_ids, responses)
        return [
            Row(
                key=f"{uid}_{number}_0",
                uid=uid,
                prompt=prompt_ids,
                response=response,
                logprobs=output.log_probs[:limit],
                reward=grade["reward_score"],
                tag={
                    "status": "success",
                    "id": prompt["extra_info"]["id"],
                    "correct": float(grade["reward_extra_info"]["acc"]),
                    "reward": float(grade["reward_score"]),
                    "ended": response[-1] in self.ends,
                    "prompt_len": len(prompt_ids),
                    "response_len": len(response),
                    "seq_len": len(prompt_ids) + len(response),
                    "global_steps": prompt["global_steps"],
                    "min_global_steps": output.extra_fields.get("global_steps"),
                    "max_global_steps": output.extra_fields.get("global_steps"),
                },
            )
            for number, response, output, grade in zip(
                numbers, responses, outputs, grades, strict=True
            )
        ]

    def _tokens(self, prompt: dict) -> list[int]:
        ids = self.tokens.build_initial_tokens(list(prompt["raw_prompt"]))
        longest = self.rollout_config.prompt_length
        if len(ids) > longest:
            raise ValueError(f"prompt of {len(ids)} tokens, the longest admitted is {longest}")
        return ids

    async def _grade(
        self, prompt: dict, prompt_ids: list[int], responses: list[list[int]]
    ) -> list[dict]:
        """What verl's reward worker says of each response: `reward_score`, `reward_extra_info`."""
        if self.grader:
            return await self.grader.reward_manager.grade(prompt, prompt_ids, responses)
        rows = [torch.tensor(response) for response in responses]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
        prompts = torch.tensor([prompt_ids] * len(rows))
        columns = {
            name: _objects([prompt[name]] * len(rows)) for name in ("data_source", "reward_model")
        }
        # One for each: facts of the response are added to it while others are being graded.
        columns["extra_info"] = _objects([dict(prompt["extra_info"]) for _ in rows])
        columns["__num_turns__"] = np.full(len(rows), 2)
        data = DataProto(
            batch=TensorDict(
                {
                    "prompts": prompts,
                    "responses": ids,
                    "attention_mask": torch.cat([torch.ones_like(prompts), mask], dim=1),
                },
                batch_size=len(rows),
            ),
            non_tensor_batch=columns,
        )
        worker = random.choice(self.reward_loop_worker_handles)
        return await worker.compute_score_batch.remote(data)


class GroupLoopManager(AgentLoopManagerTQ):
    """verl's manager with workers that go by prompt group."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.agent_loop_workers_class = GroupLoopWorker
        self.listening: list[tuple[Any, ray.ObjectRef]] = []  # a worker, its next word of groups

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Have groups sampled, without waiting; verl would give each small batch to one worker."""
        workers = self.agent_loop_workers
        chunks = prompts.chunk(min(len(workers), len(prompts)))
        ray.get([w.generate_sequences.remote(c) for w, c in zip(workers, chunks, strict=False)])
        self.agent_loop_workers = workers[len(chunks) :] + workers[: len(chunks)]

    def wait_for_groups(self, seconds: float) -> None:
        """Return when groups came back of which no earlier call told, or after `seconds`.

        Raises:
            ray.exceptions.RayActorError: a worker died.
            RuntimeError: the queue takes nothing from a worker any more.
        """
        listening = self.listening or [
            (worker, worker.stored_more_than.remote(0)) for worker in self.agent_loop_workers
        ]
        told, _ = ray.wait([word for _, word in listening], timeout=seconds)
        self.listening = [
            (worker, worker.stored_more_than.remote(ray.get(word)) if word in told else word)
            for worker, word in listening
        ]


def _told(row: Row) -> tuple[float, float, int, int]:
    """Of a rollout: 1 if it is correct, its reward, its tokens, the step of the weights."""
    tag = row.tag
    return tag["correct"], tag["reward"], tag["response_len"], tag["min_global_steps"] or 0


def _objects(values: list) -> np.ndarray:
    """A column of anything: numpy would take lists of equal length for a matrix."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
