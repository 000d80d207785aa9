# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, embedsignature=False
"""Every kernel, in one file of Cython, whose loops are compiled once per instruction-set level.

The topic files are taken in from the lowest to the highest; being one module,
they call each other directly. `fastopt._kernels` chooses the level;
`fastopt.functional` and the classes above are the public face.
"""

from cython cimport floating
from cpython.dict cimport PyDict_Next, PyDict_Size
from cpython.exc cimport PyErr_CheckSignals
from cpython.module cimport PyImport_GetModuleDict
from cpython.object cimport PyObject
from cpython.pyport cimport PY_SSIZE_T_MAX
from libc.float cimport DBL_MAX, DBL_MIN, FLT_MAX, FLT_MIN
from libc.math cimport HUGE_VAL, NAN, fabs, frexp, hypot, ldexp, pow, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.stdlib cimport posix_memalign
cimport numpy as cnp

import bisect
import heapq
import math

import numpy as np

from fastopt import _arrays, _numbers

cnp.import_array()

include "machine/tuning.pxi"
include "machine/parallel.pxi"
include "machine/memory.pxi"
include "math.pxi"
include "activations.pxi"
include "softmax.pxi"
include "layers/rows.pxi"
include "strips.pxi"
include "packed_weight.pxi"
include "products.pxi"
include "convolutions.pxi"
include "element_losses.pxi"
include "cross_entropy.pxi"
include "losses.pxi"
include "optim/rules.pxi"
include "optim/update.pxi"
include "optim/penalty.pxi"
include "layers/entry.pxi"
include "optim/fused_update.pxi"
include "layers/dense.pxi"
include "layers/conv2d_filters.pxi"
include "layers/depthwise.pxi"
include "layers/conv2d_gradients.pxi"
include "layers/conv2d.pxi"
include "layers/maxout.pxi"
include "layers/pool2d.pxi"
include "layers/standardize.pxi"
include "layers/columns.pxi"
include "layers/batch_norm.pxi"
include "layers/batch_norm_tangents.pxi"
include "layers/batch_norm_averages.pxi"
include "layers/dropout.pxi"
include "layers/channels_first.pxi"
include "layers/augment.pxi"
include "layers/add.pxi"
include "layers/gather_columns.pxi"
include "glm_families.pxi"
include "glm.pxi"
include "limits.pxi"
include "reduction.pxi"
include "functional/checks.pxi"
include "functional/one_entry.pxi"
include "functional/activations.pxi"
include "functional/dense.pxi"
include "functional/conv2d.pxi"
include "functional/maxout.pxi"
include "functional/pool2d.pxi"
include "functional/standardize.pxi"
include "functional/batch_norm.pxi"
include "functional/dropout.pxi"
include "functional/losses.pxi"
include "functional/clip.pxi"
include "functional/update.pxi"
include "functional/glm.pxi"
include "functional/limits.pxi"
include "functional/reduction.pxi"
include "program/walk.pxi"
include "program/predict.pxi"
include "program/train.pxi"
include "program/hvp.pxi"
include "program/rooms.pxi"
include "program/program.pxi"
include "program/workspace.pxi"
include "program/training.pxi"
include "program/parted.pxi"

team_initialize()
blas_initialize()
