"""The replay buffer between a stream and verl's transfer queue, which a dictionary stands for."""

import time
from types import SimpleNamespace

import pytest
import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from tensordict import TensorDict

from conf.schema import Selection
from trainer.backend import replay_buffer as module
from trainer.backend import rows as rows_module
from trainer.backend.engine import KL, LARGEST
from trainer.backend.replay_buffer import PARTITION, EngineLostError, PromptReplayBuffer
from trainer.backend.rows import correct_for_age, only_trained, restore, waiting, waiting_rows
from trainer.backend.stop import StopRequestedError
from trainer.selection import Bounds, NothingToTrainOnError, Prompt, Stream, make_curriculum


class Queue:
    """What the transfer queue keeps: for each key its tag and, of a rollout, its fields."""

    def __init__(self, monkeypatch):
        self.tags: dict[str, dict] = {}
        self.fields: dict[str, dict] = {}
        for name in ("kv_list", "kv_clear", "kv_batch_put", "kv_batch_get"):
            monkeypatch.setattr(tq, name, getattr(self, name))

    def kv_list(self, partition_id):
        return {partition_id: {key: dict(tag) for key, tag in self.tags.items()}}

    def kv_clear(self, keys, partition_id):
        for key in keys:
            del self.tags[key]
            self.fields.pop(key, None)

    def kv_batch_put(self, keys, partition_id, fields=None, tags=None):
        for place, key in enumerate(keys):
            self.tags.setdefault(key, {}).update(tags[place] if tags else {})
            if fields is not None:
                row = {name: column.unbind()[place] for name, column in fields.items()}
                self.fields.setdefault(key, {}).update(row)

    def kv_batch_get(self, keys, partition_id, select_fields=None):
        names = select_fields or list(self.fields[keys[0]])
        columns = {
            name: torch.nested.as_nested_tensor(
                [self.fields[key][name] for key in keys], layout=torch.jagged
            )
            for name in names
        }
        return TensorDict(columns, batch_size=[len(keys)])


class Engine:
    """Samples what the buffer asks for: `outcome(order)` gives what was right, or a failure."""

    def __init__(self, queue, outcome):
        self.queue, self.outcome, self.asked = queue, outcome, []
        self.policy = 0

    def __call__(self, orders):
        for order in orders:
            self.asked.append((order.group.uid, order.first, order.count))
            uid = order.group.uid
            self.queue.kv_batch_put([uid], PARTITION, tags=[{"status": "pending"}])
            answer = self.outcome(order)
            if answer is None:
                continue
            tag = {"first": order.first}
            if isinstance(answer, str):
                tag |= {"status": "failure", "reason": answer}
            else:
                rows = [(float(right), float(right), 3, self.policy) for right in answer]
                keys = module.rows(uid, range(order.first, order.first + order.count))
                tags = [{"min_global_steps": self.policy, "seq_len": 8}] * order.count
                probs = [torch.full((3,), -0.5 - self.policy) for _ in keys]
                nested = torch.nested.as_nested_tensor(probs, layout=torch.jagged)
                fields = TensorDict({"rollout_log_probs": nested}, batch_size=[len(keys)])
                self.queue.kv_batch_put(keys, PARTITION, fields, tags)
                tag |= {"status": "finished", "rollouts": rows}
            self.queue.kv_batch_put([uid], PARTITION, tags=[tag])


@pytest.fixture
def follow(monkeypatch, tmp_path):
    """Builds (queue, engine, stream, buffer) for a selection of 40 prompts."""
    monkeypatch.setattr(rows_module, "COLUMNS", ("rollout_log_probs",))  # all that `Engine` gives

    def build(name, outcome, *, batch_size=4, group_size=4, timeout=60.0, max_age=1, **knobs):
        queue = Queue(monkeypatch)
        prompts = [Prompt(f"p{i}", 1) for i in range(40)]
        curriculum = make_curriculum(
            Selection(name=name, **knobs).model_dump(),
            prompts,
            group_size=group_size,
            seed=0,
            steps=10,
        )
        stream = Stream(curriculum, Bounds(batch_size, 4 * batch_size, max_age, 64))
        buffer = PromptReplayBuffer(
            trainer_mode="sync",
            trainer_config=OmegaConf.create({}),
            max_off_policy_threshold=None,
            max_off_policy_strategy="drop",
            sampler_kwargs=OmegaConf.create({"stop_file": str(tmp_path / "stop")}),
            refill_fn=None,
        )
        engine = Engine(queue, outcome)
        buffer.follow(stream, engine, lambda _: time.sleep(0.001), timeout)
        return queue, engine, stream, buffer

    return build


