"""The grader within Ray's actors, where the main thread is not the one that grades."""

import pytest
import ray


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


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
