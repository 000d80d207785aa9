"""`Sequential.to_torch`: a network as a ``torch.nn.Sequential``; torch is loaded by the call."""


def to_torch(net):
    """The network as a ``torch.nn.Sequential`` with copies of its arrays, in their dtype; needs torch.

    It comes in inference mode and gives what `predict` gives, to rounding, for images as torch has them, (n, channels,
    height, width); those that come out are likewise. After ``.train()`` it computes what a `Trainer` does: batch
    normalization takes its statistics and moves its running averages, dropout and augmentation draw torch's random
    numbers. A first `ChannelsFirst` is left out, for what follows it takes such images there. Parameters of layers that
    are not `trainable` have ``requires_grad`` False.

    `Dense` and `GroupedDense` on images become 1 x 1 convolutions. `Residual`, `Add`, `Concat`, `GroupedDense`,
    `Maxout`, `Standardize`, `Whiten`, `RandomFlip` and `RandomShift`, for which torch.nn has no module, become modules
    of ``fastopt.nn.interchange.torch_modules``; whoever unpickles these needs fastopt. The penalties `l1`, `l2` and
    `max_norm` stay behind: in torch they are the training program's.

    Returns
    -------
    torch.nn.Sequential

    Raises
    ------
    ImportError
        torch is not installed.
    TypeError
        A layer of a class that is not fastopt's: the message says which and where.
    ValueError
        A Standardize or Whiten has no statistics yet.

    See Also
    --------
    fastopt.nn.from_torch : The way back.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"to_torch needs torch ({error}); pip install torch") from error
    from fastopt.nn.interchange.torch_layers import modules

    net.require_calibrated()
    return torch.nn.Sequential(*modules(net.layers, net.input_shape)).eval()
