"""Bring an experiment's data alone: download, gates, prompt sets, and the data card.

python -m flows.data data=lab
python -m flows.data data=fastcurl evaluation=fastcurl gates=as_published
python -m flows.data experiment=fastcurl hardware=cpu
"""

import sys

from prefect import flow

from flows import parameters, steps
from flows.terminal import run
from tasks import prepare
from tasks.artifacts import read_json


@flow(name="data", log_prints=True)
def data(
    experiment: str = "lab/fastcurl",
    overrides: list[str] | None = None,
    output: str | None = None,
) -> str:
    """Download, inspect and divide an experiment's training set; what is there is not done again.

    Args:
        experiment: Name of a file under conf/experiment.
        overrides: Settings that differ from it, such as "data=fastcurl_files".
        output: Folder that everything is written under; none: the experiment's own.

    Returns:
        The data card's path.

    Raises:
        ConfigError: an unknown experiment or setting, or one that cannot work.
        ValueError: the data cannot be had or read, or no row of it is left.
    """
    settings = parameters.data_settings_of(experiment, overrides, output)
    command = ["python", "-m", "flows.data", *parameters.lines(experiment, overrides, output)]
    with steps.session(settings, command, "data") as work:
        ready, _, _, card = steps.prepared(work)
    for one in read_json(ready.kept.folder / prepare.FINDINGS):
        print(
            f"{one['gate']:22} {one['action']:10} {one['found']:8,} found {one['dropped']:8,} out"
        )
    for name, segment in ready.segments.items():
        print(f"{name:22} {segment.rows:8,} prompts")
    print(f"data card: {card.html}")
    return str(card.html)


def main(arguments: list[str]) -> int:
    """Run from a command line of `key=value` settings.

    Returns:
        Exit code: 0 done, 1 failed, 2 refused, 130 interrupted.
    """
    return run(data, arguments, check=parameters.data_settings_of)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
