"""What an update is made of does not depend on the number of ranks, and their work is even."""

import random
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

from trainer.backend.balance import deal_out
from trainer.backend.stage_trainer import StageTrainer

GROUPS, SIZE, MINI = 16, 4, 32  # two updates of eight groups


def updates(keys, ranks):
    """As verl cuts a batch: into equal shares of ranks, and those into mini-batches."""
    share, each = len(keys) // ranks, MINI // ranks
    shares = [keys[rank * share : (rank + 1) * share] for rank in range(ranks)]
    return [[one[at : at + each] for one in shares] for at in range(0, share, each)]


def work_of(tags):
    return calculate_workload(torch.tensor([tag["seq_len"] for tag in tags])).tolist()


@pytest.fixture
def batch():
    draw = random.Random(0)
    keys = [f"{group:09d}_{number}_0" for group in range(GROUPS) for number in range(SIZE)]
    tags = [{"seq_len": draw.randrange(100, 20_000)} for _ in keys]
    return KVBatchMeta(partition_id="train", keys=keys, tags=tags)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("absent", [0, 5])
def test_each_update_is_of_the_groups_that_one_rank_alone_would_take(batch, ranks, absent):
    """Also where the last is filled up: its padding takes the places of what is absent."""
    drawn = batch.keys[: len(batch.keys) - absent]
    expected = [set(batch.keys[at : at + MINI]) for at in range(0, len(batch.keys), MINI)]
    order = list(range(len(batch.keys)))
    random.Random(1).shuffle(order)  # verl's own, of which nothing must stay
    tags = dict(zip(batch.keys, batch.tags, strict=True))
    batch.reorder(order)
    deal_out(batch, drawn, MINI, ranks)
    assert [tags[key] for key in batch.keys] == batch.tags
    made = updates(batch.keys, ranks)
    assert [{key for share in update for key in share} for update in made] == expected
    for update in made:
        work = [sum(work_of(tags[key] for key in share)) for share in update]
        assert max(work) <= 1.1 * min(work)


def test_the_trainer_deals_its_batches_out_so(batch):
    actor = {"actor": {"ppo_mini_batch_size": MINI // SIZE}, "rollout": {"n": SIZE}}
    machine = {"nnodes": 1, "n_gpus_per_node": 2, "critic_warmup": 0}
    trainer = object.__new__(StageTrainer)
    trainer.config = OmegaConf.create({"trainer": machine, "actor_rollout_ref": actor})
    trainer.actor_rollout_wg = SimpleNamespace(_dispatch_info={"actor": [0, 1]})
    trainer.tokenizer = SimpleNamespace(eos_token_id=0)
    trainer.use_critic, trainer.global_steps = False, 1
    expected = [set(batch.keys[at : at + MINI]) for at in range(0, len(batch.keys), MINI)]
    made = updates(trainer._balanced(batch, {}).keys, 2)
    assert [{key for share in update for key in share} for update in made] == expected


def test_verl_alone_tears_groups_apart(batch):
    """What this is for. If it fails with a newer verl, `trainer.backend.balance` may go."""
    work = work_of(batch.tags)
    parts = get_seqlen_balanced_partitions(work, k_partitions=8, equal_size=True)
    batch.reorder([row for part in parts for row in part])
    first = {key.split("_")[0] for share in updates(batch.keys, 8)[0] for key in share}
    assert len(first) > GROUPS // 2
