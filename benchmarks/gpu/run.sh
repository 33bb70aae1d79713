#!/usr/bin/env bash
# On any host with an NVIDIA GPU: whether it can do it, the tests that need a GPU, and what engines give there.
#
#   benchmarks/gpu/run.sh FOLDER RESULTS STAGE...
#
# FOLDER   what `pack.py unpack` gives: libraries/, models/, site/ and triton/; engines are kept in FOLDER/plans.
#          With python/ there, that is the Python of the stages
# RESULTS  folder for the records and logs
# STAGE    check   what the host can do
#          probe   placements of quantize nodes, layer by layer, at batch 256 beside FP16 and implicit INT8
#          triton  the FP16 engine behind Triton: single requests, and batches in shared memory
#          fleet   one Triton a GPU with the FP16 engine, one load generator for all: how it grows with the GPUs
#          capture what Triton and the driver say of the GPU while a load comes and goes, for tests without one
#          ladder  every precision, batch size, number of instances and kind of copies
#          method  this project's way of driving engines beside trtexec's
#          accuracy what FP16 and INT8 cost trained networks, by their engines (FOLDER/accuracy/NAME-fp32)
#          tests   tests/gpu
#
# A stage goes on where it was stopped. Each may take SECONDS (540) and then ends, so that what it measured comes
# back. Python needs numpy, onnx and onnxruntime beside what FOLDER/site has.
set -uo pipefail
[ $# -ge 3 ] || { sed -n 's/^# \{0,1\}//p' "$0" | sed -n 2,19p >&2; exit 2; }
folder=$(realpath "$1") results=$(realpath -m "$2")
shift 2
cd "$(dirname "$0")/../.."
mkdir -p "$results" "$folder/results"
export LD_LIBRARY_PATH="$folder/libraries:$folder/python/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PYTHONPATH="$PWD:$folder/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

python=python3
[ -x "$folder/python/bin/python3" ] && python=$folder/python/bin/python3
limited() { timeout --kill-after 10 "${SECONDS_EACH:-540}" "$@"; }
engines() {
    limited "$python" benchmarks/gpu/engines.py --models "$folder/models" --plans "$folder/plans" --int8-level 2 "$@"
}
# A rung's engine for batches of 64, which those of fp32 and tf32 are for all sizes.
plan() { for size in 64 256; do [ -f "$folder/plans/$1-$size.plan" ] && echo "$folder/plans/$1-$size.plan" && return; done; }

for stage in "$@"; do
    case $stage in
    check) limited "$python" benchmarks/gpu/check.py ;;
    probe)
        variants=$(cd "$folder/models" && ls -d int8 int8-*/ | tr -d / | sort -u | tr '\n' ' ')
        # shellcheck disable=SC2086
        engines --output "$folder/results/probe.json" --batches ${BATCHES:-256} --instances 1 --copies without \
            --rungs ${RUNGS:-fp16 int8-implicit $variants} --seconds 1 --layers ;;
    triton)
        for rung in ${RUNGS:-fp16}; do
            engines --output "$folder/results/triton-engine.json" --batches 64 --instances 1 --copies without \
                --rungs "$rung"
            # shellcheck disable=SC2086
            limited "$python" benchmarks/gpu/triton.py --root "$folder/triton" --libraries "$folder/libraries" \
                --plan "$(plan "$rung")" --output "$folder/results/triton-$rung.json" ${TRITON:-}
        done ;;
    fleet)
        engines --output "$folder/results/triton-engine.json" --batches 64 --instances 1 --copies without --rungs fp16
        # shellcheck disable=SC2086
        limited "$python" benchmarks/gpu/fleet.py --root "$folder/triton" --libraries "$folder/libraries" \
            --plan "$(plan fp16)" --output "$folder/results/fleet.json" ${FLEET:-} ;;
    capture)
        engines --output "$folder/results/triton-engine.json" --batches 64 --instances 1 --copies without --rungs fp16
        # shellcheck disable=SC2086
        limited "$python" benchmarks/gpu/capture.py --root "$folder/triton" --libraries "$folder/libraries" \
            --plan "$(plan fp16)" --output "$folder/results/scrapes.jsonl" ${CAPTURE:-} ;;
    ladder)
        # shellcheck disable=SC2086
        engines --output "$folder/results/engines.json" --rungs ${RUNGS:-fp32 tf32 fp16 int8} \
            --batches ${BATCHES:-256 64 16 1} --seconds "${EACH:-0.6}" ${LADDER:-}
        # shellcheck disable=SC2086
        engines --output "$folder/results/engines.json" --rungs int8-implicit --batches 64 256 \
            --seconds "${EACH:-0.6}" ${LADDER:-} ;;
    method)
        engines --output "$folder/results/method.json" --rungs fp16 --batches 1 64 256 --instances 1 2 \
            --methods ahead trtexec --seconds 2 ;;
    accuracy)
        limited "$python" -m benchmarks.accuracy --trained "$folder/trained" --output "$folder/accuracy" \
            --runtime tensorrt 2>&1 | tee "$folder/results/accuracy.log"
        cp "$folder/accuracy/accuracy.json" "$folder/results/accuracy.json" ;;
    tests)
        MODEL=$folder/models/fp32 limited "$python" -m pytest -p no:cacheprovider \
            --override-ini "addopts=-ra" -m gpu tests/gpu 2>&1 | tee "$folder/results/tests.log" ;;
    *) echo "run.sh: no stage $stage" >&2 && exit 2 ;;
    esac
    echo "stage $stage: status $?"
done
cp "$folder"/results/* "$results"/
