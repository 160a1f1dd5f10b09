"""The house: who may import what, what may not be committed, and an installation that explains."""

import ast
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
OURS = ("conf", "flows", "tasks", "trainer")
SOURCES = sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file it does so."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return names


def importers(tool: str) -> set[str]:
    """Our files, relative to the root, that import a tool or a part of it."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if any(name.split(".")[0] == tool for name in imported(path))
    }


@pytest.mark.parametrize(
    ("tool", "home"),
    [
        ("mlflow", r"tasks/track_(reach|store)\.py"),
        ("hydra", r"conf/(compose|load)\.py"),
        ("verl", r"trainer/backend/.*"),
        ("ray", r"trainer/backend/.*"),
        ("vllm", r"trainer/(backend/.*|generate\.py)"),
        ("prefect", r"(flows|tasks)/.*"),
        ("flows", r"flows/.*"),
        ("tasks", r"(flows|tasks)/.*"),
        ("trainer", r"(flows|tasks|trainer)/.*"),
    ],
)
def test_each_outside_tool_and_each_layer_is_imported_where_it_belongs(tool, home):
    assert {path for path in importers(tool) if not re.fullmatch(home, path)} == set()


def test_an_import_inside_a_function_counts_as_an_import(tmp_path):
    source = tmp_path / "late.py"
    source.write_text("def late():\n    import verl.trainer\n    from mlflow import log_metric\n")
    assert imported(source) == {"verl.trainer", "mlflow"}


def test_what_the_project_asks_for_is_used():
    of_verl = {"cachetools", "msgspec", "pyzmq", "transferqueue", "uvicorn"}  # it does not ask
    of_others = {"latex2sympy2-extended", "safetensors"}  # Math-Verify's and transformers'
    named_otherwise = {"hydra-core", "py-spy"}  # imported as hydra; run as a program
    asked = {
        canonicalize_name(Requirement(one).name) for one in PYPROJECT["project"]["dependencies"]
    }
    names = {name.split(".")[0].replace("_", "-") for path in SOURCES for name in imported(path)}
    assert asked - names - of_verl - of_others - named_otherwise == set()


def tracked() -> list[Path]:
    """The files of the repository, committed or about to be."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if (ROOT / name).is_file()]


def test_no_file_names_a_package_index_or_a_folder_of_one_machine():
    # Spelled in parts, so that this file does not find itself.
    hosts = ["pypi" + ".org", "python" + "hosted", "/opt/" + "wheels", "/opt/" + "pypi"]
    machine = ["/wor" + "k/", "/ro" + "ot/", "/tmp/" + "env"]
    found = []
    for path in tracked():
        if path.suffix in {".png", ".safetensors", ".parquet"}:
            continue
        text = path.read_text(errors="replace")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in hosts + machine if word in text]
    assert found == []


def test_no_module_has_a_name_that_says_nothing():
    empty = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"}
    assert [path for path in SOURCES if path.stem in empty] == []


def pins(name: str) -> dict[str, Version]:
    """Package to version, as a file of pins says."""
    found = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if line and not line.startswith("#"):
            package, version = line.split("==")
            found[canonicalize_name(package)] = Version(version)
    return found


@pytest.mark.parametrize("name", ["cpu.txt", "cpu-vllm.txt", "gpu.txt"])
def test_a_file_of_pins_holds_pins_and_comments_and_nothing_else(name):
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pin = re.compile(r"[a-z0-9][a-z0-9-]*==[0-9][\w.+]*")
    assert [line for line in lines if not line.startswith("#") and not pin.fullmatch(line)] == []
    names = [line.split("==")[0] for line in lines if not line.startswith("#")]
    assert names == sorted(set(names))


@pytest.mark.parametrize(
    ("name", "extras"), [("cpu.txt", ["dev"]), ("gpu.txt", ["dev", "gpu"])], ids=["cpu", "gpu"]
)
def test_the_pins_answer_for_what_the_project_asks(name, extras):
    pinned = pins(name)
    project = PYPROJECT["project"]
    asked = project["dependencies"] + [
        line for extra in extras for line in project["optional-dependencies"][extra]
    ]
    for requirement in map(Requirement, asked):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), requirement


