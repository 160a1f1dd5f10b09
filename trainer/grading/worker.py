"""A process that forks others which compare answers with math-verify, to be killed at any moment.

Run as a script by `trainer.grading.pool`, never imported. sympy can hang inside one C call on
answers such as 9^{9^{9^9}}, where no signal handler gets a turn, and can ask for gigabytes; only
a process can be stopped then. This one loads math-verify once (a second or two) and never sees an
answer; its forks start in milliseconds and share its memory.

Commands, one line each: `fork`, answered by the fork's pid and a socket to it; `kill PID`, not
answered. A fork reads {"answer": ..., "truths": [...]} and writes one
JSON line.

Arguments: file descriptor of the control socket, seconds per answer, MiB per fork.
"""

import contextlib
import ctypes
import gc
import json
import logging
import os
import resource
import select
import signal
import socket
import sys
from functools import lru_cache

ANSWERS = 1000  # after which a fork is replaced: sympy's caches grow
TRUTHS = 512  # that a fork remembers parsed: a prompt's answers come one after another
CANARY = (r"\frac{1}{\sqrt{2}}", r"\sqrt{2}")  # half the root of two, or not
# Of each kind of LaTeX something, and something broken: what the parser and sympy learn and load
# on its first sight is learnt before the forks, once for all of them.
WARM = [
    (r"\{(1, 2), (x, 3)\}", r"[a, a + b) \cup (c, \infty)"),
    (r"x = 1 \text{ or } x = 2^{n+1}", "1, 2"),
    (r"8", "[a, b]"),
    (r"2x - \frac{x+1}{3} < 5 y_1", r"\sin(2x) - 3^{k}"),
    ("(a, b) = (3, 4)", r"7\%"),
    ("3(x + = 2^ ) y_", "5"),
    (r"12ab7 - 4\{3", r"6 + 4\pi i"),
]
REAP_SECONDS = 0.3
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
LIBC = ctypes.CDLL(None)


def main(control: socket.socket, seconds: float, memory: int) -> None:
    """Load, try a problem with a known answer, and fork on command until the socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    logging.disable()
    asked = [{"answer": answer, "truths": [r"\frac{\sqrt{2}}{2}"]} for answer in CANARY]
    canary = [compared(one).get("correct") for one in asked]
    for answer, truth in WARM:
        compared({"answer": answer, "truths": [truth]})
    gc.collect()
    gc.freeze()  # the forks share these pages as long as nobody touches them
    control.sendall(json.dumps({"canary": canary}).encode() + b"\n")
    forks: set[int] = set()
    while True:
        forks -= reaped()
        # Looked for every now and then: forks die unasked too, and gigabytes are not freed at once.
        if not select.select([control], [], [], REAP_SECONDS)[0]:
            continue
        commands = control.recv(4096).decode().splitlines()
        if not commands:
            break
        for line in commands:
            command, _, argument = line.partition(" ")
            if command == "fork":
                forks.add(fork(control, seconds, memory))
            elif command == "kill" and int(argument) in forks:
                os.kill(int(argument), signal.SIGKILL)  # not reaped yet: the number is its own
    for pid in forks:
        os.kill(pid, signal.SIGKILL)


def reaped() -> set[int]:
    """The forks that have died since this was last asked; none is left as a zombie."""
    found = set()
    with contextlib.suppress(ChildProcessError):  # there are none at all
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            found.add(pid)
    return found


def fork(control: socket.socket, seconds: float, memory: int) -> int:
    """Start a process that compares, and send its number and a socket to it."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        control.close()
        ours.close()
        serve(theirs, seconds, memory)
        os._exit(0)
    theirs.close()
    socket.send_fds(control, [str(pid).encode()], [ours.fileno()])
    ours.close()
    return pid


def serve(channel: socket.socket, seconds: float, memory: int) -> None:
    """Compare until the other end is closed, within limits that hold for this process alone."""
    LIBC.prctl(DIE_WITH_PARENT, signal.SIGKILL)
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    limit = used + (memory << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Answers are a model's words: whatever they make a parser do, no file is written.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for count, line in enumerate(channel.makefile("r"), start=1):
        # Should nobody be left to kill this process, its own processor time does.
        signal.setitimer(signal.ITIMER_PROF, 2 * seconds)
        reply = compared(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        # math-verify takes a MemoryError for "not equal"; how far this process grew tells which.
        if not reply["correct"] and peak() > limit - (memory << 17):
            reply = {"correct": False, "error": "MemoryError"}
        last = count >= ANSWERS or reply.get("error") == "MemoryError"
        channel.sendall(json.dumps({**reply, "last": last}).encode() + b"\n")
        if last:
            return


def peak() -> int:
    """The most address space that this process ever had, in bytes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmPeak"))


def compared(asked: dict) -> dict:
    """`correct`, whether any truth is met; `parsed`, whether the answer was understood."""
    try:
        answer = expressions(asked["answer"], whole=False)
        correct = any(verified(list(of_truth(truth)), answer) for truth in asked["truths"])
        return {"correct": correct, "parsed": any(not isinstance(one, str) for one in answer)}
    except Exception as error:  # sympy raises of every kind on a model's words
        return {"correct": False, "error": type(error).__name__}


def verified(truth: list, answer: list) -> bool:
    """Whether math-verify finds them equal; an inequality may stand for its interval."""
    from math_verify import verify

    asked = {"timeout_seconds": None, "allow_set_relation_comp": True}
    try:
        return verify(truth, answer, raise_on_error=True, **asked)
    except MemoryError:
        raise
    except Exception:  # of one way to compare them; there may be others
        return verify(truth, answer, **asked)


@lru_cache(TRUTHS)
def of_truth(text: str) -> tuple:
    """What math-verify reads in an accepted answer."""
    return tuple(expressions(text, whole=True))


def expressions(text: str, *, whole: bool) -> list:
    """What math-verify reads in a text: as a box, as its users give it, or as a formula.

    Where the whole is not understood it looks for a number somewhere in it. That will do for an
    answer, `7 or so`, but not for a truth: not every answer with a half in it is the matrix.
    """
    from math_verify import LatexExtractionConfig, parse

    for formula in (f"\\boxed{{{text}}}", f"${text}$"):
        found = parse(
            formula, [LatexExtractionConfig()], extraction_mode="first_match", parsing_timeout=None
        )
        if any(not isinstance(one, str) for one in found):
            return found
    return [text] if whole else [*parse(f"\\boxed{{{text}}}", parsing_timeout=None), text]


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2]), int(sys.argv[3]))
