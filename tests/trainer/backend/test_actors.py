"""With real actors of Ray: the grader within them, and which of them are dead."""

import pytest
import ray

from trainer.backend.queue_watch import dead


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_an_actor_that_was_killed_is_dead_and_one_that_is_busy_is_not(cluster, monkeypatch):
    class Actor:
        def work(self, seconds):
            import time

            time.sleep(seconds)

    monkeypatch.setattr("trainer.backend.queue_watch.LOOK", 0.5)
    actors = {name: ray.remote(Actor).options(num_cpus=0).remote() for name in ("a", "b", "c")}
    ray.get([actor.work.remote(0) for actor in actors.values()])
    assert dead(actors) == []
    actors["b"].work.remote(600)
    ray.kill(actors["c"])
    assert dead(actors) == ["c"]


def test_an_async_and_a_threaded_actor_grade_right_and_survive_a_hostile_answer(cluster):
    class Grader:
        def grade(self, responses, answers):
            from trainer.rewards import Limits, configure, grade_many

            configure(Limits(seconds=4.0))  # a busy machine is slow to begin
            return [str(grade.reason) for grade in grade_many(responses, answers)]

    class AsyncGrader(Grader):
        async def grade_aside(self, responses, answers):
            import asyncio

            return await asyncio.to_thread(self.grade, responses, answers)

    asked = ["\\boxed{1/2}", "\\boxed{x^2+2x+1}", "\\boxed{3}", "\\boxed{9^{9^{9^{9^9}}}-x}"]
    truths = [["0.5"], ["(x+1)^2"], ["4"], ["\\int_0^1 x^x dx"]]
    expected = ["equal by value", "equal by value", "not equal"]
    threaded = ray.remote(Grader).options(max_concurrency=2).remote()
    within = ray.remote(AsyncGrader).remote()
    found = ray.get(
        [
            threaded.grade.remote(asked, truths),
            threaded.grade.remote(asked, truths),
            within.grade_aside.remote(asked, truths),
        ],
        timeout=120,
    )
    for reasons in found:
        assert reasons[:3] == expected
        assert reasons[3] in ("timed out", "out of memory", "not equal", "unparsable")
