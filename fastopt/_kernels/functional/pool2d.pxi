# Pooling of images: a program of one entry.

cdef inline int pair(str name, object a, Py_ssize_t least, Py_ssize_t* rows, Py_ssize_t* columns) except -1:
    # a whole number for both axes, or (rows, columns); without a call where it is a Python int
    if type(a) is int and least <= a <= 1 << 53:
        rows[0] = columns[0] = a
    else:
        rows[0], columns[0] = _numbers.whole_pair(name, a, least)
    return 0


cdef int count_windows(Axis* a, bint ceil_mode) except -1:
    # as torch counts them: a last window that would start in the padding beyond the image is dropped
    cdef Py_ssize_t beyond = a.pixels + 2 * a.padding - a.kernel + (a.stride - 1 if ceil_mode else 0)
    a.windows = 0 if beyond < 0 else beyond // a.stride + 1
    if (a.windows - 1) * a.stride >= a.pixels + a.padding:
        a.windows -= 1
    return 0


cdef int take_windows(Pool2d* p, Py_ssize_t height, Py_ssize_t width, object kernel_size, object stride, object padding,
                      object ceil_mode, object count_include_pad) except -1:
    # checks what pooling an image takes besides, and counts its windows
    cdef bint ceil = _numbers.flag("ceil_mode", ceil_mode) if type(ceil_mode) is not bool else ceil_mode
    p.y.pixels, p.x.pixels = height, width
    pair("kernel_size", kernel_size, 1, &p.y.kernel, &p.x.kernel)
    pair("stride", kernel_size if stride is None else stride, 1, &p.y.stride, &p.x.stride)
    pair("padding", padding, 0, &p.y.padding, &p.x.padding)
    p.count_include_pad = (_numbers.flag("count_include_pad", count_include_pad) if type(count_include_pad) is not bool
                           else count_include_pad)
    if 2 * p.y.padding > p.y.kernel or 2 * p.x.padding > p.x.kernel:
        raise ValueError(f"padding: expected at most half of the kernel, {p.y.kernel // 2, p.x.kernel // 2}, got {padding}")
    count_windows(&p.y, ceil)
    count_windows(&p.x, ceil)
    if p.y.windows < 1 or p.x.windows < 1:
        raise ValueError(f"kernel_size: expected at most the padded image, {height + 2 * p.y.padding, width + 2 * p.x.padding}, "
                         f"got {p.y.kernel, p.x.kernel}")
    return 0


def pool2d_shape(height, width, kernel_size, stride, padding, ceil_mode):
    """(height, width) of what pooling makes of an image; ValueError for windows that do not fit."""
    cdef Pool2d p
    take_windows(&p, height, width, kernel_size, stride, padding, ceil_mode, True)
    return p.y.windows, p.x.windows


cdef tuple image_shape(str name, object a):
    # (n, height, width, channels) of an array of images
    if a.ndim != 4:
        raise ValueError(f"{name}: expected images of shape (n, height, width, channels), got shape {a.shape}")
    return a.shape


cdef tuple pooled(OneEntry* c, Pool2d* own, const Kind* kind, int typenum, tuple shape, object kernel_size, object stride,
                  object padding, object ceil_mode, object count_include_pad):
    # sets up the entry for images of a shape, and returns the shape of the output
    cdef Py_ssize_t n, height, width, channels
    n, height, width, channels = shape
    take_windows(own, height, width, kernel_size, stride, padding, ceil_mode, count_include_pad)
    one_entry(c, kind, own, typenum, n, channels, channels)
    c.shapes[0].height, c.shapes[0].width, c.shapes[1].height, c.shapes[1].width = height, width, own.y.windows, own.x.windows
    c.entry.positions = height * width
    return (n, own.y.windows, own.x.windows, channels)


cdef object pool_images(const Kind* kind, object x, object kernel_size, object stride, object padding, object ceil_mode,
                        object count_include_pad, object out):
    # checks and runs a forward
    cdef OneEntry c
    cdef Pool2d own
    cdef int typenum = float_type("x", x)
    shape = pooled(&c, &own, kind, typenum, image_shape("x", x), kernel_size, stride, padding, ceil_mode, count_include_pad)
    x = as_input("x", x, typenum, x.shape)
    out = as_output("out", out, typenum, shape)
    check_no_overlap(("out",), (out,), ("x",), (x,))
    c.values[0], c.values[1] = data(x), data(out)
    if out.size:
        with nogil:
            run_one(&c, 4 * c.run.samples * c.entry.positions * c.entry.n_in)
    return out


cdef object pool_gradient(const Kind* kind, object dy, object x, tuple shape, object kernel_size, object stride, object padding,
                          object ceil_mode, object count_include_pad, object dx):
    # checks and runs a backward for images of a shape; x is None where it is not needed
    cdef OneEntry c
    cdef Pool2d own
    cdef int typenum = float_type("dy", dy)
    y_shape = pooled(&c, &own, kind, typenum, shape, kernel_size, stride, padding, ceil_mode, count_include_pad)
    dy, x = as_input("dy", dy, typenum, y_shape), optional_input("x", x, typenum, shape)
    dx = as_output("dx", dx, typenum, shape)
    check_no_overlap(("dx",), (dx,), ("dy", "x"), (dy, x))
    c.values[0], c.dvalues[0], c.dvalues[1], c.backward = data_or_null(x), data(dx), data(dy), True
    if dx.size:
        with nogil:
            run_one(&c, 4 * c.run.samples * c.entry.positions * c.entry.n_in)
    return dx


