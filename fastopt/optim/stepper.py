"""The steps of an optimizer that makes them between calls of a compiled training (`Optimizer.stepper`)."""


class Stepper:
    """In place of a compiled training, with the same two methods; `step_on` of the optimizer makes a step."""

    def __init__(self, optimizer, training):
        self.optimizer, self.training, self.params = optimizer, training, optimizer.parameters()

    def step(self, x, targets, sample_weight=None, in_epoch=False) -> float:
        """One batch; returns its mean loss before the step."""
        if [id(a) for a in self.params] != [id(a) for a in self.optimizer.parameters()]:
            name = type(self.optimizer).__name__
            raise RuntimeError(f"{name}: expected the parameters that it was given, got others; make a new Trainer")
        return self.optimizer.step_on(self.training, x, targets, sample_weight, in_epoch)

    def run(self, x, targets, weights, order, sizes, seconds) -> None:
        """The next batch of an epoch on checked data, in `order`; one step mostly lasts longer than `seconds`."""
        rows = order[self.training.position : self.training.position + int(sizes[0])]
        self.step(x[rows], targets[rows], None if weights is None else weights[rows], in_epoch=True)
