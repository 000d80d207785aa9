# The compiled program: a network laid out as a list of entries over numbered values.
#
# Value 0 is the input. It comes in the program's dtype or, where its only reader is of a kind that reads either, in float32
# or float64 as the caller has it. The last value is the output. predict, value_and_grad, hvp, step and fit all run the one
# list of entries, whose contract stands in layers/entry.pxi.

cdef class Program:
    """A network laid out over numbered values; see layers/entry.pxi for the contract of an entry.

    Parameters
    ----------
    values : list of dict
        shape, (features,) or (height, width, channels); and, where they are not the plain case: border, positions of
        zeros (above and below, left and right); owner, the number of the value in whose memory it lies, and first, the
        channel of the owner with which it starts.
    entries : list of dict
        kind, sources, dst; exchange, see `exchanges`; weights, a list of the trained arrays, the first of which may be a
        `PackedWeight`; penalty (l1, l2, max_norm) of the first of them; frozen, whether they stay as they are; activation;
        own, what the kind takes besides.
    typenum : int
        NumPy type number of every array.
    fixed : bool
        The parameters are only read, so they may be read-only.
    input_gradient : bool
        The gradient of value 0 is wanted as well.
    """
    cdef Entry* entries
    cdef Shape* shapes
    cdef Py_ssize_t n_entries, n_values
    cdef Py_ssize_t item                    # bytes of a number
    cdef Py_ssize_t work                    # multiply-adds of a sample, forward
    cdef Py_ssize_t elements                # of a sample in all values together
    cdef Room inference, training, gradients    # where values lie, and their gradients in training
    cdef Py_ssize_t positions, most_positions   # of the output, and the most of any value
    cdef readonly int typenum
    cdef bint reads_either                  # the input may be float32 or float64
    cdef bint packed                        # some weights are packed, so no gradient can be found
    cdef readonly Py_ssize_t n_in, n_out    # channels of the input, of the output
    cdef readonly tuple input_shape, output_shape
    cdef tuple batch_shape                  # (None, *input_shape)
    cdef readonly Py_ssize_t least_rows     # samples of a batch to train on
    cdef Py_ssize_t n_weights               # numbers in all trained arrays
    cdef Py_ssize_t n_penalties             # rows of weights that are penalized
    cdef bint has_max_norm                  # some rows of weights have a largest norm
    cdef Arrays arrays
    cdef list grad_shapes, value_shapes
    cdef list frozen                        # by gradient: whether nobody asks for it
    cdef list grad_starts                   # where each gradient starts in a block of all of them,
    cdef readonly list starts               # by entry: where those of its weights do,
    cdef Py_ssize_t n_gradient              # and how many numbers that block has
    cdef readonly list exchanges            # (entry, what ranks exchange after its forward and before its backward)
    cdef list written                       # elements of a sample that entries write, by number of the owner
    cdef list resting                       # workspaces that predict takes from

    def __cinit__(self, list values, list entries, int typenum, bint fixed=False, bint input_gradient=False):
        cdef Py_ssize_t i
        self.typenum, self.item, self.arrays = typenum, 4, Arrays(typenum, fixed)
        self.grad_shapes, self.value_shapes, self.resting, self.grad_starts, self.starts = [], [], [None], [], []
        self.exchanges, self.frozen = [], []
        if typenum != cnp.NPY_FLOAT32:
            self.item = 8
        self.n_entries, self.n_values, self.least_rows = len(entries), len(values), 1
        self.written = [0] * len(values)
        self.arrays.shapes = self.shapes = <Shape*>self.arrays.block(self.n_values * sizeof(Shape))
        self.entries = <Entry*>self.arrays.block(self.n_entries * sizeof(Entry))
        for i, value in enumerate(values):
            self.place_value(i, value)
        for i, spec in enumerate(entries):
            self.place_entry(&self.entries[i], i, spec)
        self.n_in, self.n_out = self.shapes[0].channels, self.shapes[self.n_values - 1].channels
        self.positions = positions_of(&self.shapes[self.n_values - 1])
        self.input_shape, self.output_shape = self.value_shapes[0], self.value_shapes[self.n_values - 1]
        self.batch_shape = (None, *self.input_shape)
        self.reads_either = self.one_kind_reads_either()
        if not (self.is_plain(0) and self.is_plain(self.n_values - 1)):
            raise ValueError("values: expected an input and an output without a border, in memory of their own")
        self.place_values(self.order_gradients(input_gradient))

    cdef int place_value(self, Py_ssize_t number, dict value) except -1:
        cdef Shape* s = &self.shapes[number]
        shape = tuple(value["shape"])
        self.value_shapes.append(shape)
        s.height, s.width, s.channels = shape if len(shape) == 3 else (1, 1, *shape)
        s.border_y, s.border_x = value.get("border", (0, 0))
        s.owner, s.first, s.ld = value.get("owner", number), value.get("first", 0), s.channels
        if min(s.height, s.width, s.channels, 1 + s.border_y, 1 + s.border_x) < 1 or not 0 <= s.owner <= number:
            raise ValueError(f"values[{number}]: expected a shape of numbers above 0 and an owner before it, got {value}")
        if <double>(s.height + 2.0 * s.border_y) * <double>(s.width + 2.0 * s.border_x) * <double>s.channels > 2.0**40:
            raise ValueError(f"values[{number}]: expected at most 2**40 numbers a sample, got shape {shape}")
        if s.owner != number:
            self.place_inside(number, &self.shapes[s.owner])
        else:
            self.elements += room_of(s)
        self.most_positions = max(self.most_positions, positions_of(s))
        return 0

    cdef int place_inside(self, Py_ssize_t number, const Shape* owner) except -1:
        # a value that is some channels of another one, or all of a plain one in another shape
        cdef Shape* s = &self.shapes[number]
        if same_positions(s, owner) and owner.owner == s.owner and 0 <= s.first <= owner.channels - s.channels:
            s.border_y, s.border_x, s.ld = owner.border_y, owner.border_x, owner.ld
        elif (owner.owner != s.owner or s.first or owner.border_y or owner.border_x or s.border_y or s.border_x
                or elements_of(s) != elements_of(owner)):
            raise ValueError(f"values[{number}]: expected channels of value {s.owner}, or all of it without a border in another "
                             f"shape, got {self.value_shapes[number]} from channel {s.first} of {self.value_shapes[s.owner]}")
        return 0

    cdef bint is_plain(self, Py_ssize_t number) noexcept:
        # whether a value is an array of its shape, without a border, in memory of its own
        cdef Shape* s = &self.shapes[number]
        return s.owner == number and s.border_y == 0 and s.border_x == 0

    cdef int place_entry(self, Entry* e, Py_ssize_t number, dict spec) except -1:
        # sets an entry up, and refuses values that are not there or do not fit its kind
        cdef Py_ssize_t i, n = self.n_values
        cdef Weight* w
        cdef str name = f"entries[{number}] ({spec['kind']})"
        sources, weights = tuple(spec["sources"]), list(spec.get("weights", ()))
        e.kind, e.number, e.dst, e.n_sources = kind_named(spec["kind"]), number, spec["dst"], len(sources)
        e.activation = activation_code(spec.get("activation", "identity"))
        if not (sources and all(0 <= source < e.dst for source in sources) and e.dst < n):
            raise ValueError(f"{name}: expected values from 0 to {n - 1}, read before they are written, got {sources} -> {e.dst}")
        e.sources = <Source*>self.arrays.block(e.n_sources * sizeof(Source))        # what it reads
        for i in range(e.n_sources):
            e.sources[i].value = sources[i]
            self.require_whole(name, sources[i])
        e.n_in, e.n_out = self.shapes[e.sources[0].value].channels, self.shapes[e.dst].channels
        e.positions, e.out_positions = positions_of(&self.shapes[e.sources[0].value]), positions_of(&self.shapes[e.dst])
        if e.kind.fits != NULL and not e.kind.fits(e, self.shapes):
            raise ValueError(f"{name}: expected shapes that fit this kind, got "
                             f"{', '.join(str(self.value_shapes[source]) for source in sources)} -> {self.value_shapes[e.dst]}")
        if (e.n_sources > 1 and not e.kind.adds_sources) or (e.activation != IDENTITY and not e.kind.activates):
            raise ValueError(f"{name}: expected one source and no activation, got {sources} and {spec.get('activation')!r}")
        self.arrays.entry, own = name, dict(spec.get("own", {}))
        if e.kind.place != NULL:        # what its kind makes of the arrays
            e.kind.place(e, own, weights, self.arrays)
        self.packed |= any(isinstance(weight, PackedWeight) for weight in weights)
        if e.n_weights != len(weights) or own:
            raise ValueError(f"{name}: expected {e.n_weights} weights and nothing besides, got {len(weights)} and {sorted(own)}")
        if spec.get("exchange") is not None:
            self.exchanges.append((number, spec["exchange"]))
        e.frozen = spec.get("frozen", False)
        e.fuses = e.fuses and not e.frozen
        self.starts.append(self.n_gradient)
        for i in range(e.n_weights):    # gradients and penalties of its weights
            w = &e.weights[i]
            w.grad, w.first_penalty = len(self.grad_shapes), self.n_penalties
            self.n_weights += w.rows * w.columns
            if i == 0 and not e.frozen:
                w.penalty.l1, w.penalty.l2, w.penalty.max_norm = spec.get("penalty") or (0.0, 0.0, 0.0)
                self.n_penalties += w.rows if penalizes(&w.penalty) else 0
                self.has_max_norm |= w.penalty.max_norm > 0
            self.grad_shapes.append(weights[i].shape)
            self.frozen.append(e.frozen)
            self.grad_starts.append(self.n_gradient)
            self.n_gradient += round_up(w.rows * w.columns, 64 // self.item)
        self.written[self.shapes[e.dst].owner] += elements_of(&self.shapes[e.dst]) // self.shapes[e.dst].ld * e.n_out
        self.work += e.out_positions * e.kind.work(e) if e.kind.work != NULL else 4 * e.positions * e.n_in
        self.least_rows = max(self.least_rows, (e.kind.least_rows + e.positions - 1) // e.positions)
        return 0

    cdef int require_whole(self, str name, Py_ssize_t source) except -1:
        # refuses a source that is neither the input nor written, in all of its channels, by entries before
        cdef Py_ssize_t owner = self.shapes[source].owner
        if self.shapes[source].channels != self.shapes[source].ld or (
                owner != 0 and self.written[owner] != elements_of(&self.shapes[owner])):
            raise ValueError(f"{name}: expected a source all of whose channels have been written, got value {source}")
        return 0

    cdef set order_gradients(self, bint input_gradient):
        # which gradients are wanted, and which entries overwrite a source's: the first in the order of backward; returns the
        # owners of values that have gradients
        cdef Py_ssize_t i, k
        cdef Entry* e
        has_gradient, written = {0} if input_gradient else set(), set()
        for i in range(self.n_entries):
            e = &self.entries[i]
            e.backs = e.n_weights > 0 and not e.frozen
            for k in range(e.n_sources):
                e.sources[k].wanted = self.shapes[e.sources[k].value].owner in has_gradient
                e.backs |= e.sources[k].wanted
            if e.backs:
                has_gradient.add(self.shapes[e.dst].owner)
        for i in range(self.n_entries - 1, -1, -1):
            e = &self.entries[i]
            for k in range(e.n_sources):
                e.sources[k].accumulate = self.shapes[e.sources[k].value].owner in written
                if e.sources[k].wanted:
                    written.add(self.shapes[e.sources[k].value].owner)
        return has_gradient

    cdef int place_values(self, set has_gradient) except -1:
        # which values share memory, and which entries clear a border that is lost by it: the first that write the value
        cdef Py_ssize_t i, output = self.n_values - 1
        cdef Shape* s
        lives = lives_in_inference(self.entries, self.n_entries, self.shapes, output)
        fit_room(&self.inference, lives, self.shapes, self.n_values, self.arrays)
        lives = [(0, self.n_entries, i) for i in range(1, self.n_values) if self.shapes[i].owner == i]
        fit_room(&self.training, lives, self.shapes, self.n_values, self.arrays)
        lives = lives_of_gradients(self.entries, self.n_entries, self.shapes, output, has_gradient)
        fit_room(&self.gradients, lives, self.shapes, self.n_values, self.arrays)
        started = set()
        for i in range(self.n_entries):
            s = &self.shapes[self.shapes[self.entries[i].dst].owner]
            self.entries[i].clears = self.inference.shared and s.border_y + s.border_x > 0 and s.owner not in started
            started.add(s.owner)
        return 0

    cdef bint one_kind_reads_either(self) noexcept:
        cdef Py_ssize_t i, k, readers = 0
        cdef bint either = True
        for i in range(self.n_entries):
            for k in range(self.entries[i].n_sources):
                if self.shapes[self.entries[i].sources[k].value].owner == 0:
                    readers += 1
                    either &= self.entries[i].kind.reads_either
        return readers == 1 and either

    cdef int require_alone(self) except -1:
        # refuses to run in one piece what ranks exchange data in the midst of
        if self.exchanges:
            raise ValueError(f"network: expected layers that one process computes by itself, got {self.exchanges[0][1]}, for "
                             "which ranks exchange data; parallel.DataParallel trains such a network and predicts with it")
        return 0

    cdef int require_writable(self) except -1:
        # refuses to train where what it changes besides parameters cannot be written; the optimizer checks those
        for name, array in self.arrays.written:
            if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>array):
                refuse_changed(name, array)
        return 0

    cdef Py_ssize_t scratch(self, Py_ssize_t samples, bint training) noexcept:
        # the bytes that the entry with the greatest need of scratch takes, in whole cache lines
        cdef Py_ssize_t i, size = 0
        cdef Entry* e
        for i in range(self.n_entries):
            e = &self.entries[i]
            if e.kind.scratch != NULL:
                size = max(size, e.kind.scratch(e, samples * e.positions, training))
        return round_up(size * self.item, 64)

    cdef void start(self, Run* run, Workspace workspace, bint training) noexcept:
        run.typenum = run.x_typenum = self.typenum
        run.training, run.n_entries, run.entries = training, self.n_entries, self.entries
        run.shapes, run.output = self.shapes, self.n_values - 1
        run.values, run.dvalues, run.saved, run.z = workspace.values, workspace.dvalues, workspace.saved, workspace.z
        run.scratch, run.thread_bytes = workspace.scratch, workspace.thread_bytes
        run.row_penalty, run.n_penalties, run.has_max_norm = workspace.row_penalty, self.n_penalties, self.has_max_norm
        run.tangents = run.dtangents = run.tsaved = run.tz = run.directions = run.dparams = NULL
        run.tscratch = run.dy = NULL
        run.sums = NULL
        run.plan, run.thread_scratch, run.may_fuse, run.update, run.step = NULL, NULL, False, GRADIENTS_FIRST, 0

    cdef inline bint is_output(self, object a, Py_ssize_t n) noexcept:
        # whether predict can write n samples there as they come
        cdef const Shape* s = &self.shapes[self.n_values - 1]
        cdef bint image = len(self.output_shape) == 3
        return (is_plain(a, self.typenum, 4 if image else 2) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>a)
                and cnp.PyArray_DIM(<cnp.ndarray>a, 0) == n and cnp.PyArray_DIM(<cnp.ndarray>a, 3 if image else 1) == s.channels
                and (not image or (cnp.PyArray_DIM(<cnp.ndarray>a, 1) == s.height and cnp.PyArray_DIM(<cnp.ndarray>a, 2) == s.width)))

    cpdef object rows(self, object x, str name="x"):
        """Samples x as the program reads them: in its dtype or, if it reads either, float32 or float64.

        Their shape is (n, *input_shape); images may also come as rows of all their numbers, (n, height * width * channels).
        """
        cdef int typenum = self.typenum
        if self.reads_either:
            if not is_array(x):
                x = _arrays.as_numbers(name, x)
            typenum = cnp.PyArray_TYPE(<cnp.ndarray>x)
            if typenum != cnp.NPY_FLOAT32 and typenum != cnp.NPY_FLOAT64:
                typenum = cnp.NPY_FLOAT32 if np.can_cast(x.dtype, np.float32) else cnp.NPY_FLOAT64
        if len(self.input_shape) == 3 and not (is_array(x) and fits(x, self.batch_shape)):
            x = self.images(name, x)
        return as_numbers(name, x, typenum, self.batch_shape)

    cdef object images(self, str name, object x):
        # images that come as rows, or an error with the way out
        cdef Py_ssize_t a = self.input_shape[0], b = self.input_shape[1], c = self.input_shape[2]
        x = _arrays.as_numbers(name, x)
        if fits(x, (None, a * b * c)):
            return x.reshape((x.shape[0],) + self.input_shape)
        way_out = ""
        if fits(x, (None, c, a, b)):
            way_out = (f"; arrays are (n, height, width, channels): pass {name}.transpose(0, 2, 3, 1), "
                       "or put nn.ChannelsFirst() first")
        elif fits(x, (None, b, c, a)):
            way_out = f"; the network takes channels first: pass {name}.transpose(0, 3, 1, 2)"
        elif x.size == a * b * c and x.ndim in (1, 3):
            way_out = f"; pass {name}.reshape{shape_text((1,) + self.input_shape)} for one image"
        elif c == 1 and fits(x, (None, a, b)):
            way_out = f"; pass {name}[..., None]"
        check_shape(name, x, self.batch_shape, way_out or f"; or rows of shape {shape_text((None, a * b * c))}")
        return x

    def predict(self, x, out=None):
        """Inference output for samples x; any thread may call it at any time."""
        cdef PredictCall c
        cdef Py_ssize_t n_threads, together, i
        self.require_alone()
        x = self.rows(x)
        c.n, c.y_bytes = cnp.PyArray_DIM(<cnp.ndarray>x, 0), elements_of(&self.shapes[self.n_values - 1]) * self.item
        c.x_bytes = elements_of(&self.shapes[0]) * cnp.PyArray_ITEMSIZE(<cnp.ndarray>x)
        if out is None:
            out = new_array(self.typenum, c.n, self.output_shape)
        else:
            if not self.is_output(out, c.n):
                out = as_output("out", out, self.typenum, (c.n,) + self.output_shape)
            check_pair("out", out, "x", x)
        if c.n == 0:
            return out
        c.piece = max(1, PREDICT_ROWS // self.most_positions)       # how many samples at a time, and how many threads
        if self.most_positions > 1:
            together = min(<Py_ssize_t>PREDICT_MOST_BYTES, max(tuning.l2_bytes // 2, self.n_weights * self.item))
            c.piece = max(c.piece, together // max(1, self.inference.elements * self.item))
        n_threads = min(threads_for(self.work * c.n), <Py_ssize_t>MAX_PREDICT_THREADS)
        c.own_rows = n_threads > 1 and c.n >= n_threads * max(1, MIN_OWN_ROWS // self.most_positions)
        if not c.own_rows:
            n_threads = threads_for(self.work * min(c.n, c.piece) // self.n_entries)
        c.grain = dot_rows() if self.most_positions == 1 else 1
        c.piece = min(c.piece, round_up((c.n + n_threads - 1) // n_threads, c.grain) if c.own_rows else c.n)
        workspaces = [self.take_workspace(c.piece) for _ in range(n_threads if c.own_rows else 1)]
        for i in range(len(workspaces)):
            c.values[i], c.scratch[i] = (<Workspace>workspaces[i]).values, (<Workspace>workspaces[i]).scratch
        self.start(&c.run, <Workspace>workspaces[0], False)
        c.x, c.y, c.run.n, c.start = data(x), data(out), c.n, 0
        c.stop, c.run.x_typenum = c.n, cnp.PyArray_TYPE(<cnp.ndarray>x)
        if self.work * c.n > PREDICT_WORK:
            self.predict_long(&c, n_threads)
        else:
            with nogil:
                run_typed(self.typenum, predict_job[float], predict_job[double], &c, n_threads)
        self.resting.extend(workspaces)
        return out

    cdef int predict_long(self, PredictCall* c, Py_ssize_t n_threads) except -1:
        # region after region; an exception that a signal raises ends the call, with the samples up to there written
        cdef Py_ssize_t unit = c.piece * (n_threads if c.own_rows else 1)
        cdef Py_ssize_t samples = max(1, PREDICT_WORK // (self.work * unit)) * unit
        cdef double began
        while c.start < c.n:
            c.stop, began = min(c.n, c.start + samples), team_seconds()
            with nogil:
                run_typed(self.typenum, predict_job[float], predict_job[double], c, n_threads)
            c.start = c.stop
            PyErr_CheckSignals()
            if team_seconds() - began < PREDICT_SECONDS:
                samples *= 2
        return 0

    cdef Workspace take_workspace(self, Py_ssize_t samples):
        # one at rest, if it is large enough, or a new one; the list keeps its first item, and so its memory
        cdef Workspace workspace
        if len(self.resting) == 1:
            return Workspace(self, samples, False)
        workspace = self.resting.pop()
        return workspace if workspace.capacity >= samples else Workspace(self, samples, False)

    def new_grads(self):
        """Arrays for the gradients of all parameters, each from a cache line on, in one block, in their order."""
        return self.grads_in(self.new_block())

    cdef object new_block(self):
        # zeros, which stay where a gradient does not end on a cache line
        return _arrays.aligned_zeros((self.n_gradient,), dtype_of(self.typenum))

    cdef list grads_in(self, object block):
        return [block[start:start + math.prod(shape)].reshape(shape)
                for start, shape in zip(self.grad_starts, self.grad_shapes)]
