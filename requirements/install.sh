#!/usr/bin/env bash
# Makes the environment that the make targets use.
#
#     bash requirements/install.sh cpu            what make demo and make test need
#     bash requirements/install.sh cpu-vllm       that, and vLLM's CPU build
#     bash requirements/install.sh gpu            what a GPU node needs
#
# PYTHON  interpreter to use (default: the first fit one of python3.11, python3.12, python3, python)
# VENV    folder of the environment (default: .venv)
#
# The stamp VENV/installed-KIND is written last and says what was installed from which files:
# it decides whether there is anything to do, and a folder without one is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:-cpu}
venv=${VENV:-.venv}
pytorch_cpu_index=https://download.pytorch.org/whl/cpu

refuse() { # refuse WHAT HINT: one sentence, one hint, and nothing was touched
    printf '\n%s\n\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

say() { printf '%4d s  %s\n' "$SECONDS" "$1"; }

# --- What is asked for -------------------------------------------------------------------------

case $kind in
cpu) pins=(requirements/cpu.txt) gib=4 ;;
cpu-vllm) pins=(requirements/cpu.txt requirements/cpu-vllm.txt) gib=6 ;;
gpu) pins=(requirements/gpu.txt) gib=20 ;;
*) refuse "there is no environment called '$kind', only cpu, cpu-vllm and gpu" "make help" ;;
esac
for file in "${pins[@]}" pyproject.toml; do
    [ -s "$file" ] || refuse "$file is missing: it says which packages to install" \
        "git checkout -- $file brings it back"
done
case "$(uname -s)-$(uname -m)" in
Linux-x86_64) ;;
*) refuse "the pinned packages are for Linux on x86_64, and this is $(uname -s) on $(uname -m)" \
    "run it in a Linux container or virtual machine" ;;
esac

# --- Python ------------------------------------------------------------------------------------

# A pyenv shim is found and yet does not run, so an interpreter counts once it has said its version.
version_of() {
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || true
}
fits() { case $1 in 3.11.* | 3.12.*) ;; *) return 1 ;; esac; }

find_python() { # prints the interpreter, or refuses with what was found instead
    local found="" candidate version
    for candidate in ${PYTHON:-python3.11 python3.12 python3 python}; do
        version=$(version_of "$candidate")
        if fits "$version"; then
            echo "$candidate"
            return
        fi
        [ -z "$version" ] || found="${found:+$found, }$candidate is Python $version"
    done
    if [ -n "${PYTHON:-}" ] && [ -z "$found" ]; then found="PYTHON=$PYTHON does not run"; fi
    refuse "Stagecraft needs Python 3.11 or 3.12, and ${found:-no Python was found}" \
        "install one of them, or name it: make demo PYTHON=/path/to/python3.11"
}

# --- Is there anything to do? ------------------------------------------------------------------

stamp() { # what an installation depends on: the files, and the folder that scripts are tied to
    printf '%s %s\n' "$1" "$PWD"
    shift
    sha256sum "$@" pyproject.toml requirements/install.sh
}
finished() { # finished KIND FILE...: installed from these very files, and its Python still runs
    [ "$(cat "$venv/installed-$1" 2>/dev/null)" = "$(stamp "$@" 2>/dev/null)" ] && "$venv/bin/python" -c '' 2>/dev/null
}

if finished "$kind" "${pins[@]}"; then exit 0; fi
# Tests and demo run in an environment that holds more too: what make gpu made is not replaced.
if [ "$kind" = cpu ]; then
    if finished gpu requirements/gpu.txt; then exit 0; fi
    if finished cpu-vllm requirements/cpu.txt requirements/cpu-vllm.txt; then exit 0; fi
fi

python=$(find_python)
"$python" -c 'import ensurepip, venv' 2>/dev/null || refuse \
    "$python (Python $(version_of "$python")) lacks its venv module" "apt-get install python3-venv"

# Two make targets at once: the second waits for the first, and finds it done.
# <> and not <: NFS locks only what is open for writing.
exec 9<>requirements/install.sh
if command -v flock >/dev/null && ! flock -n 9; then
    say "waiting for another installation"
    flock 9
