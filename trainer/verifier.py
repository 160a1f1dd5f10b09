"""A process that compares mathematical expressions, to be killed when it takes too long.

Run as a script by `trainer.rewards`, never imported: sympy can hang inside one C call on answers
such as 9^{9^{9^9}}, where no signal handler gets a turn, and can ask for gigabytes.

Reads {"answer": ..., "truths": [...]} and writes {"correct": ...}, one JSON object a line.

Arguments: seconds of computing per line, MiB of memory.
"""

import json
import os
import resource
import signal
import sys


def main(seconds: float, memory: int) -> None:
    """Serve comparisons until standard input ends."""
    # The replies have a pipe of their own, so nothing that a library prints can garble them.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    resource.setrlimit(resource.RLIMIT_AS, (memory << 20, memory << 20))

    import logging

    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable()
    # Answers are a model's words: whatever they make a parser do, no file is written.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    latex = [LatexExtractionConfig()]

    def expression(text: str) -> list:
        # Not the extraction of plain expressions: sympy evaluates those as Python.
        return parse(f"${text}$", latex, fallback_mode="no_fallback", parsing_timeout=None)

    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        # When the parent is gone and nobody kills this process, its own processor time does.
        signal.setitimer(signal.ITIMER_PROF, 2 * seconds)
        asked = json.loads(line)
        try:
            answer = expression(asked["answer"])
            correct = bool(answer) and any(
                verify(expression(truth), answer, timeout_seconds=None) for truth in asked["truths"]
            )
            reply = {"correct": correct}
        except Exception as error:  # sympy raises of every kind on a model's words
            reply = {"correct": False, "error": type(error).__name__}
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
