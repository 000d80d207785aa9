"""The derivatives of a network: gradients by parameters and by samples, and products with the Hessian.

All of them are walks over the one compiled program, which is laid out for them in training mode or, for `backward`
without it, as inference has it. `Sequential` is the class that has them.
"""

from typing import Protocol

import numpy as np

from fastopt._arrays import as_numbers
from fastopt._kernels import core
from fastopt._numbers import flag
from fastopt.nn.callable_loss import Given
from fastopt.nn.losses import CALLABLE, fitting_name, is_callable, loss_options


class Network(Protocol):
    """What derivatives need of the network that has them."""

    draws: int
    _ends_in: str

    @property
    def output_shape(self) -> tuple[int, ...]: ...

    def require_calibrated(self) -> None: ...

    def derivative_program(self, training: bool = ..., input_gradient: bool = ...) -> core.Program: ...

    def bind(self, loss) -> core.Training: ...

    def derivatives(self, loss) -> core.Training: ...


class Derivatives:
    """What `Sequential` computes of its derivatives; it lays out the programs (`derivative_program`)."""

    def value_and_grad(
        self: Network, x, y, loss="cross_entropy", *, sample_weight=None
    ) -> tuple[float, list[np.ndarray | None]]:
        """Mean loss of samples x with targets y, and the gradients of all parameters.

        Parameters
        ----------
        x : array_like, shape ``(n, *input_shape)``
        y : array_like
            Classes (n,) or probabilities (n, out) for cross_entropy, probabilities (n, out) for binary_cross_entropy,
            values (n, out) for the others; of a single output also values (n,). Images have a target at each position,
            classes (n, height, width) or (n, height, width, out).
        loss : str, CrossEntropy, Huber or callable
            cross_entropy and binary_cross_entropy (both on logits), mse, mae, huber; `CrossEntropy` and
            `Huber` carry options. A loss of your own: ``loss(y_pred, y) -> (value, grad)``, see Notes.
        sample_weight : array_like, shape (n,), optional
            One a sample, and of an image for each of its positions. The loss is then ``sum(w * l) / sum(w)``.

        Returns
        -------
        loss : float
            NaN where it is not defined; an optimizer's `check_finite` finds that in the gradients.
        grads : list of ndarray or None
            New arrays in the order of `parameters`; None for those of layers that are not ``trainable``, which
            `Optimizer.step` leaves alone.

        Raises
        ------
        TypeError, ValueError
            Data that does not fit, or a loss on logits of a network that ends in a softmax or sigmoid.

        Notes
        -----
        A callable gets the outputs of the network, a copy of shape ``(n, *output_shape)`` in its dtype, and y as an
        array of n rows, of whatever shape and dtype. It returns the loss of the batch, a number, and its gradient by
        the outputs, of their shape: of a mean over samples both are divided by n. Where there is a `sample_weight`,
        it is handed on: ``loss(y_pred, y, sample_weight)``. The penalties of layers are added to what it returns.
        """
        training = self.derivatives(loss)
        if is_callable(loss):
            value = Given(loss, training).value_and_grad(x, y, sample_weight)
        else:
            value = training.step(x, y, sample_weight)
        self.draws += 1
        return value, training.grads

    def backward(self: Network, x, dy, *, training=True) -> tuple[np.ndarray, list[np.ndarray | None]]:
        """Gradients of ``sum(dy * y)`` by the samples and by all parameters, y being the output: J.T @ dy.

        Parameters
        ----------
        x : array_like, shape ``(n, *input_shape)``
        dy : array_like, shape ``(n, *output_shape)``
            The gradient of anything by the output.
        training : bool
            True: in training mode, as `value_and_grad`. `BatchNorm` is differentiated through the statistics of the
            batch, so that samples depend on each other; `Dropout` drops, and `draws` counts on. False: in the mode of
            `predict`, what a saliency map takes. Running averages stay as they are, either way.

        Returns
        -------
        dx : ndarray, shape ``(n, *input_shape)``
            In the dtype of the network.
        grads : list of ndarray or None
            As of `value_and_grad`, without the penalties of layers.

        Raises
        ------
        TypeError, ValueError
            Arrays that do not fit.

        Examples
        --------
        >>> import numpy as np, fastopt as fo
        >>> net = fo.nn.Sequential([fo.nn.Dense(2, 1)], dtype=np.float64)
        >>> net.layers[0].weight = [[1.0, 3.0]]
        >>> dx, grads = net.backward([[5.0, 7.0]], [[2.0]])
        >>> dx, grads[0]
        (array([[2., 6.]]), array([[10., 14.]]))
        """
        self.require_calibrated()
        mode = flag("training", training)
        run = core.Training(self.derivative_program(mode, input_gradient=True), None, None, 0)
        run.batches = self.draws
        x, _, _ = run.check_batch(x, None)
        dy = as_numbers("dy", dy)
        if dy.shape != (len(x), *self.output_shape):
            raise ValueError(f"dy: expected shape {(len(x), *self.output_shape)}, got {dy.shape}")
        parted, stop = core.PartedStep(run), len(run.program.starts)
        parted.start(x, None, None, len(x), run.batches)
        parted.forward()
        with np.errstate(over="ignore"):  # float32 makes infinity of what it cannot hold, as everywhere
            parted.gradients(stop - 1)[1][...] = dy
        parted.backward(0, stop, penalties=False)
        self.draws += mode
        return parted.input_gradient().copy(), run.grads

    def hvp(
        self: Network, x, y, v, loss="cross_entropy", *, sample_weight=None, gauss_newton=False
    ) -> list[np.ndarray]:
        """The Hessian of the mean loss of samples x, times v: exact, without the Hessian (Pearlmutter 1994).

        Parameters
        ----------
        x, y, loss, sample_weight
            As for `value_and_grad`.
        v : list of array_like
            A direction: an array for each of `parameters`, of its shape.
        gauss_newton : bool
            Leave the curvature of the network itself out: ``J.T @ (H_loss @ (J @ v))``, J being the
            Jacobian of the outputs. This matrix has no negative eigenvalue (Schraudolph 2002).

        Returns
        -------
        list of ndarray
            New arrays in the order of `parameters`. Layers that are not ``trainable`` do not move, whatever v says
            of them, and have zeros.

        Raises
        ------
        TypeError, ValueError
            Data, a direction or a loss that does not fit; of a callable no second derivative is known.

        Notes
        -----
        In training mode, as `value_and_grad`: `BatchNorm` is differentiated through the statistics of the batch, and
        `Dropout` drops what the next call of `value_and_grad` will; `draws` stays as it is. At a kink of relu,
        leaky_relu, mae or huber the second derivative is taken as 0, that is on the side where the kernel stands.

        Examples
        --------
        >>> import numpy as np, fastopt as fo
        >>> net = fo.nn.Sequential([fo.nn.Dense(2, 1, bias=False)], dtype=np.float64)
        >>> x = np.array([[1.0, 2.0], [0.0, 1.0]])
        >>> net.hvp(x, np.zeros((2, 1)), [[[1.0, 0.0]]], loss="mse")  # x.T @ x @ v
        [array([[1., 2.]])]
        """
        training = self.derivatives(loss)
        return training.hvp(x, y, v, sample_weight, gauss_newton=gauss_newton)

    def bind(self: Network, loss, update=None, max_batch=0) -> core.Training:
        """The compiled program of all training and derivatives, with a loss and an optimizer's update unless None.

        Of a loss that is a callable the program has none: `callable_loss` calls it between forward and backward.
        """
        name = fitting_name(loss, self._ends_in)
        compiled = None if name == CALLABLE else name
        return core.Training(self.derivative_program(), compiled, update, max_batch, **loss_options(loss))

    def derivatives(self: Network, loss) -> core.Training:
        """`bind` for gradients alone, with `Dropout` at the draw of the next `value_and_grad`."""
        self.require_calibrated()
        training = self.bind(loss)
        training.batches = self.draws
        return training
