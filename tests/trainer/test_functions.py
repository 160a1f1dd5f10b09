import sys

import pytest

from trainer import functions
from trainer.functions import absolute, check_arguments, find, source


def test_a_file_s_function_is_found_wherever_one_stands(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def twice(x, *, by=2):\n    return x * by\n")
    monkeypatch.chdir(tmp_path)
    name = absolute("mine.py:twice")
    assert name == f"{tmp_path / 'mine.py'}:twice"
    monkeypatch.chdir("/")
    assert find(name, {})(4) == 8


def test_a_file_counts_by_what_it_says_not_by_where_it_lies(tmp_path):
    for folder, factor in (("a", 2), ("b", 2), ("c", 3)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"def f(x):\n    return {factor} * x\n")
    names = [source(f"{tmp_path / folder / 'mine.py'}:f") for folder in "abc"]
    assert names[0] == names[1] != names[2]


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", ["of_mine", "kit_of_mine.sub.rules"])
def test_a_module_counts_by_its_name_and_by_what_it_says_and_is_not_imported(on_path, place):
    file = on_path.joinpath(*place.split(".")).with_suffix(".py")
    file.parent.mkdir(parents=True, exist_ok=True)
    for folder in file.relative_to(on_path).parents:
        (on_path / folder / "__init__.py").write_text("raise SystemExit('imported')\n")
    names = []
    for factor in (2, 2, 3):
        file.write_text(f"def f(x):\n    return {factor} * x\nraise SystemExit('imported')\n")
        names.append(source(f"{place}:f"))
    assert names[0] == names[1] != names[2]
    assert all(name.endswith(f":{place}:f") for name in names)
    assert place.partition(".")[0] not in sys.modules


def test_a_package_counts_by_its_first_file(on_path):
    (on_path / "pack_of_mine").mkdir()
    first = on_path / "pack_of_mine" / "__init__.py"
    first.write_text("def f(x):\n    return x\n")
    before = source("pack_of_mine:f")
    first.write_text("def f(x):\n    return -x\n")
    assert before != source("pack_of_mine:f")


def test_a_module_without_source_counts_by_its_version(on_path, monkeypatch):
    (on_path / "bare_of_mine.pyc").write_bytes(b"")
    assert source("bare_of_mine:f") == "bare_of_mine:f", "in no distribution"
    monkeypatch.setattr(functions, "packages_distributions", lambda: {"bare_of_mine": ["Bare"] * 2})
    monkeypatch.setattr(functions, "version", lambda name: {"Bare": "1.2"}[name])
    assert source("bare_of_mine:f") == "Bare==1.2:bare_of_mine:f"


@pytest.mark.parametrize(
    "name",
    ["grpo", "trainer.advantages.group:grpo", "trainer.losses:clip", "math:hypot", "sys:exit"],
)
def test_what_ships_keeps_its_name(name):
    assert source(name) == name


@pytest.mark.parametrize(
    "name", ["no_such_module:f", "math.no.such:f", "a..b:f", ":f", ".a:f", "a/b:f"]
)
def test_a_module_that_is_nowhere_is_its_name(name):
    assert source(name) == name


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("grop", "did you mean grpo?"),
        ("no_such_module:f", "no_such_module cannot be loaded: ModuleNotFoundError"),
        ("no/such.py:f", "no/such.py cannot be loaded: FileNotFoundError"),
        ("math:no_such", "math has no function 'no_such'"),
    ],
)
def test_a_name_of_nothing_is_refused(name, told):
    with pytest.raises(ValueError, match=r"\n\nhint: ") as refused:
        find(name, {"grpo": abs})
    assert told in str(refused.value)


def test_a_file_that_raises_is_told_and_forgotten(tmp_path):
    (tmp_path / "bad.py").write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(ValueError, match="ZeroDivisionError: division by zero"):
            find(f"{tmp_path / 'bad.py'}:f", {})


def test_arguments_are_those_that_the_function_takes():
    def function(rewards, *, scale, shift=0.0):
        return rewards * scale + shift

    check_arguments(function, {"scale": 2}, ["rewards"], "knob")
    for settings, told in (
        ({"scale": 1, "shfit": 2}, "did you mean shift?"),
        ({"scale": 1, "rewards": 2}, "found rewards, which function does not take"),
        ({}, "found no scale, which function needs"),
    ):
        with pytest.raises(ValueError, match=told):
            check_arguments(function, settings, ["rewards"], "knob")


def test_a_file_in_ones_home_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text("def twice(x):\n    return 2 * x\n")
    assert find("~/mine.py:twice", {})(3) == 6
    assert absolute("~/mine.py:twice") == f"{tmp_path}/mine.py:twice"
    assert source("~/mine.py:twice") == source(f"{tmp_path}/mine.py:twice") != "~/mine.py:twice"
    assert absolute("~nobody-here/x.py:f").endswith("~nobody-here/x.py:f")
