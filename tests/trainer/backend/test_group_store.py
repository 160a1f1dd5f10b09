"""Graded groups reach the queue together, and those that cannot are told of as failed."""

import asyncio

import pytest
import torch

from trainer.backend import group_store
from trainer.backend.group_store import GroupStore, Row, columns


def row(uid: str, number: int, tokens: int) -> Row:
    return Row(
        key=f"{uid}_{number}_0",
        uid=uid,
        prompt=[1, 2],
        response=list(range(5, 5 + tokens)),
        logprobs=[-0.5] * tokens,
        reward=0.25,
        tag={"status": "success", "seq_len": 2 + tokens, "min_global_steps": 4},
    )


@pytest.fixture
def puts(monkeypatch) -> list[dict]:
    """What was put, in order; a put of rows fails where `broken` is among the keys."""
    made: list[dict] = []

    async def put(**given):
        if any(key.startswith("broken") for key in given["keys"]) and "fields" in given:
            raise RuntimeError("no room")
        made.append(given)

    monkeypatch.setattr(group_store.tq, "async_kv_batch_put", put)
    return made


def test_a_batch_is_what_verls_trainer_reads():
    found = columns([row("a", 0, 3), row("b", 1, 1)])
    assert set(found.keys()) == set(group_store.COLUMNS)
    assert list(found["uid"]) == ["a", "b"]
    assert [one.tolist() for one in found["input_ids"].unbind()] == [[1, 2, 5, 6, 7], [1, 2, 5]]
    assert [one.tolist() for one in found["position_ids"].unbind()] == [[0, 1, 2, 3, 4], [0, 1, 2]]
    assert [one.tolist() for one in found["response_mask"].unbind()] == [[1, 1, 1], [1]]
    assert [one.tolist() for one in found["rm_scores"].unbind()] == [[0, 0, 0.25], [0.25]]
    assert found["policy"].tolist() == [4, 4]
    assert found["rollout_log_probs"].dtype == torch.float32
    assert [one.tolist() for one in found["prompts"].unbind()] == [[1, 2], [1, 2]]


def test_groups_that_end_together_are_put_together_and_rows_before_the_word_on_them(puts):
    async def main():
        store = GroupStore()
        done = {"status": "finished", "first": 0}
        await asyncio.gather(
            store.put("a", done, [row("a", 0, 2), row("a", 1, 3)]),
            store.put("b", {"status": "failure", "first": 0, "reason": "ValueError"}),
            store.put("c", done, [row("c", 0, 1)]),
        )
        assert len(puts) == 2  # and all three have returned
        await store.put("d", done, [row("d", 0, 1)])

    asyncio.run(main())
    assert [put["keys"] for put in puts] == [
        ["a_0_0", "a_1_0", "c_0_0"], ["a", "b", "c"], ["d_0_0"], ["d"]
    ]  # fmt: skip
    assert [tag["status"] for tag in puts[1]["tags"]] == ["finished", "failure", "finished"]
    assert "fields" not in puts[1]


@pytest.mark.parametrize("together, puts_made", [(30.0, 2), (0.02, 4)])
def test_a_ready_group_waits_for_those_that_are_coming_but_not_for_ever(
    puts, monkeypatch, together, puts_made
):
    monkeypatch.setattr(group_store, "TOGETHER", together)

    async def grade_and_put(store, uid, seconds):
        with store.soon():
            await asyncio.sleep(seconds)
        await store.put(uid, {"status": "finished", "first": 0}, [row(uid, 0, 2)])

    async def main():
        store = GroupStore()
        await asyncio.gather(grade_and_put(store, "a", 0.001), grade_and_put(store, "b", 0.2))

    asyncio.run(asyncio.wait_for(main(), 20))
    assert len(puts) == puts_made


def test_who_waits_for_groups_hears_of_them_once_the_word_on_them_is_put(puts):
    async def main():
        store = GroupStore()
        waiting = asyncio.create_task(store.more_than(0))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await asyncio.gather(*(store.put(uid, {"status": "finished"}) for uid in "ab"))
        assert await waiting == await store.more_than(1) == 2  # at once, where it happened before
        waiting = asyncio.create_task(store.more_than(2))
        await store.put("c", {"status": "failure"})
        assert await waiting == 3

    asyncio.run(asyncio.wait_for(main(), 30))


def test_groups_whose_rows_cannot_be_stored_have_failed(puts):
    async def main():
        store = GroupStore()
        done = {"status": "finished", "first": 4, "rollouts": []}
        await asyncio.gather(
            store.put("a", done, [row("a", 4, 2)]), store.put("broken", done, [row("broken", 4, 2)])
        )

    asyncio.run(main())
    (word,) = puts
    assert word["keys"] == ["a", "broken"]
    assert word["tags"] == [{"first": 4, "status": "failure", "reason": "RuntimeError"}] * 2


@pytest.mark.parametrize("failures", [1, 2])
def test_a_word_that_is_not_taken_is_put_again_and_then_told_of(puts, monkeypatch, failures):
    """Nobody would hear of its groups, and all that waits for them would wait for its timeout."""
    put = group_store.tq.async_kv_batch_put
    left = [failures]

    async def fails_first(**given):
        if "fields" not in given and left[0]:
            left[0] -= 1
            raise RuntimeError("no answer")
        await put(**given)

    monkeypatch.setattr(group_store.tq, "async_kv_batch_put", fails_first)

    async def main():
        store = GroupStore()
        waiting = asyncio.create_task(store.more_than(0))
        await store.put("a", {"status": "finished", "first": 0}, [row("a", 0, 2)])
        return await waiting

    run = asyncio.wait_for(main(), 10)
    if failures == 1:
        assert asyncio.run(run) == 1
        assert [made["keys"] for made in puts] == [["a_0_0"], ["a"]]
    else:
        with pytest.raises(RuntimeError, match="takes no word on prompt groups a"):
            asyncio.run(run)
