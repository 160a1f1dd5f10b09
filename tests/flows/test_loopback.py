"""A proxy is for the outside: this machine's servers are asked directly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.loopback import exempted
from flows.machine import Services

ROOT = Path(__file__).parents[2]
ASK = """
import flows, httpx, json, os, urllib.request
url = os.environ["ASKED"]
print(json.dumps([httpx.get(url).text, urllib.request.urlopen(url).read().decode()]))
"""


@pytest.mark.parametrize(
    "exempt", [{}, {"NO_PROXY": "a.org"}, {"no_proxy": "a.org"}, {"no_proxy": "*"}]
)
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_proxy_is_not_asked_for_a_server_of_this_machine(exempt, name, prefect_server):
    url = f"{prefect_server}/health".replace("127.0.0.1", name)
    proxy = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env={**clean, **proxy, **exempt, "ASKED": url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["true", "true"]


@pytest.mark.parametrize(
    ("given", "upper", "lower"),
    [
        ({}, "127.0.0.1,localhost", "127.0.0.1,localhost"),
        ({"NO_PROXY": "a.org"}, "a.org,127.0.0.1,localhost", "a.org,127.0.0.1,localhost"),
        (
            {"NO_PROXY": "a, localhost", "no_proxy": "b"},
            "a,localhost,127.0.0.1",
            "b,127.0.0.1,localhost",
        ),
        ({"no_proxy": "*"}, "*", "*"),
    ],
)
def test_what_is_exempted_already_stays_so(given, upper, lower):
    assert exempted(given) == {"NO_PROXY": upper, "no_proxy": lower}
    assert exempted(exempted(given)) == exempted(given)


def test_services_get_the_exemption(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "a.org")
    monkeypatch.delenv("NO_PROXY")
    made = Services(tmp_path, {}).environment()
    assert made["no_proxy"] == made["NO_PROXY"] == "a.org,127.0.0.1,localhost"
