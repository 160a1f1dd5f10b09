"""A step that is short of prompts: verl's padding, in our losses and beside rows that train."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.padding_utils import construct_minimal_padding_template
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig
from verl.workers.engine_workers import TrainingWorker
from verl.workers.utils.losses import ppo_loss

from trainer.backend import worker
from trainer.backend.rows import shorten_padding
from trainer.backend.worker import StageWorker

PROMPT = 4


def jagged(rows):
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def rollout(length: int) -> dict[str, torch.Tensor]:
    """A row of the queue whose advantages are known."""
    return {
        "prompts": torch.arange(PROMPT),
        "responses": torch.arange(length),
        "response_mask": torch.ones(length, dtype=torch.int64),
        "loss_mask": torch.ones(length, dtype=torch.int64),
        "old_log_probs": -torch.ones(length),
        "advantages": torch.ones(length),
    }


def padding(source: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """verl's row of padding, made of a row of the queue."""
    made = construct_minimal_padding_template(source, {}, eos_token_id=0)[0]
    return {name: made[name] for name in source}


def mini_batch(rows: list[dict[str, torch.Tensor]], global_batch_size: int) -> TensorDict:
    fields = {name: jagged([row[name] for row in rows]) for name in rows[0]}
    data = TensorDict(fields, batch_size=[len(rows)])
    tokens = sum(int(row["loss_mask"].sum()) for row in rows)
    told = {"dp_size": 1, "batch_num_tokens": tokens, "global_batch_size": global_batch_size}
    tu.assign_non_tensor(data, **told)
    return data


@pytest.fixture
def value():
    """The function that gives verl's loss of a mini-batch, of a policy that moved a little."""

    def build(data: TensorDict, average: str = "token-mean") -> float:
        config = FSDPActorConfig(
            strategy="fsdp",
            rollout_n=1,
            ppo_mini_batch_size=4,
            ppo_micro_batch_size_per_gpu=4,
            loss_agg_mode=average,
            loss_scale_factor=16,
        )
        lengths = zip(data["prompts"].unbind(), data["responses"].unbind(), strict=True)
        output = {"log_probs": jagged([torch.full((len(p) + len(r),), -0.9) for p, r in lengths])}
        return partial(ppo_loss, config=config)(model_output=output, data=data)[0].item()

    return build


def test_rows_that_are_padded_after_their_advantages_are_known_have_a_loss(value, monkeypatch):
    """As after `only_trained`: verl copies the first row's advantages at their full length."""
    long, short = rollout(9), rollout(3)
    queue = {"a_0_0": long, "b_0_0": short, "pad_0_0": padding(long), "pad_1_0": padding(long)}
    alone = value(mini_batch([short], 1))
    with pytest.raises(RuntimeError):
        value(mini_batch([short, queue["pad_0_0"]], 1))

    def get(keys, partition_id, select_fields):
        columns = {name: jagged([queue[key][name] for key in keys]) for name in select_fields}
        return TensorDict(columns, batch_size=[len(keys)])

    def put(keys, partition_id, fields):
        for place, key in enumerate(keys):
            queue[key] |= {name: column.unbind()[place] for name, column in fields.items()}

    monkeypatch.setattr(tq, "kv_batch_get", get)
    monkeypatch.setattr(tq, "kv_batch_put", put)
    tags = [{"is_padding": key.startswith("pad")} for key in queue]
    batch = KVBatchMeta(partition_id="train", keys=list(queue), tags=tags, fields=list(long))
    shorten_padding(batch)
    assert value(mini_batch([short, queue["pad_0_0"], queue["pad_1_0"]], 1)) == alone
    assert len(queue["a_0_0"]["advantages"]) == 9 and queue["b_0_0"]["old_log_probs"].all()


@pytest.mark.parametrize(
    "average",
    ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"],
)
def test_padding_does_not_count_in_a_mean_over_rollouts(average, value, monkeypatch):
    """A mini-batch of six of which this rank has four, two of them padding, and another two."""
    trained, ranks = [], []

    def add_the_others(count, group):
        ranks.append(group)
        count += 2

    monkeypatch.setattr(worker, "get_device_id", lambda: "cpu")
    monkeypatch.setattr(torch.distributed, "all_reduce", add_the_others)
    monkeypatch.setattr(TrainingWorker, "train_batch", lambda self, data: trained.append(data))
    actor = object.__new__(StageWorker.actor_worker_cls)
    actor.engine = SimpleNamespace(get_data_parallel_group=lambda: "the ranks")

    short = {**rollout(3), "loss_mask": torch.tensor([1, 0, 0])}  # as the overlong filter leaves it
    short["response_mask"] = short["loss_mask"]
    pad = padding(rollout(1))
    actor.train_batch(mini_batch([rollout(5), short, pad, pad], 6))
    assert ranks == ["the ranks"] and trained[0]["global_batch_size"] == 4
    assert value(trained[0], average) == value(mini_batch([rollout(5), short], 4), average) != 0
