"""What a Prefect server must hold to run our flows: pool, queue, automation, deployments.

python -m flows.deployments        # on the server of PREFECT_API_URL; again: nothing changes
"""

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import StateType

from flows.machine import POOL, QUEUE, ROOT, SILENCE

DEAD_RUNS = AutomationCore(
    name="dead runs are marked Crashed",
    description="A killed worker or node says nothing: its run would stay Running, and keep the "
    "queue's only slot.",
    trigger=EventTrigger(
        posture=Posture.Proactive,
        match=ResourceSpecification.model_validate({"prefect.resource.id": ["prefect.flow-run.*"]}),
        for_each={"prefect.resource.id"},
        after={"prefect.flow-run.heartbeat"},
        expect={
            "prefect.flow-run.heartbeat",
            "prefect.flow-run.Completed",
            "prefect.flow-run.Failed",
            "prefect.flow-run.Cancelled",
            "prefect.flow-run.Crashed",
        },
        threshold=1,
        within=timedelta(seconds=SILENCE),
    ),
    actions=[
        ChangeFlowRunState(
            state=StateType.CRASHED,
            message=f"No sign of life for {SILENCE} s. Run it again: stages resume.",
        )
    ],
)


async def prepare(client: PrefectClient) -> None:
    """Make pool, queue and automation, each where it is missing or not as it should be."""
    with suppress(ObjectAlreadyExists):
        await client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    try:
        queue = await client.create_work_queue(QUEUE, work_pool_name=POOL)
    except ObjectAlreadyExists:
        queue = await client.read_work_queue_by_name(QUEUE, work_pool_name=POOL)
    if queue.concurrency_limit != 1:
        await client.update_work_queue(queue.id, concurrency_limit=1)
    there = await client.read_automations_by_name(DEAD_RUNS.name)
    if not there:
        await client.create_automation(DEAD_RUNS)
    # To write one may hang the server (flows/deploying.py).
    elif AutomationCore.model_validate(there[0].model_dump(exclude={"id"})) != DEAD_RUNS:
        await client.update_automation(there[0].id, DEAD_RUNS)


async def _prepare() -> None:
    async with get_client() as client:
        await prepare(client)


def main() -> int:
    """Prepare the server, then deploy prefect.yaml.

    Returns:
        Exit code of `prefect deploy`.
    """
    asyncio.run(_prepare())
    # A module and not the program beside the interpreter: the latter need not be on PATH.
    return subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=ROOT,
        env={**os.environ, "PWD": str(ROOT)},
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
