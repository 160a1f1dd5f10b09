"""Groups that are submitted together reach their engines in one request each, and hear of it."""

import asyncio
from types import SimpleNamespace

import pytest

from trainer.backend.router import Router
from trainer.backend.submission import Submission

PARAMS = {"temperature": 1.0}


class Remote:
    """Methods of an object as those of a Ray actor: `handle.method.remote(...)` to be awaited."""

    def __init__(self, actor):
        for name in dir(actor):
            if not name.startswith("_"):
                setattr(self, name, SimpleNamespace(remote=self._later(getattr(actor, name))))

    @staticmethod
    def _later(method):
        def call(*arguments, **settings):
            async def made():
                result = method(*arguments, **settings)
                return await result if asyncio.iscoroutine(result) else result

            return asyncio.ensure_future(made())

        return call


class Whole:
    """An engine that takes groups."""

    def __init__(self):
        self.requests = []

    def generate_groups(self, groups, params):
        self.requests.append(groups)
        return [[(*prompt, seed) for seed in seeds] for prompt, seeds in groups]


class Single:
    """An engine that takes rollouts, and may be slow."""

    def __init__(self):
        self.gate = None

    async def generate(self, request_id, prompt_ids, sampling_params):
        if self.gate and prompt_ids == [2]:
            await self.gate.wait()
        return (request_id, sampling_params.get("seed"))


def submission(engines, groups):
    handles = {f"e{i}": Remote(engine) for i, engine in enumerate(engines)}
    router = Router(handles, {})
    return Submission(Remote(router), groups), router


def test_each_engine_gets_one_request_when_all_have_asked():
    engines = [Whole(), Whole()]

    async def main():
        together, router = submission(engines, 5)
        asked = [
            asyncio.create_task(together.ask(f"g{i}", [i], [10 * i, 10 * i + 1], PARAMS))
            for i in range(4)
        ]
        await asyncio.sleep(0.01)
        assert not any(engine.requests for engine in engines)  # one has yet to ask
        together.withdraw()
        answers = await asyncio.gather(*asked)
        await asyncio.sleep(0.01)
        assert router.busy == {"e0": 0, "e1": 0}
        return answers

    answers = asyncio.run(asyncio.wait_for(main(), 30))
    assert answers == [[(i, 10 * i), (i, 10 * i + 1)] for i in range(4)]
    assert [len(engine.requests) for engine in engines] == [1, 1]
    assert [len(engine.requests[0]) for engine in engines] == [2, 2]


def test_of_an_engine_of_single_rollouts_each_group_comes_back_by_itself():
    engine = Single()

    async def main():
        engine.gate = asyncio.Event()
        together, _ = submission([engine], 2)
        slow = asyncio.create_task(together.ask("slow", [2], [None], PARAMS))
        assert await together.ask("fast", [1], [7, 8], PARAMS) == [("fast_0", 7), ("fast_1", 8)]
        assert not slow.done()
        engine.gate.set()
        assert await slow == [("slow_0", None)]

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize("broken", ["engine", "router", "answer"])
def test_who_waits_hears_of_a_failure(broken):
    class Broken(Whole):
        def generate_groups(self, groups, params):
            if broken == "answer":
                return [[0]]  # of two groups
            raise RuntimeError("no memory")

    async def main():
        together, router = submission([Broken()], 2)
        if broken == "router":

            def gone(_):
                raise RuntimeError("no memory")

            router.acquire_servers = gone
            together.router = Remote(router)
        asked = [together.ask(uid, [1], [0], PARAMS) for uid in "ab"]
        found = await asyncio.gather(*asked, return_exceptions=True)
        said = "shorter" if broken == "answer" else "no memory"
        assert all(said in str(error) for error in found)
        await asyncio.sleep(0.01)
        assert router.busy == {"e0": 0}

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_submission_whose_groups_all_withdraw_asks_nobody():
    engine = Whole()

    async def main():
        together, _ = submission([engine], 1)
        together.withdraw()
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert not engine.requests
