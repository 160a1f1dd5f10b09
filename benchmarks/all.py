"""Every benchmark that needs no GPU and no data set from elsewhere, one after the other.

    python -m benchmarks.all                  # an hour and a half; writes into benchmarks/results
    python -m benchmarks.all step overhead    # some of them

The machine should do nothing else meanwhile. The grader's and the data's need FastCuRL's files and
are run by themselves (`benchmarks.grader`, `benchmarks.data`), and so is what trains for long
(`benchmarks.lab_loop`, `benchmarks.lab_seeds`, `benchmarks.selection_lab`, and
`python -m benchmarks.overhead --experiment lab/fastcurl`).
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
AROUND = "benchmarks/results/step_around"
COMMANDS = {
    "step": "benchmarks.step",
    "around": "benchmarks.step --instant --systems ours stock --rounds 5 --prompts 128 "
    f"--rollouts 16 --output {AROUND}",
    "scaling": "benchmarks.scaling",
    "overhead": "benchmarks.overhead",
    "selection": "benchmarks.selection",
    "streaming": "benchmarks.streaming",
    "james_stein": "benchmarks.james_stein --write",
    "study_report": "benchmarks.study_report",
    "interval_coverage": "benchmarks.interval_coverage --studies 4000 --resamples 500",
    "log_probs": "benchmarks.log_probs",
    "lab_base": "benchmarks.lab_base",
}


def main() -> None:
    """Run those asked for; one that fails does not keep the others from running."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(COMMANDS)}; none: all")
    asked = parser.parse_args().names or list(COMMANDS)
    if unknown := set(asked) - set(COMMANDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(COMMANDS)}")
    failed = []
    for name in asked:
        print(f"\n--- {name}: python -m {COMMANDS[name]}", flush=True)
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", *COMMANDS[name].split()], cwd=ROOT)
        print(f"--- {name}: {time.monotonic() - began:.0f} s", flush=True)
        failed += [name] if done.returncode else []
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
