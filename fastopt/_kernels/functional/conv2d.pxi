# conv2d, forward and backward, on images (n, height, width, channels).

cdef struct ConvolutionCall:
    OneEntry one
    void *x                     # images without a border, copied to value 0 before the pass; NULL: they are value 0


cdef void conv2d_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef ConvolutionCall* c = <ConvolutionCall*>args
    cdef Shape plain = c.one.shapes[0]
    cdef Image to
    if c.x != NULL:
        plain.border_y = plain.border_x = 0
        to = image_of(&c.one.shapes[0], c.one.values[0], dtype)
        copy_bordered(&c.one.shapes[0], image_of(&plain, c.x, dtype), &to, c.one.run.samples, dtype, thread, n_threads)
        team_barrier(n_threads)
    one_entry_pass(&c.one, dtype, thread, n_threads)


def conv2d_padding(padding, kernel, dilation):
    """((top, bottom), (left, right)) of a pair, "same" or "valid"; of "same" the smaller half comes first."""
    if isinstance(padding, tuple):
        return tuple([(n, n) for n in padding])
    total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel)]
    return tuple([(n // 2, n - n // 2) for n in total])


def is_depthwise(channels):
    """Whether a convolution of so many channels, (in, out, groups), has as many groups as both, and more than one."""
    return 1 < channels[2] == channels[0] == channels[1]


def conv2d_geometry(image, kernel, stride, dilation, pads, channels):
    """(height, width) of the output, below 1 where a filter is larger than the padded image, and (rows, columns) of zeros
    around the image that filters read: none where it is depthwise."""
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    out = tuple([(n + sum(pad) - r) // s + 1 for n, pad, r, s in zip(image, pads, reach, stride)])
    if is_depthwise(channels):
        return out, (0, 0)
    border = tuple([max(pad[0], (m - 1) * s + r - pad[0] - n) for n, m, pad, r, s in zip(image, out, pads, reach, stride)])
    return out, border


cdef object checked_padding(object padding, tuple stride):
    # a pair, "same" or "valid"
    if not isinstance(padding, str):
        return _numbers.whole_pair("padding", padding, 0)
    if padding not in ("same", "valid"):
        raise ValueError(f"padding: expected a number, a pair (height, width), 'same' or 'valid', got {padding!r}")
    if padding == "same" and stride != (1, 1):
        raise ValueError(f"padding: expected stride 1 with 'same', got stride {stride}; give numbers")
    return padding


cdef object conv2d_call(ConvolutionCall* c, Conv2d* own, object x, object weight, tuple options, int typenum):
    # checks x and weight, sets an entry up between plain images, and returns (x, weight, shape of the output)
    cdef Py_ssize_t n
    stride, padding, dilation, groups = options
    x = as_input("x", x, typenum, (None, None, None, None))
    groups = whole_number("groups", groups)
    check_groups(groups, "channels of x", x.shape[3])
    weight = as_input("weight", weight, typenum, (None, None, None, x.shape[3] // groups))
    check_groups(groups, "filters of weight", weight.shape[0])
    kernel, image = weight.shape[1:3], x.shape[1:3]
    stride, dilation = _numbers.whole_pair("stride", stride, 1), _numbers.whole_pair("dilation", dilation, 1)
    pads = conv2d_padding(checked_padding(padding, stride), kernel, dilation)
    out, border = conv2d_geometry(image, kernel, stride, dilation, pads, (x.shape[3], weight.shape[0], groups))
    if min(image) < 1:
        raise ValueError(f"x: expected images of at least one pixel, got shape {x.shape}")
    if min(kernel) < 1 or min(out) < 1:
        raise ValueError(f"weight: expected filters that fit the padded image, {image} with padding {pads}, got {kernel} "
                         f"with dilation {dilation}")
    n = x.shape[0]
    memset(own, 0, sizeof(Conv2d))
    one_entry(&c.one, &conv2d_kind, own, typenum, n, x.shape[3], weight.shape[0])
    c.one.shapes[0] = Shape(image[0], image[1], x.shape[3], border[0], border[1], x.shape[3], 0, 0)
    c.one.shapes[1] = Shape(out[0], out[1], weight.shape[0], 0, 0, weight.shape[0], 1, 0)
    c.one.entry.positions, c.one.entry.out_positions = image[0] * image[1], out[0] * out[1]
    own.x, own.y, own.groups, own.weight = c.one.shapes[0], c.one.shapes[1], groups, data(weight)
    own.dx = Shape(image[0], image[1], x.shape[3], 0, 0, x.shape[3], 0, 0)
    (own.kernel_y, own.kernel_x), (own.stride_y, own.stride_x), (own.dilation_y, own.dilation_x) = kernel, stride, dilation
    own.top, own.left = pads[0][0], pads[1][0]
    c.one.values[0] = data(x)
    return x, weight, (n, *out, weight.shape[0])


cdef inline Py_ssize_t item_of(int typenum) noexcept:
    return 4 if typenum == cnp.NPY_FLOAT32 else 8


cdef int conv2d_run(ConvolutionCall* c, bint training) except -1:
    # runs the pass, with tables and memory of its own
    cdef Arrays arrays = Arrays(c.one.run.typenum, True)
    cdef Scratch memory
    cdef Py_ssize_t x_bytes = 0, dz_bytes = 0, item = item_of(c.one.run.typenum), work, n_threads, scratch
    place_taps(<Conv2d*>c.one.entry.own, arrays)
    if training:
        place_back_taps(<Conv2d*>c.one.entry.own, arrays)
    work = c.one.run.n * c.one.entry.out_positions * conv2d_work(&c.one.entry) * (2 if training else 1)
    n_threads = threads_for(work)
    scratch = round_up(conv2d_scratch(&c.one.entry, c.one.run.n * c.one.entry.positions, training) * item, 64)
    if c.one.shapes[0].border_y > 0 or c.one.shapes[0].border_x > 0:
        x_bytes = round_up(c.one.run.n * elements_of(&c.one.shapes[0]) * item, 64)
    if training:
        dz_bytes = round_up(c.one.run.n * elements_of(&c.one.shapes[1]) * item, 64)
        c.one.run.thread_bytes = round_up(conv2d_thread_scratch(&c.one.entry) * item, 64)
    memory = Scratch(scratch + x_bytes + dz_bytes + n_threads * c.one.run.thread_bytes)
    c.one.run.scratch = memory.start
    c.x = c.one.values[0] if x_bytes > 0 else NULL
    if x_bytes > 0:
        c.one.values[0] = <char*>memory.start + scratch
    if training:
        # dz, read in whole vectors, is dy
        if c.one.entry.activation == IDENTITY and (<Conv2d*>c.one.entry.own).width % lanes_of(<float*>NULL) == 0:
            c.one.dvalues[1], c.one.run.dy = c.one.run.dy, NULL
        else:
            c.one.dvalues[1] = <char*>memory.start + scratch + x_bytes
        c.one.run.thread_scratch = <char*>memory.start + scratch + x_bytes + dz_bytes
    with nogil:
        run_typed(c.one.run.typenum, conv2d_job[float], conv2d_job[double], c, n_threads)
    return 0


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, activation="identity", out=None, z=None):
    """Convolution of images, a cross-correlation as everywhere; channels last.

    Parameters
    ----------
    x : ndarray, shape (n, height, width, in), float32 or float64
    weight : ndarray, shape (out, kernel height, kernel width, in / groups), dtype of `x`
        Filter o reads the channels of group ``o // (out / groups)``.
    bias : ndarray, shape (out,), dtype of `x`, optional
    stride, dilation : int or pair of int
        Pixels from one place of a filter to the next, and from one of its elements to the next: of both axes, or
        (height, width).
    padding : int, pair of int, "same" or "valid"
        Zeros on both sides of an axis. "same" keeps the size, with stride 1: of an odd number of zeros the additional one
        follows. "valid" is 0.
    groups : int
        A divisor of in and of out; with ``groups=in`` the convolution is depthwise.
    activation : str
        As for `dense`; softmax is that of the channels of a pixel.
    out : ndarray, shape (n, out height, out width, out), optional
        Overwritten with the result.
    z : ndarray, shape of `out`, optional
        Overwritten with the preactivation.

    Returns
    -------
    ndarray
        `out` if given, else a new array; its height is ``(height + 2 padding - dilation (kernel - 1) - 1) // stride + 1``.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, or filters larger than the padded image; nothing has been written then.

    Notes
    -----
    As ``torch.nn.functional.conv2d``, whose arrays are (n, in, height, width) and (out, in / groups, height, width).

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x = np.arange(9.0).reshape(1, 3, 3, 1)
    >>> fo.functional.conv2d(x, np.ones((1, 2, 2, 1)))[0, :, :, 0]
    array([[ 8., 12.],
           [20., 24.]])
    """
    cdef ConvolutionCall c
    cdef Conv2d own
    cdef int typenum = float_type("x", x), code = activation_code(activation)
    x, weight, shape = conv2d_call(&c, &own, x, weight, (stride, padding, dilation, groups), typenum)
    bias = optional_input("bias", bias, typenum, (shape[3],))
    out = as_output("out", out, typenum, shape)
    z = optional_output("z", z, typenum, shape)
    check_no_overlap(("out", "z"), (out, z), ("x", "weight", "bias"), (x, weight, bias))
    if out.size == 0:
        return out
    own.bias = data_or_null(bias)
    c.one.values[1], c.one.z, c.one.entry.activation = data(out), data_or_null(z), code
    conv2d_run(&c, False)
    return out


def conv2d_backward(dy, x, weight, z=None, stride=1, padding=0, dilation=1, groups=1, activation="identity",
                    dx=None, dw=None, db=None, *, y=None):
    """Gradients of `conv2d`, given the gradient of its output.

    Parameters
    ----------
    dy : ndarray, shape of the output, float32 or float64
        Gradient with respect to the output; not changed.
    x, weight, stride, padding, dilation, groups, activation
        As given to `conv2d`.
    z, y : ndarray, shape of `dy`, optional
        The preactivation that `conv2d` stored, or for every activation except gelu and silu its output.
    dx, dw, db : ndarray, optional
        Overwritten with the gradients of `x`, `weight` and the bias (out,). `dx` is made if not given; `dw` and `db` are
        computed only if given.

    Returns
    -------
    ndarray, shape of `x`
        `dx`.

    Raises
    ------
    TypeError, ValueError
        As `conv2d`; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x, weight = np.arange(9.0).reshape(1, 3, 3, 1), np.ones((1, 2, 2, 1))
    >>> dw = np.empty_like(weight)
    >>> fo.functional.conv2d_backward(np.ones((1, 2, 2, 1)), x, weight, dw=dw)[0, :, :, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    >>> dw[0, :, :, 0]
    array([[ 8., 12.],
           [20., 24.]])
    """
    cdef ConvolutionCall c
    cdef Conv2d own
    cdef int typenum = float_type("dy", dy), code = activation_code(activation)
    x, weight, shape = conv2d_call(&c, &own, x, weight, (stride, padding, dilation, groups), typenum)
    dy = as_input("dy", dy, typenum, shape)
    v = derivative_argument(code, typenum, z, y, shape)
    dx = as_output("dx", dx, typenum, x.shape)
    dw = optional_output("dw", dw, typenum, weight.shape)
    db = optional_output("db", db, typenum, (shape[3],))
    check_no_overlap(("dx", "dw", "db"), (dx, dw, db), ("dy", "x", "weight", "z"), (dy, x, weight, v))
    if len(x) == 0:             # however large images are of which there are none
        for a in (dw, db):
            if a is not None:
                a[...] = 0
    if len(x) == 0 or all(a is None or a.size == 0 for a in (dx, dw, db)):
        return dx
    c.one.entry.activation, c.one.entry.n_weights, c.one.backward = code, MAX_WEIGHTS, True
    c.one.entry.weights[1].grad = 1
    c.one.values[1], c.one.dvalues[0], c.one.run.dy = data(dy if v is None else v), data(dx), data(dy)
    c.one.dparams[0], c.one.dparams[1] = data_or_null(dw), data_or_null(db)
    conv2d_run(&c, True)
    return dx
