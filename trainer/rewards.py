r"""Is a response right? The verifier of mathematical answers.

A response ends its reasoning with `</think>` and then gives its answer in \boxed{...}. Cheap
decisions come first (equal text, equal numbers); only what they leave open is compared by
math-verify, in a process of its own that is killed when its time is up.
"""

import atexit
import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from threading import Lock

from trainer.answers import last_boxed, normalized, number

SECONDS = 5.0
MEMORY = 2048  # MiB of address space; sympy itself takes about 300
START_SECONDS = 120.0
LONGEST_ANSWER = 2000  # characters; the longest truth of the public sets has fewer than 400


class Reason(StrEnum):
    """Why a response was graded as it was."""

    SAME_TEXT = "same text"
    SAME_NUMBER = "same number"
    SAME_EXPRESSION = "same expression"
    WRONG = "wrong answer"
    NO_THINK_TAG = "missing think tags"
    NO_ANSWER = "no answer found"
    TOO_LONG = "answer too long"
    TIMEOUT = "comparison timed out"
    FAILED = "comparison failed"


@dataclass(frozen=True)
class Grade:
    """The verdict on a response.

    Attributes:
        correct: Whether the answer is one of the accepted ones.
        reason: Why.
        answer: What stood in the last box, None where there was none.
    """

    correct: bool
    reason: Reason
    answer: str | None


def grade(response: str, answers: Sequence[str], *, symbolic: bool = True) -> Grade:
    r"""Grade one response. Whatever it says, this neither raises nor hangs.

    The answer is the last \boxed{...} (or \fbox{...}) after the last `</think>`. The opening tag
    is not asked for: chat templates end the prompt with it.

    Args:
        response: The text after the prompt, without special end tokens.
        answers: Accepted answers; any of them will do.
        symbolic: Whether to compare expressions where text and numbers decide nothing. Without
            it such answers are wrong, and no process is ever started.

    Raises:
        RuntimeError: when the comparing process cannot be started on this machine.

    Source:
        DeepScaleR's reward, which FastCuRL uses too. We differ: the opening tag is not needed,
        unreduced fractions count as numbers, and math-verify replaces sympy's own parser.

    >>> grade(r"1+1=2</think>\boxed{2}", ["2"])
    Grade(correct=True, reason=<Reason.SAME_TEXT: 'same text'>, answer='2')
    """
    _, tag, tail = response.rpartition("</think>")
    if not tag:
        return Grade(False, Reason.NO_THINK_TAG, None)
    answer = last_boxed(tail)
    if answer is None or not normalized(answer):
        return Grade(False, Reason.NO_ANSWER, answer)
    if len(answer) > LONGEST_ANSWER:
        return Grade(False, Reason.TOO_LONG, answer)
    open_answers = []
    for truth in answers:
        reason = _cheap(answer, truth)
        if reason is None:
            open_answers.append(truth)
        elif reason is not Reason.WRONG:
            return Grade(True, reason, answer)
    if not open_answers or not symbolic:
        return Grade(False, Reason.WRONG, answer)
    reason = _verifier().compare(answer, open_answers)
    return Grade(reason is Reason.SAME_EXPRESSION, reason, answer)


def grade_many(
    responses: Sequence[str], answers: Sequence[Sequence[str]], *, symbolic: bool = True
) -> list[Grade]:
    """Grade each response by the accepted answers at its position.

    Raises:
        ValueError: when there are not as many responses as lists of answers.
    """
    if len(responses) != len(answers):
        raise ValueError(
            f"found {len(responses)} responses and {len(answers)} lists of answers, needed as "
            "many of each\n\nhint: repeat the answers for every sample of a problem"
        )
    return [
        grade(response, accepted, symbolic=symbolic)
        for response, accepted in zip(responses, answers, strict=True)
    ]


def answer_is_parsable(answer: str) -> bool:
    r"""Whether a response could ever be graded right against this answer.

    That is so when it can stand in \boxed{...}: it says something, its braces pair up, and it is
    not longer than what is compared.

    >>> [answer_is_parsable(answer) for answer in (r"\frac{1}{2}", r"\frac{1}{2", "$ $")]
    [True, False, False]
    """
    return (
        bool(normalized(answer))
        and len(answer) <= LONGEST_ANSWER
        and last_boxed(f"\\boxed{{{answer}}}") == answer.strip()
    )