def max_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, out=None):
    """The largest pixel of every window of images, channel by channel.

    Parameters
    ----------
    x : ndarray, shape (n, height, width, channels), float32 or float64
        NaN wins against every number.
    kernel_size : int or (int, int)
        Height and width of a window.
    stride : int or (int, int), optional
        From one window to the next; `kernel_size` if None.
    padding : int or (int, int)
        Pixels around the image at which windows may start and end, at most half of the kernel. Nothing is read there.
    ceil_mode : bool
        Whether a last window may reach beyond the padded image. One that would start beyond the image is dropped.
    out : ndarray, shape (n, windows in a column, windows in a row, channels), optional
        Overwritten with the result.

    Returns
    -------
    ndarray, shape (n, windows in a column, windows in a row, channels)
        `out` if given, else a new array.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, or windows that do not fit; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x = np.arange(16.0).reshape(1, 4, 4, 1)
    >>> fo.functional.max_pool2d(x, 2)[0, :, :, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    >>> fo.functional.max_pool2d(x, 3, stride=2, padding=1)[0, :, :, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    return pool_images(&max_pool2d_kind, x, kernel_size, stride, padding, ceil_mode, False, out)


def max_pool2d_backward(dy, x, kernel_size, stride=None, padding=0, ceil_mode=False, dx=None):
    """Gradient of `max_pool2d`, given the gradient of its output.

    Parameters
    ----------
    dy : ndarray, shape (n, windows in a column, windows in a row, channels), float32 or float64
        Gradient with respect to the output.
    x : ndarray, shape (n, height, width, channels), dtype of `dy`
        As given to `max_pool2d`.
    kernel_size, stride, padding, ceil_mode
        As given to `max_pool2d`.
    dx : ndarray, shape of `x`, optional
        Overwritten with the gradient of `x`: each pixel gets the sum of `dy` of the windows in which it is the first,
        row by row, of the largest.

    Returns
    -------
    ndarray, shape of `x`
        `dx` if given, else a new array.

    Raises
    ------
    TypeError, ValueError
        As for `max_pool2d`; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x = np.array([3.0, 5.0, 5.0, 1.0]).reshape(1, 2, 2, 1)
    >>> fo.functional.max_pool2d_backward(np.full((1, 1, 1, 1), 7.0), x, 2)[0, :, :, 0]
    array([[0., 7.],
           [0., 0.]])
    """
    float_type("x", x)
    return pool_gradient(&max_pool2d_kind, dy, x, image_shape("x", x), kernel_size, stride, padding, ceil_mode, False, dx)


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, out=None):
    """The average of every window of images, channel by channel.

    Parameters
    ----------
    x : ndarray, shape (n, height, width, channels), float32 or float64
    kernel_size, stride, padding, ceil_mode
        As for `max_pool2d`.
    count_include_pad : bool
        Whether pixels of the padding count, as zeros: the sum is divided by the size of the window within the padded
        image. Otherwise it is divided by the number of pixels that are there.
    out : ndarray, shape (n, windows in a column, windows in a row, channels), optional
        Overwritten with the result.

    Returns
    -------
    ndarray, shape (n, windows in a column, windows in a row, channels)
        `out` if given, else a new array.

    Raises
    ------
    TypeError, ValueError
        As for `max_pool2d`; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> x = np.arange(16.0).reshape(1, 4, 4, 1)
    >>> fo.functional.avg_pool2d(x, 2)[0, :, :, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    return pool_images(&avg_pool2d_kind, x, kernel_size, stride, padding, ceil_mode, count_include_pad, out)


def avg_pool2d_backward(dy, input_shape, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, dx=None):
    """Gradient of `avg_pool2d`, given the gradient of its output.

    Parameters
    ----------
    dy : ndarray, shape (n, windows in a column, windows in a row, channels), float32 or float64
        Gradient with respect to the output.
    input_shape : (int, int, int, int)
        ``x.shape`` of what `avg_pool2d` was given, whose numbers the gradient does not depend on.
    kernel_size, stride, padding, ceil_mode, count_include_pad
        As given to `avg_pool2d`.
    dx : ndarray, shape `input_shape`, optional
        Overwritten with the gradient of `x`: each pixel gets its share of `dy` of the windows that hold it.

    Returns
    -------
    ndarray, shape `input_shape`
        `dx` if given, else a new array.

    Raises
    ------
    TypeError, ValueError
        As for `max_pool2d`; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.avg_pool2d_backward(np.full((1, 1, 1, 1), 8.0), (1, 2, 2, 1), 2)[0, :, :, 0]
    array([[2., 2.],
           [2., 2.]])
    """
    if not isinstance(input_shape, (tuple, list)) or len(input_shape) != 4:
        raise ValueError(f"input_shape: expected (n, height, width, channels), got {input_shape!r}; pass x.shape")
    shape = tuple(_numbers.whole_number(f"input_shape[{i}]", m, 0) for i, m in enumerate(input_shape))
    return pool_gradient(&avg_pool2d_kind, dy, None, shape, kernel_size, stride, padding, ceil_mode, count_include_pad, dx)
