"""MLflow's own page for comparing runs, opened in a browser on the runs of a study."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
from mlflow import MlflowClient

from flows.study import study

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CHROMIUM, reason="needs chromium"),
]
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def compared(tmp_path, quick, prefect, plain_figures, monkeypatch):
    """Address of the compare page of two arms, on a server of their store."""
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    study("lab_smoke", overrides=["seeds=[0]"], output=str(tmp_path / "out"))
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("study-lab_smoke").experiment_id
    runs = [
        run.info.run_id
        for run in client.search_runs([experiment])
        if "mlflow.parentRunId" in run.data.tags
    ]
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store,
             "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            stdout=log, stderr=log, start_new_session=True,
            env={
                **os.environ,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        )  # fmt: skip
    try:
        _wait_for(f"http://127.0.0.1:{port}/health")
        query = urllib.parse.urlencode(
            {"runs": json.dumps(runs), "experiments": json.dumps([experiment])}
        )
        yield f"http://127.0.0.1:{port}/#/compare-runs?{query}"
    finally:
        os.killpg(server.pid, 15)
        server.wait(60)


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except OSError:
            assert time.monotonic() < deadline, f"{address} does not answer"
            time.sleep(0.5)


def test_the_compare_page_shows_both_arms_and_their_scores(compared, tmp_path):
    page = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'browser'}", "--window-size=1400,2400",
         "--virtual-time-budget=60000", "--dump-dom", compared],
        capture_output=True, text=True, timeout=300,
    ).stdout  # fmt: skip
    assert "Comparing 2 Runs" in page
    for text in ("long seed 0", "short seed 0", "eval/lab_test/avg_at_k", "cost/updates"):
        assert text in page
