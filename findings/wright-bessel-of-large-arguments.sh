#!/usr/bin/env bash
# SciPy 1.17.1: scipy.special.log_wright_bessel loses digits at arguments that a Tweedie likelihood asks for, and says
# nothing: 1e-7 of the value with a = 4, b = 0, x = 173850.177, and 4e-6 with a = 19, b = 0, x = 1.07e96, which is 0.33 in
# the logarithm, so the likelihood is wrong by a factor of 1.4. statsmodels' Tweedie family calls it.
# A good guess would have been: all digits, or NaN, as elsewhere in scipy.special.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 scipy==1.17.1 mpmath==1.3.0
"$folder/venv/bin/python" - <<'P'
import mpmath as mp
from scipy.special import log_wright_bessel

mp.mp.dps = 40


def reference(a, x):
    """log of the sum over j of x^j / (j! gamma(a j)), about its largest term."""
    log_x = mp.log(mp.mpf(x))
    term = lambda j: j * log_x - mp.loggamma(j + 1) - mp.loggamma(a * j)
    middle, value = int(mp.e ** (log_x / (1 + a)) / mp.mpf(a) ** (mp.mpf(a) / (1 + a))), mp.mpf(0)
    width = 40 + int(20 * mp.sqrt(middle))
    top = term(max(1, middle))
    for j in range(max(1, middle - width), middle + width):
        value += mp.exp(term(j) - top)
    return top + mp.log(value)


for a, x, wrong in ((4, 173850.177, 4e-6), (19, 1.072188536887618e96, 0.3)):
    found, right = log_wright_bessel(a, 0, x), float(reference(a, x))
    print(f"a = {a}, x = {x:g}: {found:.7f}, in 40 digits {right:.7f}")
    assert abs(found - right) > wrong
P
