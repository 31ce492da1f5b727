#!/usr/bin/env bash
# Train the drug-like flow on a machine with a GPU and no network, from what is carried there.
#
#   bash benchmarks/denovo/gpu_training.sh prepare DATASET   # here: packs the data, collects wheels
#   bash benchmarks/denovo/gpu_training.sh run OUT [MINUTES] # there: trains, checkpoints every 3 minutes
#
# `prepare` fills gpu-training/: the data as one file (150 bytes a molecule) and the wheels that a
# Python with PyTorch may lack; carry the folder along. `run` goes on where an earlier one stopped,
# if OUT holds it. What comes back, OUT/raw, goes on learning on any machine:
#
#   molflowctl train --init OUT/raw --data DATASET --set minutes=60 -o runs/more
set -euo pipefail
cd "$(dirname "$0")/../.."
carried=gpu-training
PYTHON=${PYTHON:-python3}

case "${1:-}" in
prepare)
    dataset=${2:?"a prepared data set, for instance datasets/druglike"}
    mkdir -p "$carried/wheels"
    "$PYTHON" -m molflowctl data pack "$dataset" -o "$carried/druglike.pack" --overwrite
    # Wheels for the Python over there, which has PyTorch and numpy already.
    get=("$PYTHON" -m pip download --quiet --only-binary=:all: -d "$carried/wheels"
        --python-version "${THERE:-3.12}" --platform manylinux_2_28_x86_64
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64)
    "${get[@]}" --no-deps rdkit lightning lightning-utilities torchmetrics
    "${get[@]}" pydantic pyyaml typer
    du -sh "$carried"
    ;;
run)
    out=${2:?"a folder for the run"}
    minutes=${3:-9}
    if [ ! -d .venv-gpu ]; then
        "$PYTHON" -m venv --system-site-packages .venv-gpu
        # What is there already stays: only what is missing is taken from the wheels.
        for wheel in "$carried"/wheels/*.whl; do
            name=$(basename "$wheel" | cut -d- -f1 | tr _ -)
            .venv-gpu/bin/python -m pip show -q "$name" 2>/dev/null ||
                .venv-gpu/bin/python -m pip install -q --no-index --no-deps "$wheel"
        done
    fi
    run="env PYTHONPATH=$PWD .venv-gpu/bin/python -m molflowctl"
    [ -d datasets/gpu ] || $run data unpack "$carried/druglike.pack" -o datasets/gpu
    $run train --config druglike.yaml --resume -o "$out" \
        --set data=datasets/gpu --set precision=auto --set minutes="$minutes" \
        --set batch_atoms="${BATCH_ATOMS:-24576}" --set lr="${LR:-3e-3}" \
        --set checkpoint_minutes=3 --set validate_minutes=3 --set sample_every=0
    ;;
*)
    sed -n '2,12p' "$0"
    exit 2
    ;;
esac
