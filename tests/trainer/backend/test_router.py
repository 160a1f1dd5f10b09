from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from trainer.backend.router import Router
from trainer.backend.settings import ROUTER


def router(engines: int) -> Router:
    return Router({f"e{i}": f"handle {i}" for i in range(engines)}, {})


@given(st.integers(1, 8), st.integers(0, 60))
def test_groups_are_spread_evenly(engines, groups):
    asked = router(engines)
    given_to = Counter(asked.acquire_server(f"g{i}")[0] for i in range(groups))
    counts = [given_to[name] for name in asked.servers]
    assert max(counts) - min(counts) <= 1


def test_a_group_goes_back_to_the_engine_that_has_read_its_prompt():
    asked = router(2)
    first = asked.acquire_server("a")
    asked.acquire_server("b")
    asked.release_server("e1")
    assert asked.acquire_server("a") == first == ("e0", "handle 0")


def test_an_engine_that_has_answered_is_asked_next():
    asked = router(2)
    asked.acquire_server("a")
    asked.acquire_server("b")
    asked.release_server("e1")
    assert asked.acquire_server("c")[0] == "e1"


def test_what_it_remembers_is_bounded(monkeypatch):
    monkeypatch.setattr("trainer.backend.router.REMEMBERED", 3)
    asked = router(1)
    for group in "abcde":
        asked.acquire_server(group)
    assert list(asked.had) == ["c", "d", "e"]


def test_verl_is_told_of_it():
    assert ROUTER.read_text().strip() == f"router_class: {Router.__module__}.{Router.__name__}"
