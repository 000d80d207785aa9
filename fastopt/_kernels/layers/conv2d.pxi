# The convolution, channels last: y[n, i, j, o] = phi(b[o] + sum over r, s, c of W[o, r, s, c] x[n, i stride + r dilation - top,
# j stride + s dilation - left, c]), a cross-correlation as everywhere. With groups an output reads the channels of its group.
#
# - The products are those of convolutions.pxi. What a filter reads beyond the edge is the border of zeros of its source. With
#   as many groups as channels they are those of depthwise.pxi, which read no border.
# - Forward: a thread owns pixels or, where these are few, strips of outputs. Bias and relu are applied in registers.
# - Backward: dz is copied to scratch, with a border of zeros, where taps beyond its edge are multiplied.
# - Scratch holds the filters packed, and what a backward needs; every function that fills it ends with a barrier.

# --- passes

cdef void forward_conv2d(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # x (n, h, w, in) -> z (n, oh, ow, out), y = phi(z)
    cdef Conv2d* d = <Conv2d*>e.own
    cdef Sizes s = conv2d_sizes(r, e)
    cdef Rows z = preactivations(r, e, r.z, r.values, dtype), y = dst_rows(r, e, r.values, dtype)
    cdef bint fused_relu = e.activation == RELU and z.start == y.start
    cdef Block own = conv2d_block(r, d, thread, n_threads, dtype)
    cdef const void* packed = d.packed
    if packed == NULL:
        pack_groups(<floating*>d.weight, d.groups, d.width, d.size, <floating*>r.scratch, thread, n_threads)
        packed = r.scratch
    conv2d_rows(d, r.samples, image_of(&d.x, r.values[d.x.owner], dtype), preactivation_image(r, e, d, r.z, r.values, dtype), packed,
                d.bias, False, fused_relu, own, dtype)
    if not fused_relu and (e.activation != IDENTITY or z.start != y.start):     # y = phi(z)
        team_barrier(n_threads)
        activate_rows(e.activation, &z, &y, s.n_out, own_rows(&s, thread, n_threads), dtype)


cdef inline Grid gradient_grid(const Run* r, const Conv2d* d, void** values, Image dz, floating* dtype) noexcept nogil:
    return forward_grid(d, r.samples, image_of(&d.x, values[d.x.owner], dtype), dz, dtype)


cdef void backward_conv2d(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dz (n, oh, ow, out) = dy phi', in place; dx (+)=, dW, db
    cdef Conv2d* d = <Conv2d*>e.own
    cdef Sizes s = conv2d_sizes(r, e)
    cdef Rows dz = dst_rows(r, e, r.dvalues, dtype)
    cdef Image image = image_of(&d.y, r.dvalues[d.y.owner], dtype)
    cdef floating* dw = gradient(r, e, 0, dtype)
    cdef floating* db = gradient(r, e, 1, dtype)
    cdef Gradient g
    activation_gradient(r, e, &s, &dz, dtype, thread, n_threads)
    team_barrier(n_threads)
    if e.sources[0].wanted:     # dx
        conv2d_input_gradient(r, e, d.weight, image, r.dvalues, e.sources[0].accumulate, dtype, thread, n_threads)
    if dw != NULL:              # dW
        g.n_grids, g.pixels, g.grids[0] = 1, s.n, gradient_grid(r, d, r.values, image, dtype)
        conv2d_weight_gradient(d, &g, <floating*>r.scratch, dw, thread, n_threads)
    if db != NULL:              # db
        bias_gradient(&dz, &s, db, thread, n_threads)


# --- directional derivatives: a leading t names the tangent of what follows it

cdef void tangent_conv2d(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # tz = the convolutions of x with tW, + tb, and of tx with W; ty = phi' tz
    cdef Conv2d* d = <Conv2d*>e.own
    cdef Sizes s = conv2d_sizes(r, e)
    cdef Rows v = preactivations(r, e, r.z, r.values, dtype), tz = preactivations(r, e, r.tz, r.tangents, dtype)
    cdef Rows ty = dst_rows(r, e, r.tangents, dtype)
    cdef Image tz_image = preactivation_image(r, e, d, r.tz, r.tangents, dtype)
    cdef Block own = conv2d_block(r, d, thread, n_threads, dtype)
    pack_groups(direction(r, e, 0, dtype), d.groups, d.width, d.size, <floating*>r.scratch, thread, n_threads)
    conv2d_rows(d, r.samples, image_of(&d.x, r.values[d.x.owner], dtype), tz_image, r.scratch, direction(r, e, 1, dtype), False, False,
                own, dtype)
    if e.sources[0].wanted:
        team_barrier(n_threads)
        pack_groups(<floating*>d.weight, d.groups, d.width, d.size, <floating*>r.scratch, thread, n_threads)
        conv2d_rows(d, r.samples, image_of(&d.x, r.tangents[d.x.owner], dtype), tz_image, r.scratch, NULL, True, False, own, dtype)
    if e.activation != IDENTITY or tz.start != ty.start:
        team_barrier(n_threads)
        derive_rows(e.activation, &v, &tz, &ty, s.n_out, own_rows(&s, thread, n_threads), dtype)


cdef void tangent_backward_conv2d(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dy, tdy become dz and tdz; dx (+)= dX(W, dz); tdx (+)= dX(W, tdz) + dX(tW, dz); tdW = dW(x, tdz) + dW(tx, dz)
    cdef Conv2d* d = <Conv2d*>e.own
    cdef Sizes s = conv2d_sizes(r, e)
    cdef Rows dz = dst_rows(r, e, r.dvalues, dtype), tdz = dst_rows(r, e, r.dtangents, dtype)
    cdef Image image = image_of(&d.y, r.dvalues[d.y.owner], dtype), timage = image_of(&d.y, r.dtangents[d.y.owner], dtype)
    cdef bint moves = e.sources[0].wanted, accumulate = e.sources[0].accumulate
    cdef Gradient g
    activation_tangent_gradient(r, e, &s, &dz, &tdz, dtype, thread, n_threads)
    team_barrier(n_threads)
    if moves:
        conv2d_input_gradient(r, e, d.weight, image, r.dvalues, accumulate, dtype, thread, n_threads)
        conv2d_input_gradient(r, e, d.weight, timage, r.dtangents, accumulate, dtype, thread, n_threads)
        conv2d_input_gradient(r, e, direction(r, e, 0, dtype), image, r.dtangents, True, dtype, thread, n_threads)
    g.n_grids, g.pixels, g.grids[0] = 1, s.n, gradient_grid(r, d, r.values, timage, dtype)
    if moves:
        g.n_grids, g.grids[1] = 2, gradient_grid(r, d, r.tangents, image, dtype)
    conv2d_weight_gradient(d, &g, <floating*>r.scratch, gradient(r, e, 0, dtype), thread, n_threads)
    if e.n_weights > 1:
        bias_gradient(&tdz, &s, gradient(r, e, 1, dtype), thread, n_threads)


# --- the kind

cdef Py_ssize_t conv2d_work(const Entry* e) noexcept nogil:
    return (<Conv2d*>e.own).size * e.n_out


cdef Py_ssize_t conv2d_scratch(const Entry* e, Py_ssize_t rows, bint training) noexcept nogil:
    # packed filters; in training the bordered dz beside them, or the parts of dW
    cdef Conv2d* d = <Conv2d*>e.own
    cdef Py_ssize_t samples = rows // e.positions
    if not training:
        return filter_elements(d) if d.packed == NULL else 0
    return max(filter_elements(d) + samples * bordered_elements(d),
               gradient_chunks(d, samples * e.out_positions) * gradient_elements(d))


cdef Py_ssize_t conv2d_thread_scratch(const Entry* e) noexcept nogil:
    # in either dtype
    cdef Conv2d* d = <Conv2d*>e.own
    return scatter_room(d) if scatters(d, <float*>NULL) or scatters(d, <double*>NULL) else 0


cdef int place_conv2d(Entry* e, dict own, list weights, Arrays arrays) except -1:
    # weights: weight (out, kernel_y, kernel_x, in / groups), packed or not, and, or not, bias (out,); own: stride, padding
    # (top, left), dilation, groups. The source has a border as wide as filters reach
    cdef Conv2d* d = <Conv2d*>arrays.block(sizeof(Conv2d))
    e.own, d.x, d.y = <void*>d, arrays.shapes[e.sources[0].value], arrays.shapes[e.dst]
    d.dx = d.x
    d.groups = _numbers.whole_number("groups", own.pop("groups", 1))
    d.stride_y, d.stride_x = own.pop("stride", (1, 1))
    d.dilation_y, d.dilation_x = own.pop("dilation", (1, 1))
    d.top, d.left = own.pop("padding", (0, 0))
    if e.n_in % d.groups or e.n_out % d.groups:
        raise ValueError(f"{arrays.entry}: expected groups that divide {e.n_in} inputs and {e.n_out} outputs, got {d.groups}")
    shape = weights[0].shape if weights and len(weights[0].shape) == 4 else (e.n_out, 1, 1, e.n_in // d.groups)
    d.kernel_y, d.kernel_x = shape[1], shape[2]
    shape = (e.n_out, d.kernel_y, d.kernel_x, e.n_in // d.groups)
    if weights and isinstance(weights[0], PackedWeight):
        d.packed = arrays.hold_packed(e, weights, shape, d.groups)
    else:
        d.weight = arrays.hold_weight(e, "weight", weights, shape)
    if len(weights) > 1:
        d.bias = arrays.hold_weight(e, "bias", weights, (e.n_out,))
    place_taps(d, arrays)
    return place_back_taps(d, arrays)


cdef Kind conv2d_kind
conv2d_kind.forward = Pass(forward_conv2d[float], forward_conv2d[double])
conv2d_kind.backward = Pass(backward_conv2d[float], backward_conv2d[double])
conv2d_kind.tangent = Pass(tangent_conv2d[float], tangent_conv2d[double])
conv2d_kind.tangent_backward = Pass(tangent_backward_conv2d[float], tangent_backward_conv2d[double])
conv2d_kind.place = place_conv2d
conv2d_kind.work, conv2d_kind.scratch, conv2d_kind.thread_scratch = conv2d_work, conv2d_scratch, conv2d_thread_scratch
conv2d_kind.least_rows, conv2d_kind.activates = 1, True
register_kind(&conv2d_kind, "conv2d")