def test_what_vllm_asks_for_is_answered_by_one_environment():
    pinned = pins("cpu.txt") | pins("cpu-vllm.txt")
    assert pins("cpu.txt").keys().isdisjoint(pins("cpu-vllm.txt"))
    for line in (ROOT / "requirements" / "cpu-vllm.in").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, line


def test_the_cpu_environment_holds_nothing_of_cuda():
    names = pins("cpu.txt") | pins("cpu-vllm.txt")
    assert names["torch"].local == "cpu"
    assert [name for name in names if re.match(r"nvidia|cuda|flash-attn|cupy", name)] == []


def test_the_gpu_environment_is_the_one_verl_pins():
    names = pins("gpu.txt")
    assert (str(names["torch"]), str(names["vllm"])) == ("2.11.0", "0.24.0")
    assert names["verl"] == pins("cpu.txt")["verl"]


# --- Installation ------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    """A folder with the files that an installation reads, and nothing installed."""
    (tmp_path / "requirements").mkdir()
    for name in ("pyproject.toml", "Makefile"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    for path in (ROOT / "requirements").iterdir():
        (tmp_path / "requirements" / path.name).write_text(path.read_text())
    return tmp_path


def interpreter(folder: Path, version: str, venv: str = "exit 1") -> Path:
    """A stand-in for a Python: says its version, and runs `venv` as shell for anything else."""
    path = folder / f"python-{version}"
    path.write_text(
        f'#!/bin/sh\ncase "$2" in *version_info*) echo {version} ;; *) {venv} ;; esac\n'
    )
    path.chmod(0o755)
    return path


def make(folder: Path, *arguments: str, tools: str = "") -> subprocess.CompletedProcess:
    # A make that runs these tests must not lend its flags and variables to the one under test.
    clean = {"PATH": f"{tools}:/usr/local/bin:/usr/bin:/bin".strip(":"), "HOME": str(folder)}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=clean, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("version", ["2.7.18", "3.10.13", "3.13.0"])
@pytest.mark.parametrize("target", ["demo", "test", "gpu"])
def test_a_python_too_old_or_too_new_is_named_in_a_sentence(checkout, version, target):
    python = interpreter(checkout, version)
    done = make(checkout, target, f"PYTHON={python}")
    assert done.returncode != 0
    assert f"Stagecraft needs Python 3.11 or 3.12, and {python} is Python {version}" in done.stderr
    assert "\n\nhint: install one of them" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_that_does_not_run_is_not_taken_for_one(checkout):
    done = make(checkout, "demo", "PYTHON=/nowhere/python3.11")
    assert done.returncode != 0
    assert "PYTHON=/nowhere/python3.11 does not run" in done.stderr


def test_a_python_without_venv_says_what_to_install(checkout):
    done = make(checkout, "demo", f"PYTHON={interpreter(checkout, '3.11.7')}")
    assert done.returncode != 0
    assert "lacks its venv module" in done.stderr and "python3-venv" in done.stderr


@pytest.mark.parametrize(
    ("target", "file"),
    [("demo", "cpu"), ("test", "cpu"), ("test-vllm", "cpu-vllm"), ("gpu", "gpu")],
)
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_missing_file_of_pins_is_named_in_a_sentence(checkout, target, file, how):
    pinned = checkout / "requirements" / f"{file}.txt"
    pinned.unlink()
    if how == "empty":
        pinned.touch()
    done = make(checkout, target)
    assert done.returncode != 0
    assert f"requirements/{file}.txt is missing: it says which packages to install" in done.stderr
    assert f"hint: git checkout -- requirements/{file}.txt" in done.stderr


def test_an_interrupted_installation_is_not_taken_for_a_finished_one(checkout):
    """Its folder stands there with a Python that runs, but without a stamp."""
    folder = checkout / ".venv" / "bin"
    folder.mkdir(parents=True)
    (checkout / ".venv" / "pyvenv.cfg").touch()
    (folder / "python").symlink_to("/bin/true")
    python = interpreter(checkout, "3.11.7", 'case "$*" in *"-m venv"*) exit 3 ;; esac; exit 0')
    done = make(checkout, "lint", f"PYTHON={python}")
    assert done.returncode != 0
    assert not folder.exists()  # taken away, to be made anew


def stand_in(folder: Path, tool: str, lines: str) -> str:
    """A folder with a stand-in for a command, for the PATH."""
    (folder / "tools").mkdir()
    (folder / "tools" / tool).write_text(f"#!/bin/sh\n{lines}\n")
    (folder / "tools" / tool).chmod(0o755)
    return str(folder / "tools")


def test_the_lock_of_an_installation_is_open_for_writing_as_nfs_asks(checkout):
    python = interpreter(checkout, "3.11.7", "exit 0")
    tools = stand_in(
        checkout, "flock", 'grep flags "/proc/self/fdinfo/9" >"$HOME/seen"; kill $PPID'
    )
    make(checkout, "lint", f"PYTHON={python}", tools=tools)
    assert int((checkout / "seen").read_text().split()[1], 8) & os.O_ACCMODE == os.O_RDWR


def test_the_disk_that_counts_is_that_of_the_environment(checkout):
    python = interpreter(checkout, "3.11.7", "exit 0")
    tools = stand_in(checkout, "df", 'echo; echo disk 0 0 0 0% "$2"')
    given = ["demo", f"PYTHON={python}"]
    assert "4 GiB of disk, and 0 are free in .\n" in make(checkout, *given, tools=tools).stderr
    (checkout / "big disk").mkdir()
    done = make(checkout, *given, f"VENV={checkout}/big disk/of/mine", tools=tools)
    assert f"0 are free in {checkout}/big disk\n" in done.stderr


def test_a_folder_that_is_no_environment_is_not_deleted(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "thesis.tex").touch()
    done = make(checkout, "demo", f"PYTHON={interpreter(checkout, '3.11.7', 'exit 0')}")
    assert "exists and is no virtual environment" in done.stderr
    assert (checkout / ".venv" / "thesis.tex").exists()


def test_the_ui_without_runs_says_how_to_get_some(checkout):
    ui_without_environment(checkout)
    done = make(checkout, "ui")
    assert done.returncode != 0
    assert "outputs holds no runs yet" in done.stderr and "hint: make demo" in done.stderr


def test_the_ui_shows_a_folder_whose_name_has_a_space(checkout):
    ui_without_environment(checkout)
    (checkout / "my runs").mkdir()
    (checkout / "my runs" / "mlflow.db").touch()
    (checkout / "bin").mkdir()
    (checkout / "bin" / "mlflow").symlink_to("/bin/echo")
    done = make(checkout, "ui", "OUTPUT=my runs", f"VENV={checkout}")
    assert f" sqlite:///{checkout}/my runs/mlflow.db\n" in done.stdout


def ui_without_environment(checkout: Path) -> None:
    recipe = (checkout / "Makefile").read_text()
    (checkout / "Makefile").write_text(recipe.replace("ui: environment", "ui:"))


@pytest.mark.parametrize(("fails", "made"), [("none", "test test-vllm "), ("test", "test ")])
def test_ci_makes_what_people_make_and_ends_where_that_fails(checkout, fails, made):
    (checkout / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", checkout / ".ci")
    lines = f'echo "$CI: $2"; printf "$2 " >>made; test "$2" != {fails}'
    path = f"{stand_in(checkout, 'make', lines)}:/usr/bin:/bin"
    done = subprocess.run([".ci/run"], cwd=checkout, env={"PATH": path}, capture_output=True)
    assert (checkout / "made").read_text() == made
    assert (done.returncode == 0) == (fails == "none")
    assert done.stdout.startswith(b"true: test\n")


def test_the_data_of_each_package_is_packaged():
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]
    for package, globs in patterns.items():
        folder = ROOT / package.replace(".", "/")
        held = {path for glob in globs for path in folder.glob(glob)}
        loose = {
            path
            for path in folder.rglob("*")
            if path.suffix in {".yaml", ".j2", ".json", ".safetensors"} and path.is_file()
        }
        assert loose - held == set(), package