fi
if finished "$kind" "${pins[@]}"; then exit 0; fi

place=$venv
until [ -e "$place" ]; do place=$(dirname "$place"); done
free=$(df -Pk "$place" | awk 'NR == 2 { print int($4 / 1048576) }')
[ "$free" -ge "$gib" ] || refuse "the environment needs $gib GiB of disk, and $free are free in $place" \
    "free some, or put it elsewhere: make demo VENV=/path/to/folder"

# --- The folder --------------------------------------------------------------------------------

family=${kind%-vllm}
had=$(cd "$venv" 2>/dev/null && ls installed-* 2>/dev/null || true)
case $had in
installed-"$family"*) fits "$(version_of "$venv/bin/python")" || had="" ;;
*) had="" ;; # interrupted, or of another family
esac
rm -f "$venv"/installed-*
if [ -z "$had" ]; then
    # Without a stamp it is only ours to delete if a virtual environment stands there.
    if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv" 2>/dev/null)" ]; then
        refuse "$venv exists and is no virtual environment" "move it away, or set VENV"
    fi
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
say "$venv: Python $(version_of "$venv/bin/python")"

# --- The packages ------------------------------------------------------------------------------

# -qq: pip's warnings about index folders that are not there say nothing about us; errors show.
# --no-deps: the pins are complete, and a resolver would look for CUDA builds.
# --no-compile: bytecode is written below, by all cores.
install() {
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input --no-compile --no-deps "$@"
}

if [ "$family" = cpu ]; then
    torch=$(grep -E '^torch==' requirements/cpu.txt)
    # +cpu is in the pin: no index can answer with a CUDA build.
    if ! install "$torch" 2>"$venv/torch.log"; then
        say "pip finds no $torch by its own configuration: asking PyTorch's CPU index"
        install --index-url "$pytorch_cpu_index" "$torch" 2>>"$venv/torch.log" || {
            grep '^ERROR' "$venv/torch.log" | cut -c1-120 | sort -u >&2 || true
            refuse "$torch for Python $(version_of "$python") is neither where pip looks nor in PyTorch's CPU index" \
                "put its wheel into a folder and set PIP_FIND_LINKS to it, or try the other Python (PYTHON=...)"
        }
    fi
    say "$torch"
fi
for file in "${pins[@]}"; do
    install -r "$file" || refuse "pip could not install $file, for the reason above" \
        "run it again: what was fetched is kept in pip's cache"
    say "$(grep -c == "$file") packages of $file"
done
# The trainer's processes start in other folders and must find ours all the same.
install --no-build-isolation --editable .

# Some packages ship templates that are no Python, which compileall counts as a failure; nobody
# imports the tests that others ship.
"$venv/bin/python" -m compileall -qq -j 0 -x '/tests?/' "$venv"/lib/python3.*/site-packages >/dev/null 2>&1 || true
rm -f "$venv/torch.log"
say "bytecode"

cuda=$("$venv/bin/python" -c 'import torch; print(torch.version.cuda)')
if [ "$family" = cpu ] && [ "$cuda" != None ]; then
    refuse "torch was built for CUDA $cuda, where its CPU build was asked for" "rm -rf $venv, then again"
fi
# Said and not refused: an image may be built where there is no GPU.
if [ "$kind" = gpu ] && ! "$venv/bin/python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    say "torch, built for CUDA $cuda, sees no GPU here: is there one, and is its driver new enough (nvidia-smi)?"
fi
# torchvision and its like, which vLLM asks for, have no CPU build: see cpu-vllm.in.
if [ "$kind" != cpu-vllm ]; then "$venv/bin/python" -m pip check >/dev/null || "$venv/bin/python" -m pip check; fi

stamp "$kind" "${pins[@]}" >"$venv/installing"
mv "$venv/installing" "$venv/installed-$kind"
[ "$kind" != cpu-vllm ] || stamp cpu requirements/cpu.txt >"$venv/installed-cpu"
say "$venv is ready"