def half(order):
    return [number % 2 for number in range(order.first, order.first + order.count)]


def third_is_flat(order):
    """Of every three groups the second is all wrong."""
    return [0] * order.count if order.group.number % 3 == 1 else half(order)


def test_a_step_is_whole_groups_in_the_order_of_their_draws(follow):
    _queue, _, _, buffer = follow("dapo", third_is_flat)
    buffer.begin(1)
    batch, metrics = buffer.sample(1, "train", 4)
    groups = [choice.group.number for choice in buffer.choices]
    assert groups == [0, 2, 3, 5] and metrics == {}
    assert batch.keys == [key for n in groups for key in module.rows(f"{n:09d}", range(4))]
    assert [tag["seq_len"] for tag in batch.tags] == [8] * 16


def test_of_a_finished_step_nothing_stays_in_the_queue_but_what_trains_or_waits(follow):
    queue, _, stream, buffer = follow("speed", third_is_flat, speed={"screening": 2})
    for step in range(1, 6):
        buffer.begin(step)
        batch, _ = buffer.sample(step, "train", 4)
        queue.kv_clear(batch.keys, PARTITION)  # as verl does after a step
        held = {key.split("_")[0] for key in queue.tags}
        assert held == {group.uid for group in stream.waiting}


def test_a_group_is_screened_with_a_few_rollouts_and_continued_with_the_others(follow):
    _, engine, _, buffer = follow("speed", third_is_flat, speed={"screening": 2})
    buffer.begin(1)
    buffer.sample(1, "train", 4)
    for choice in buffer.choices:
        asked = [order[1:] for order in engine.asked if order[0] == choice.group.uid]
        assert asked == [(0, 2), (2, 2)]


def test_trained_on_its_continuation_a_group_leaves_its_screening_out(follow):
    queue, _, _, buffer = follow("speed", half, speed={"screening": 2, "rows": "continuation"})
    buffer.begin(1)
    batch, _ = buffer.sample(1, "train", 4)
    numbers = {int(key.split("_")[1]) for key in batch.keys}
    assert numbers == {2, 3} and len(batch.keys) == 8
    assert set(batch.keys) == set(queue.tags)


@pytest.mark.parametrize("fault", ["RolloutError", None], ids=["fails", "never comes"])
def test_a_group_that_fails_or_never_comes_is_replaced_and_the_step_goes_on(follow, fault):
    def outcome(order):
        return fault if order.group.number in (1, 2) else half(order)

    _queue, _, stream, buffer = follow("uniform", outcome, timeout=0.2)
    buffer.begin(1)
    _batch, _ = buffer.sample(1, "train", 4)
    assert [choice.group.number for choice in buffer.choices] == [0, 3, 4, 5]
    reason = "failed: RolloutError" if fault else "failed: timeout"
    assert [g["fate"] for g in stream.ledger.groups if g["number"] in (1, 2)] == [reason] * 2
    assert stream.ledger.record()["selection/failed"] == 2


