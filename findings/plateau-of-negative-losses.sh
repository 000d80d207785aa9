#!/usr/bin/env bash
# torch 2.13.0: ReduceLROnPlateau with its defaults takes a constant negative measurement for an improvement each time,
# for it compares with best * (1 - threshold), which lies above a negative best. The learning rate never falls.
# A good guess would have been: a constant is no improvement whatever its sign, as it is none above zero.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import torch

rates = {}
for loss in (1.0, -1.0):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
    for _ in range(10):
        plateau.step(loss)
    rates[loss] = optimizer.param_groups[0]["lr"]
print(f"torch {torch.__version__}: after ten constant losses of 1 the rate is {rates[1.0]:g}, of -1 {rates[-1.0]:g}")
assert rates[1.0] < 0.5 and rates[-1.0] == 1.0, rates
P
