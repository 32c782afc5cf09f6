#!/usr/bin/env bash
# The runs behind docs/results.md: LeNet-300-100 on Fashion-MNIST, three densities, three seeds.
# usage: scripts/fashion_mnist.sh OUT_DIR; resumable, about 40 minutes on two cores.
set -euo pipefail
out=${1:?usage: scripts/fashion_mnist.sh OUT_DIR}
for seed in 0 1 2; do
  for density in 0.03 0.01 0.004; do
    for cell in "cts init" "cts rewind" "random init" "random rewind"; do
      read -r finder at <<<"$cell"
      tombola run --preset fashion-mnist-lenet --finder "$finder" --draw-at "$at" \
        --density "$density" --seed "$seed" --out "$out" --json >/dev/null
    done
  done
done
python "$(dirname "$0")/summarise.py" "$out"