@pytest.mark.parametrize("silence", [40, 80])
def test_a_slow_engine_is_waited_for_and_a_silent_one_is_not(follow, monkeypatch, silence):
    """Four groups come one by one, the last 160 s after it was asked for, or after 320."""
    now, late = [0.0], []

    def outcome(order):
        if order.group.number >= 4:  # takes the place of another
            return half(order)
        late.append(order)

    queue, _, stream, buffer = follow("uniform", outcome, timeout=60.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def wait(_):
        now[0] += 10
        if now[0] % silence or not late:
            return
        uid = late.pop(0).group.uid
        tag = {"status": "finished", "first": 0, "rollouts": [(1.0, 1.0, 3, 0)] * 4}
        queue.kv_batch_put([uid, *module.rows(uid, range(4))], PARTITION, tags=[tag] * 5)

    buffer.alive = 0.0
    buffer.wait = wait
    buffer.begin(1)
    buffer.sample(1, "train", 4)
    lost = [choice.group.number for choice in buffer.choices if choice.group.number >= 4]
    assert len(lost) == stream.ledger.record()["selection/failed"] == (0 if silence == 40 else 4)


def test_groups_that_come_back_are_a_sign_that_a_long_step_goes_on(follow, capsys):
    """Whoever watches for a stall looks at the log, and steps of hours write nothing else there."""
    _, _, _, buffer = follow("uniform", half)
    buffer.signs.last -= 3600
    buffer.begin(7)
    assert not capsys.readouterr().out
    buffer.sample(7, "train", 4)
    assert capsys.readouterr().out == "step 7: prompt groups came back, 0 are out\n"


@pytest.mark.parametrize("answers", [[], [5]], ids=["silent", "once it answered"])
def test_an_engine_that_stays_silent_ends_the_step_before_every_prompt_was_tried(
    follow, monkeypatch, answers
):
    """It used to be asked for the whole set, a few at a time, for as long as `timeout` each."""
    now = [0.0]

    def outcome(order):
        return half(order) if order.group.number in answers else None

    _, engine, _, buffer = follow("uniform", outcome, timeout=60.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    buffer.alive = 0.0
    buffer.wait = lambda _: now.__setitem__(0, now[0] + 7)
    buffer.begin(1)
    with pytest.raises(EngineLostError, match=r"no prompt group came back for 1\d\d s.*\n\nhint: "):
        buffer.sample(1, "train", 4)
    assert len(engine.asked) == (8 if not answers else 11)


def test_rollouts_that_come_after_their_group_was_given_up_are_dropped_and_counted(follow):
    def outcome(order):
        return None if order.group.number == 0 else half(order)

    queue, _engine, stream, buffer = follow("uniform", outcome, timeout=0.1)
    buffer.begin(1)
    batch, _ = buffer.sample(1, "train", 4)
    queue.kv_clear(batch.keys, PARTITION)
    assert set(queue.tags) == {"000000000"}  # its name is kept, for it may come back
    tag = {"status": "finished", "first": 0, "rollouts": [(1.0, 1.0, 3, 0)] * 4}
    queue.kv_batch_put(
        ["000000000", *module.rows("000000000", range(4))], PARTITION, tags=[tag] * 5
    )
    buffer.begin(2)
    batch, _ = buffer.sample(2, "train", 4)
    assert stream.ledger.record()["selection/late"] == 1
    assert not [key for key in queue.tags if key.startswith("000000000")]


def test_a_failure_that_is_told_after_its_group_was_given_up_leaves_nothing_in_the_queue(follow):
    queue, _, stream, buffer = follow(
        "uniform", lambda order: None if order.group.number == 0 else half(order), timeout=0.1
    )
    buffer.begin(1)
    batch, _ = buffer.sample(1, "train", 4)
    queue.kv_clear(batch.keys, PARTITION)
    word = {"status": "failure", "first": 0, "reason": "RolloutError"}
    queue.kv_batch_put(["000000000"], PARTITION, tags=[word])
    buffer.begin(2)
    batch, _ = buffer.sample(2, "train", 4)
    assert stream.ledger.record()["selection/failed"] == 0
    assert set(queue.tags) == set(batch.keys)


def test_an_engine_that_fails_every_group_ends_the_step_with_the_reason(follow):
    _, _, _, buffer = follow("uniform", lambda order: "RolloutError")
    buffer.begin(1)
    with pytest.raises(NothingToTrainOnError, match="40 failed"):
        buffer.sample(1, "train", 4)


@pytest.mark.parametrize("death", ["ActorDiedError", "EngineDeadError"])
def test_a_process_that_died_ends_the_step_and_not_one_prompt_is_skipped(follow, death):
    def outcome(order):
        return death if order.group.number == 2 else half(order)

    _, engine, stream, buffer = follow("uniform", outcome)
    buffer.begin(1)
    with pytest.raises(EngineLostError, match=rf"group 0*2 failed by {death}.*\n\nhint: "):
        buffer.sample(1, "train", 4)
    assert len(engine.asked) == 4
    assert stream.ledger.record()["selection/failed"] == 0


def test_a_stop_is_heard_while_a_step_is_sampled(follow, tmp_path):
    _, _, _, buffer = follow("uniform", lambda order: None)
    buffer.begin(1)
    (tmp_path / "stop").touch()
    with pytest.raises(StopRequestedError):
        buffer.sample(1, "train", 4)


def test_rollouts_of_waiting_groups_survive_a_checkpoint(follow, tmp_path):
    queue, _, stream, buffer = follow("speed", half, in_flight=4.0, speed={"screening": 2})
    stream.tried = 5.0  # few qualified of late: more are screened than there are places
    buffer.begin(1)
    _batch, _ = buffer.sample(1, "train", 4)
    assert stream.waiting
    torch.save(waiting_rows(waiting(stream)), tmp_path / "waiting.pt")
    before = dict(queue.fields)
    keys = [key for g in stream.waiting for key in module.rows(g.uid, range(2))]
    queue.tags.clear(), queue.fields.clear()
    restore(tmp_path / "waiting.pt")
    assert set(queue.fields) == set(keys)
    for key in keys:
        assert torch.equal(queue.fields[key]["rollout_log_probs"], before[key]["rollout_log_probs"])


def test_a_stop_within_a_step_finds_the_rollouts_that_waited_before_it(follow):
    """They train, or are dropped, in the step; the state after the one before still has them."""
    queue, _, stream, buffer = follow(
        "speed", half, speed={"screening": 2, "rows": "continuation"}, group_size=6
    )
    stream.tried = 5.0
    buffer.begin(1)
    batch, _ = buffer.sample(1, "train", 4)
    before = waiting(stream)
    expected = waiting_rows(before)
    buffer.keep(before)
    queue.kv_clear(batch.keys, PARTITION)  # as verl does after a step
    buffer.begin(2)
    batch, _ = buffer.sample(2, "train", 4)
    batch = only_trained(batch, buffer.choices, buffer.drop)
    trained = {key.split("_")[0] for key in batch.keys}
    assert trained & set(before)  # by their continuations: their screenings have been dropped
    found = waiting_rows(before)
    assert found["keys"] == expected["keys"]
    assert [r.tolist() for r in found["fields"]["rollout_log_probs"].unbind()] == [
        r.tolist() for r in expected["fields"]["rollout_log_probs"].unbind()
    ]
    buffer.keep(waiting(stream))  # the step is whole
    left = {key for key in queue.tags if "_" in key}
    queue.kv_clear(batch.keys, PARTITION)
    still = {
        key for uid, count in waiting(stream).items() for key in module.rows(uid, range(count))
    }
    assert left == set(batch.keys) | still


def test_without_waiting_groups_a_checkpoint_holds_none(follow, tmp_path):
    queue, _, stream, _ = follow("uniform", half)
    torch.save(waiting_rows(waiting(stream)), tmp_path / "waiting.pt")
    restore(tmp_path / "waiting.pt")
    assert queue.tags == {}


def test_rollouts_of_an_older_policy_keep_the_log_probabilities_that_they_were_sampled_with(follow):
    queue, engine, stream, buffer = follow("speed", half, speed={"screening": 2})
    stream.tried = 5.0
    buffer.begin(1)
    batch, _ = buffer.sample(1, "train", 4)
    queue.kv_clear(batch.keys, PARTITION)
    engine.policy = 1
    buffer.begin(2)
    batch, _ = buffer.sample(2, "train", 4)
    ours = torch.nested.as_nested_tensor(
        [torch.full((3,), -1.5 + 0.001) for _ in batch.keys], layout=torch.jagged
    )
    recomputed = TensorDict({"old_log_probs": ours}, batch_size=[len(batch.keys)])
    queue.kv_batch_put(batch.keys, PARTITION, recomputed)
    metrics = correct_for_age(batch, policy=1)
    ages = {key: tag["min_global_steps"] for key, tag in zip(batch.keys, batch.tags, strict=True)}
    assert set(ages.values()) == {0, 1}
    for key, policy in ages.items():
        used = queue.fields[key]["old_log_probs"]
        assert torch.allclose(used, torch.full((3,), -0.5 if policy == 0 else -1.499))
    # The difference between engine and trainer is that of the present policy's rollouts alone.
    expected = abs(torch.tensor(-1.5).exp() - torch.tensor(-1.499).exp()).item()
    assert metrics[LARGEST] == pytest.approx(expected, rel=1e-3)
    assert metrics[KL] == pytest.approx(-0.001, rel=1e-3)


def test_a_step_of_the_present_policy_is_left_as_it_is(follow):
    _queue, _engine, _, buffer = follow("uniform", half)
    buffer.begin(1)
    batch, _ = buffer.sample(1, "train", 4)
    assert correct_for_age(batch, policy=0) == {}


def test_rows_that_train_twice_are_copied_and_those_that_do_not_leave_the_queue(follow):
    queue, _, _, buffer = follow("shuffle_r1", half, group_size=2, shuffle_r1={"replay": 8})
    buffer.begin(1)
    batch, _ = buffer.sample(1, "train", 4)
    assert len(batch.keys) == 4 * 4
    trained = only_trained(batch, buffer.choices, buffer.drop)
    wanted = [
        f"{choice.group.uid}_{number}" for choice in buffer.choices for number in choice.trained
    ]
    assert sorted(key.rpartition("_")[0] for key in trained.keys) == sorted(wanted)
    assert len(set(trained.keys)) == len(trained.keys) == 4 * 2
    assert set(trained.keys) == {key for key in queue.tags if "_" in key}