def _cheap(answer: str, truth: str) -> Reason | None:
    """What text and numbers decide, or None where they decide nothing."""
    if normalized(answer) == normalized(truth):
        return Reason.SAME_TEXT
    left, right = number(answer), number(truth)
    if left is None and right is not None:
        left = number(_UNIT.sub("", answer.rpartition("=")[2]))  # "x = 7" and "7 cm" are 7
    if left is not None and right is not None:
        same = left == right or _rounds(answer, left, right) or _rounds(truth, right, left)
        if ("%" in answer) != ("%" in truth):  # 50 % is 50, and 0.5
            same |= left == right * 100 if "%" in answer else left * 100 == right
        return Reason.SAME_NUMBER if same else Reason.WRONG
    if re.fullmatch(r"[-+]?\d+", truth.strip()) and not re.search(r"[\\^!]", answer):
        # Against an integer only an expression that has to be worked out is still open.
        return Reason.WRONG
    return None


# Of two letters at least, and set apart: 7 cm, 7\text{ cm}^2; but not 7n, 7 n or 7 pi.
_UNIT = re.compile(
    r"(?:\s*\\(?:text|mathrm|mbox)\s*\{[^{}]{2,}\}|\s+(?!pi\b)[A-Za-z]{2,}(?: +[A-Za-z]+)*)"
    r"(?:\^\{?\d\}?)?\s*$"
)


def _rounds(text: str, rounded: Fraction, exact: Fraction) -> bool:
    """Whether a decimal of six or more places is the other number, rounded."""
    places = len(text.partition(".")[2].strip("$ "))
    return places >= 6 and "." in text and round(exact, places) == rounded


class Verifier:
    """The process that compares expressions: started when first needed, restarted when killed.

    Threads may share one; comparisons wait for each other.
    """

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        """Start nothing yet.

        Args:
            seconds: Time for one comparison.
            memory: Address space of the process, in MiB.
        """
        self.seconds, self.memory = seconds, memory
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process that is running, if any."""
        return self._process.pid if self._process else None

    def compare(self, answer: str, truths: Sequence[str]) -> Reason:
        """SAME_EXPRESSION, WRONG, TIMEOUT or FAILED (out of memory, or the process died).

        Raises:
            RuntimeError: when the process cannot start, for instance without math-verify.
        """
        line = json.dumps({"answer": _bare(answer), "truths": [_bare(truth) for truth in truths]})
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            try:
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()
                reply = self._reply(self.seconds)
            except TimeoutError:
                self._stop()
                return Reason.TIMEOUT
            except (OSError, ValueError):  # it died: a broken pipe, or no whole line
                self._stop()
                return Reason.FAILED
        if "error" in reply:
            return Reason.FAILED if reply["error"] == "MemoryError" else Reason.WRONG
        return Reason.SAME_EXPRESSION if reply["correct"] else Reason.WRONG

    def close(self) -> None:
        """End the process, if it runs."""
        with self._lock:
            self._stop()

    def _start(self) -> None:
        self._stop()
        script = Path(__file__).with_name("verifier.py")
        # -P: not to find modules beside the script under the names of the standard library's.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(script), str(self.seconds), str(self.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            self._reply(START_SECONDS)
        except (OSError, ValueError) as error:
            self._stop()
            raise RuntimeError(
                f"the process that compares expressions did not start within {START_SECONDS:.0f} "
                f"s and {self.memory} MiB\n\nhint: try {sys.executable} -c 'import math_verify'"
            ) from error

    def _reply(self, seconds: float) -> dict:
        out = self._process.stdout
        # Replies are single short lines, so the first byte ready means the line is on its way.
        if not select.select([out], [], [], seconds)[0]:
            raise TimeoutError
        return json.loads(out.readline())

    def _stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            with suppress(BrokenPipeError):  # what was still to be written to it
                self._process.stdin.close()
            self._process.stdout.close()
            self._process = None


def _bare(text: str) -> str:
    text = text.strip()
    while text.startswith("$") and text.endswith("$") and len(text) > 1:
        text = text[1:-1].strip()
    return text


_shared: dict[int, Verifier] = {}


def _verifier() -> Verifier:
    """The verifier of this process. A fork gets its own: it must not share the parent's pipe."""
    owner = os.getpid()
    if owner not in _shared:
        made = Verifier()
        if _shared.setdefault(owner, made) is made:  # of several threads, one puts its own there
            atexit.register(_close, owner)
    return _shared[owner]


def _close(owner: int) -> None:
    # A fork inherits what is registered here, but the process is not its to end.
    if os.getpid() == owner:
        _shared[owner].close()
