"""Steps that are made between calls of a compiled training (`Optimizer.stepper`)."""


class BatchByBatch:
    """In place of a compiled training, with the same two methods: the base of what makes each step in Python."""

    def __init__(self, training):
        self.training = training

    def step(self, x, targets, sample_weight=None, in_epoch=False) -> float:
        """One batch; returns its loss before the step. `in_epoch`: its rows are rows of the epoch under way."""
        raise NotImplementedError

    def run(self, x, targets, weights, order, sizes, seconds) -> None:
        """The next batch of an epoch on checked data, in `order`; one step mostly lasts longer than `seconds`."""
        rows = order[self.training.position : self.training.position + int(sizes[0])]
        self.step(x[rows], targets[rows], None if weights is None else weights[rows], in_epoch=True)


class Stepper(BatchByBatch):
    """The steps of an optimizer, whose `step_on` makes one on a checked batch."""

    def __init__(self, optimizer, training):
        super().__init__(training)
        self.optimizer, self.params = optimizer, optimizer.parameters()

    def step(self, x, targets, sample_weight=None, in_epoch=False) -> float:
        if [id(a) for a in self.params] != [id(a) for a in self.optimizer.parameters()]:
            name = type(self.optimizer).__name__
            raise RuntimeError(f"{name}: expected the parameters that it was given, got others; make a new Trainer")
        training = self.training
        batch = training.check(x, targets, sample_weight)
        training.require_in_place()
        return self.optimizer.step_on(training, *batch, in_epoch)
