"""What a failed stage says: the first cause, out of Ray's wrapping, and only once."""

import inspect
import json
from types import SimpleNamespace

import pytest
import ray
import transfer_queue

from trainer.backend import run
from trainer.backend.run import root_cause, write_failure

MESSAGE = "found 3 things, needed 4\n\nhint: set knob=4"

# As Ray 2.x words the death of an actor while it was made.
DIED = f"""The actor died because of an error raised in its creation task, \
\x1b[36mray::B.__init__()\x1b[39m (pid=16, ip=10.0.0.2, actor_id=94, repr=<actors.B object at 0x7f>)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "actors.py", line 14, in __init__
    raise ValueError("found 3 things, needed 4\\n\\nhint: set knob=4")
ValueError: {MESSAGE}"""


def task_error(cause: Exception) -> Exception:
    return ray.exceptions.RayTaskError("run", f"Traceback\n{cause!r}", cause).as_instanceof_cause()


def actor_death(text: str) -> ray.exceptions.RayActorError:
    error = ray.exceptions.RayActorError()
    error.error_msg = text
    assert str(error) == text
    return error


def test_an_error_of_ours_is_its_own_cause():
    assert root_cause(ValueError(MESSAGE)) == ("ValueError", MESSAGE)


def test_a_message_that_quotes_an_error_is_left_whole():
    message = "the last lines were\nKeyError: 'x'"
    assert root_cause(RuntimeError(message)) == ("RuntimeError", message)


def test_a_task_keeps_its_error():
    error = task_error(ValueError(MESSAGE))
    assert type(error) is not ValueError and str(error) != MESSAGE
    assert root_cause(error) == ("ValueError", MESSAGE)


def test_a_task_in_a_task_keeps_the_innermost_error():
    assert root_cause(task_error(task_error(KeyError("a")))) == ("KeyError", "'a'")


def test_of_a_dead_actor_type_and_message_are_read_from_the_text():
    assert root_cause(actor_death(DIED)) == ("ValueError", MESSAGE)


@pytest.mark.parametrize("kind", ["torch.OutOfMemoryError", "my.package.SomeException"])
def test_the_type_of_an_error_comes_without_its_module(kind):
    died = DIED.replace("\nValueError: ", f"\n{kind}: ")
    assert root_cause(actor_death(died)) == (kind.rpartition(".")[2], MESSAGE)


def test_of_a_chain_of_errors_the_last_one_is_told():
    """`raise B from A` prints A first; B is what our code has to say about it."""
    chained = (
        "KeyError: 'x'\n\nThe above exception was the direct cause of the following exception:\n\n"
    )
    died = DIED.replace("\nValueError: ", f"\n{chained}ValueError: ")
    assert root_cause(actor_death(died)) == ("ValueError", MESSAGE)


def test_a_dead_actor_without_an_error_says_what_ray_says():
    text = "The actor died unexpectedly before finishing this task."
    assert root_cause(actor_death(text)) == ("RayActorError", text)


def test_a_failure_is_written_with_type_message_and_traceback(tmp_path):
    try:
        raise ValueError(MESSAGE)
    except ValueError as error:
        write_failure(tmp_path / "failure.json", error)
    written = json.loads((tmp_path / "failure.json").read_text())
    assert (written["type"], written["message"]) == ("ValueError", MESSAGE)
    assert "raise ValueError(MESSAGE)" in written["traceback"]


def test_what_the_nearest_process_wrote_is_not_written_over(tmp_path):
    path = tmp_path / "failure.json"
    write_failure(path, ValueError(MESSAGE))
    before = path.read_bytes()
    write_failure(path, actor_death("The actor died."))
    assert path.read_bytes() == before


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster of which only names are known: how long others keep queue and claim."""
    there = SimpleNamespace(queue=0, claim=0, looks=0)

    def get_actor(name, namespace=None):
        assert (name, namespace) == ("TransferQueueController", "transfer_queue")
        there.looks += 1
        if there.looks > there.queue:
            raise ValueError("Failed to look up actor")

    def remote(**options):
        assert options == {"num_cpus": 0}
        return lambda kind: SimpleNamespace(options=named)

    def named(name, namespace):
        return SimpleNamespace(remote=lambda: taken(name))

    def taken(name):
        if there.looks < there.claim:
            raise ValueError(f"The name {name} is already taken")
        return name

    monkeypatch.setattr(ray, "get_actor", get_actor)
    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(run, "ENDS", 0.05)
    monkeypatch.setattr(run.time, "sleep", lambda _: None)
    return there


def test_a_free_cluster_is_taken(cluster):
    assert run.claim("10.0.0.1:6379") == "stagecraft" and cluster.looks == 1


@pytest.mark.parametrize("kept", ["queue", "claim"])
def test_a_stage_that_ends_is_waited_for(cluster, kept):
    setattr(cluster, kept, 2)
    assert run.claim("10.0.0.1:6379") == "stagecraft" and cluster.looks == 3


@pytest.mark.parametrize("kept", ["queue", "claim"])
def test_a_second_stage_on_a_cluster_is_refused(cluster, kept):
    setattr(cluster, kept, 10**6)
    with pytest.raises(RuntimeError, match="another stage at work on the Ray cluster here"):
        run.claim("here")


def test_the_queue_is_named_so():
    source = inspect.getsource(transfer_queue.init)
    assert all(f'{key}="{value}"' in source for key, value in run.QUEUE.items())
