#!/usr/bin/env bash
# On a machine with CUDA: the tests that need one, the step benchmark, then cells of the headline (ResNet-20 on CIFAR-10 at
# 0.8^22: dense, CTS, SNIP, LTR, seeds 0 to 2) and studies until the minutes are over. Started again, it goes on where it
# stopped.
# usage: scripts/gpu_check.sh DATA_DIR OUT_DIR MINUTES
#   DATA_DIR: what `tombola run --data cifar10` reads; with DATA=folder, train and test, folders or tars of class folders
#   TEXTS, IMAGENET: folders for cells of sst2-transformer and imagenet-resnet50 (a search of 50 steps), left out without
#   LARGE: networks for searches beside dense training, scripts/results/large.py (resnet50,vit-b-16,billion; none on a cpu)
#   PYTHON: the interpreter (python); DEVICE: cuda, or cpu to try the script out; OPTIONS: more options of tombola
#   SEEDS: "0 1 2"; empty, without the headline. TESTS: empty, without tests and benchmark
#   STUDIES: files or names of studies, with JOBS (3) tasks at a time; their data_dir data is DATA_DIR, and sst2
#     is TEXTS; on the device that they name, whatever DEVICE is
set -euo pipefail
usage="usage: scripts/gpu_check.sh DATA_DIR OUT_DIR MINUTES"
data=$(realpath "${1:?$usage}")
out=${2:?$usage}
minutes=${3:?$usage}
python=${PYTHON:-python} device=${DEVICE:-cuda}
cd "$(dirname "$0")/.."
mkdir -p "$out"
out=$(realpath "$out")
# Studies are started in OUT_DIR.
[[ $python != */* ]] || python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
end=$(($(date +%s) + 60 * minutes))

# Sets left to the seconds that are left; says where none are before what.
in_time() {
  left=$((end - $(date +%s)))
  ((left > 0)) || { echo "the minutes are over before $1; run the same again to go on" && return 1; }
}

# Tests that fail are reported, and the figures are taken all the same.
tests=0
if [[ -n ${TESTS-tests} ]]; then
  "$python" -m pytest tests/test_cuda.py -m cuda -rs | tee "$out/tests.txt" || tests=$?
  [[ -f $out/steps.json ]] || "$python" -m benchmarks.run "$out/steps.json" --steps --device "$device"
fi

for seed in ${SEEDS-0 1 2}; do
  in_time "seed $seed" || break
  # Interrupted, a comparison keeps its checkpoints; what it has finished is in the store.
  if timeout --signal=INT "$left" "$python" -m tombola compare --preset cifar10-resnet20 --data "${DATA:-cifar10}" --data-dir "$data" \
    --device "$device" --finders cts,snip,ltr --seed "$seed" --seeds 1 --out "$out/runs" --json ${OPTIONS:-} \
    >"$out/headline-$seed.part"; then
    mv "$out/headline-$seed.part" "$out/headline-$seed.json"
  else
    status=$?
    rm -f "$out/headline-$seed.part"
    ((status == 124 || status == 130)) || exit "$status"
    echo "the minutes are over in seed $seed; run the same again to go on"
    break
  fi
done

# One cell each of texts and of photographs, if there is time: does the search run there, and how long does a step take?
cell() {
  local name=$1
  shift
  in_time "$name" || return 0
  timeout --signal=INT "$left" "$python" -m tombola "$@" --device "$device" --out "$out/runs" --json ${OPTIONS:-} \
    >"$out/$name.part" && mv "$out/$name.part" "$out/$name.json" || echo "$name did not come to its end"
}
large() {
  local networks=${LARGE-resnet50,vit-b-16,billion}
  if [[ -z ${LARGE+given} && $device == cpu ]] || [[ -z $networks || -f $out/large.json ]]; then return; fi
  in_time "the large networks" || return 0
  timeout --signal=INT "$left" "$python" -m scripts.results.large "$out/large.part" --cases "$networks" --steps 50 \
    --most 100 --device "$device" && mv "$out/large.part" "$out/large.json" || echo "large did not come to its end"
}
large
[[ -z ${TEXTS:-} ]] || cell texts run --preset sst2-transformer --data-dir "$TEXTS"
[[ -z ${IMAGENET:-} ]] || cell imagenet draw --preset imagenet-resnet50 --data-dir "$IMAGENET" --draw-at init --steps 50

# A study reads what it calls data and sst2 below the directory that it is started in.
ln -sfn "$data" "$out/data"
[[ -z ${TEXTS:-} ]] || ln -sfn "$(realpath "$TEXTS")" "$out/sst2"
for study in ${STUDIES:-}; do
  in_time "$study" || break
  [[ ! -f $study ]] || study=$(realpath "$study")
  (cd "$out" && timeout --signal=INT "$left" "$python" -m tombola study "$study" --jobs "${JOBS:-3}") ||
    echo "$study did not come to its end"
done

if ((tests)); then
  echo "the tests failed: see $out/tests.txt"
  exit "$tests"
fi
