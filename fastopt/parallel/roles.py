"""What servers and workers of a parameter server do, in place of a Trainer's steps.

- Rank 0 is the first server and decides: which batch a worker takes next, when a gradient is applied, when a worker
  waits. The other servers do with their shards what it says, so all shards make the same steps in the same order, and
  a worker gets parameters of one moment.
- A worker asks rank 0 for work, gets a batch with all shards, and sends its gradient to all servers. Batches are given
  out one by one, so a slow worker has fewer, and one that a lost worker has left goes to another.
- Under elastic averaging a worker steps by itself for some batches and sends its parameters; servers move them and the
  center toward each other, and what comes back is the worker's own, moved.
- A run, the batches of an epoch, starts and ends with the same parameters on all ranks. In between the parameters are
  the servers'; after an error every rank is where the run began.
"""

import pickle
import warnings
from collections import Counter, deque
from functools import cached_property

import numpy as np

from fastopt._kernels import core
from fastopt.nn.fit_data import checked_callbacks, wish_to_end
from fastopt.nn.layers import BatchNorm, chain
from fastopt.parallel.peers import LOST, Message, Peers
from fastopt.parallel.shards import Center, Shard, take_over

# kinds of messages
READY, PUSH = 1, 2  # from a worker: it wants a batch; a gradient, with the version it was found at, loss and weight
GO, SHARD = 3, 4  # to a worker: a batch, and the version of the parameters; parameters, of any server
APPLY, SEND, FINISH = 5, 6, 7  # from rank 0: gradients to apply; a worker that gets parameters; the run is over
STATE, AVERAGES, FINAL = 8, 9, 10  # what rank 0 gets of a server and of a worker at the end of a run, and gives
MEET = 11  # every rank has come to the same place


def role_of(job):
    """The role of this rank in a `ParameterServer`, for one fit."""
    if job.comm.rank == 0:
        return Coordinator(job)
    return Server(job) if job.comm.rank < job.servers else Worker(job)


class Role:
    """What all ranks do: a run with its begin and end, and meetings."""

    def __init__(self, job):
        self.job, self.trainer, self.layout = job, job.trainer, job.layout
        self.training, self.net = job.trainer.compiled_training, job.trainer.net
        self.rank, servers, size = job.comm.rank, range(job.servers), job.comm.size
        self.workers = range(job.servers, size)
        self.others = [j for j in servers if j not in (0, self.rank)]  # servers, besides rank 0
        own = range(size) if self.rank in servers else servers
        self.peers = Peers(job.comm, set(own) - {self.rank}, servers)
        self.staleness: Counter[int] = Counter()  # how many gradients were applied so many updates late
        self.n_lost = 0  # workers, as all ranks have been told
        self.ended: set[int] = set()  # servers whose shards have come in
        self.params = self.net.parameters()
        self.averages = [
            a
            for layer in chain.walk(self.net.layers)
            if isinstance(layer, BatchNorm)
            for a in (layer.running_mean, layer.running_var)
        ]

    def run(self, x, targets, weights, order, sizes, seconds) -> None:
        """Steps of all workers on checked data, the same on all ranks, in `order`; as `Training.run`, but all sizes."""
        ends = np.minimum(self.training.position + np.cumsum(sizes), len(x)).tolist()
        batches = list(zip([self.training.position, *ends[:-1]], ends, strict=True))
        tasks = [batches[k : k + self.job.period] for k in range(0, len(batches), self.job.period)]
        arrays = [*self.params, *self.averages]
        before = [a.copy() for a in arrays]
        try:
            self.make_steps((x, targets, weights), order, tasks)
            final = self.end_run()
        except BaseException:
            core.copy_arrays(arrays, before)
            raise
        self.staleness.update(final["staleness"])
        core.copy_arrays(self.averages, final["averages"])
        self.training.loss_sum += final["loss_sum"]
        self.training.weight_sum += final["weight_sum"]
        self.training.batches += len(batches)
        self.training.position = ends[-1]

    def make_steps(self, data, order, tasks) -> None:
        """Do this rank's part until the tasks, some batches (start, stop) each, are used up."""
        raise NotImplementedError

    def end_run(self) -> dict:
        """Get the parameters of all servers; returns what rank 0 says of the run."""
        for j in self.others:
            if j not in self.ended:
                self.put_shard(j, self.peers.take(j).data)
        final = pickle.loads(self.peers.take(0).data.tobytes())
        self.put_shard(0, final["shard"])
        return final

    def put_shard(self, server, weights) -> None:
        """Write a server's shard, as numbers or bytes, to this rank's parameters."""
        weights = weights.view(self.layout.dtype)
        for piece in self.layout.pieces(self.layout.shards[server]):
            piece.of(self.params[piece.k])[:] = piece.inside(weights)

    def meet(self, wish) -> bool:
        """Wait for all ranks; returns whether one of them has a wish."""
        self.peers.let_interrupt()
        self.peers.send(0, MEET, wish)
        wish, n_lost, _ = self.peers.take(0).numbers
        self.n_lost = int(n_lost)
        return bool(wish)

    def shared(self, callbacks):
        """One callback that calls those of this rank, and wishes to stop where any rank does."""
        own = checked_callbacks(callbacks, after_batch=False).after_epoch

        def call(trainer, history):
            return self.meet(wish_to_end([callback(trainer, history) for callback in own]))

        return call


class Worker(Role):
    """Finds the gradients of batches by the parameters of the servers."""

    @cached_property
    def gradients(self):
        """The network's program bound to the loss, without an optimizer; made once layers are calibrated."""
        return self.net.bind(self.trainer.loss)

    def make_steps(self, data, order, tasks):
        work = self.find_gradient if self.job.elastic is None else self.step_alone
        self.peers.send(0, READY)
        while (message := self.peers.take(0)).kind == GO:
            self.peers.let_interrupt()
            number, version = int(message.numbers[0]), message.numbers[1]
            self.put_shard(0, message.data)
            for j in self.others:
                self.put_shard(j, self.peers.take(j).data)
            pushed, loss, weight = work(data, order, tasks[number], self.training.batches + number * self.job.period)
            for j, shard in enumerate(self.layout.shards):
                self.peers.send(j, PUSH, version, loss, weight, data=pushed[shard])

    def find_gradient(self, data, order, task, before):
        """The gradient of a batch, its loss, and what it counts; `before` it were so many batches."""
        gradients, rows = self.gradients, order[slice(*task[0])]
        gradients.batches = before
        loss = gradients.step(*(None if a is None else a[rows] for a in data))
        core.PartedStep(self.training).require_defined([loss])
        gradients.finish()
        return gradients.gradient, loss, gradients.batch_weight

    def step_alone(self, data, order, task, before):
        """The parameters after steps on these batches, with this rank's own optimizer; else as `find_gradient`."""
        training = self.training
        present = {name: getattr(training, name) for name in ("position", "batches", "loss_sum", "weight_sum")}
        training.position, training.batches, training.loss_sum, training.weight_sum = task[0][0], before, 0, 0
        try:
            for start, stop in task:
                self.trainer.optimizer.prepare()
                training.run(*data, order, [stop - start], np.inf)
            loss, weight = training.loss_sum, training.weight_sum
        finally:
            for name, value in present.items():
                setattr(training, name, value)
        core.copy_arrays(training.grads, self.params)  # whose room is free between steps
        return training.gradient, loss / weight if weight else 0.0, weight

    def end_run(self):
        self.peers.send(0, AVERAGES, data=pickle.dumps(self.averages))
        return super().end_run()


class Server(Role):
    """Has a shard of the parameters, and does with it what rank 0 says."""

    def make_steps(self, data, order, tasks):
        self.start()
        commands: deque = deque()
        while True:
            message = self.peers.receive()
            if message.kind == PUSH:
                self.pushed[message.rank] = message
            elif message.kind == SHARD:  # of another server, which has ended the run
                self.put_shard(message.rank, message.data)
                self.ended.add(message.rank)
            elif message.kind != LOST:
                factors = message.data.view(np.float64).tolist() if message.kind == APPLY else []
                commands.append((message.kind, message.numbers[0], factors))
            while commands:
                kind, number, factors = commands[0]
                if kind == FINISH:
                    return
                if kind == SEND:
                    self.peers.send(int(number), SHARD, data=self.shard.weights_for(int(number)))
                elif self.apply(factors, number) is None:
                    break  # a gradient that rank 0 has is still on its way to this rank
                commands.popleft()

    def start(self):
        """What a run begins with."""
        place = self.trainer, self.layout, self.rank
        self.shard = Shard(*place) if self.job.elastic is None else Center(*place, self.job.elastic)
        self.pushed: dict[int, Message] = {}  # messages with gradients, by worker
        self.ended = set()

    def apply(self, factors, divisor) -> bool | None:
        """A step by the gradients of workers whose factor is not -1; whether it counts, or None if one is not there."""
        wanted = [(w, factor) for w, factor in zip(self.workers, factors, strict=True) if factor >= 0]
        if any(w not in self.pushed and w in self.peers.alive for w, _ in wanted):
            return None
        there = {w: (f, self.pushed.pop(w).data.view(self.layout.dtype)) for w, f in wanted if w in self.pushed}
        # the gradient of a lost worker may not have come so far
        return self.shard.update(there, divisor) if there else False

    def require_defined(self) -> None:
        """Raise FloatingPointError if a gradient has made parameters NaN of which no later batch has told."""
        if np.isnan(self.shard.weights).any():
            raise FloatingPointError(
                "parameters: expected defined ones at the end of an epoch, got NaN from a gradient; all are what they "
                "were before the epoch"
            )

    def end_run(self):
        self.require_defined()
        for rank in self.peers.alive:
            if rank:
                self.peers.send(rank, SHARD, data=self.shard.weights)
        self.peers.send(0, STATE, data=pickle.dumps((self.shard.weights, self.shard.state())))
        self.put_shard(self.rank, self.shard.weights)
        final = super().end_run()
        if self.job.elastic is None:
            take_over(self.trainer.optimizer, [self.shard.state()])
        return final


class Coordinator(Server):
    """The first server, which says what all do."""

    def __init__(self, job):
        super().__init__(job)
        self.lost: list[int] = []

    def make_steps(self, data, order, tasks):
        self.start()
        self.left = deque(range(len(tasks)))
        self.version = 0  # updates in this run
        self.ready: set[int] = set()  # workers that wait for a task
        self.given: dict[int, int] = {}  # tasks that workers have
        self.clocks = dict.fromkeys((w for w in self.workers if w in self.peers.alive), 0)  # their updates
        self.measured: list = [None] * len(tasks)  # loss and weight
        self.late: Counter[int] = Counter()
        self.note_losses()
        while self.left or self.given:
            message = self.peers.receive()
            if message.kind == LOST:
                self.note_losses()
            elif message.rank not in self.clocks:
                continue  # it was lost since it sent this
            elif message.kind == PUSH:
                self.pushed[message.rank] = message
            else:
                self.ready.add(message.rank)
            self.update()
            self.give_out()

    def note_losses(self) -> None:
        """Leave lost workers out of the run, and give their tasks to the others."""
        self.warn_of_losses()
        for w in self.lost:
            self.clocks.pop(w, None)
            self.pushed.pop(w, None)
            self.ready.discard(w)
            if w in self.given:
                self.left.appendleft(self.given.pop(w))
        if not self.clocks:
            raise ConnectionError(
                "workers: expected one at least, but all of them are gone; go on from the last file that was saved"
            )

    def warn_of_losses(self) -> None:
        """Say which workers are gone that were there before."""
        for w in [w for w in self.workers if w not in self.peers.alive and w not in self.lost]:
            self.lost.append(w)
            warnings.warn(f"rank {w} was lost; the other workers go on with its batches", UserWarning, stacklevel=2)

    def update(self) -> None:
        """Apply the gradients that have come: each by itself, or in step, the mean of those of all workers."""
        if self.job.max_staleness != 0:
            for w in list(self.pushed):
                self.apply_all({w: 1.0})
        elif self.pushed and self.pushed.keys() == self.given.keys():
            counts = {w: self.pushed[w].numbers[2] for w in sorted(self.pushed)}
            total = sum(counts.values())
            self.apply_all({w: n / total if total else 1 / len(counts) for w, n in counts.items()})

    def apply_all(self, factors) -> None:
        """One update on all servers by the gradients of these workers."""
        told = {w: self.pushed[w].numbers for w in factors}
        staleness = [self.version - int(version) for version, *_ in told.values()]
        self.late.update(staleness)
        divisor = max(1.0, *staleness) if self.job.divide_by_staleness else 1.0
        everyones = np.array([factors.get(w, -1.0) for w in self.workers])
        for j in self.others:
            self.peers.send(j, APPLY, divisor, data=everyones)
        counts = self.apply(everyones.tolist(), divisor)
        self.version += 1
        for w, (_, *measured) in told.items():
            self.measured[self.given.pop(w)] = measured if counts else (0.0, 0.0)
            self.clocks[w] += 1
            self.ready.add(w)

    def give_out(self) -> None:
        """Give tasks to workers that wait for one and are not too far ahead of the slowest."""
        bound = self.job.max_staleness
        if bound == 0 and len(self.ready) < len(self.clocks):
            return
        slowest = min(self.clocks.values())
        for w in sorted(self.ready, key=lambda w: (self.clocks[w], w)):
            if self.left and (bound is None or self.clocks[w] - slowest <= bound):
                self.ready.remove(w)
                self.given[w] = self.left.popleft()
                for j in self.others:
                    self.peers.send(j, SEND, w)
                self.peers.send(w, GO, self.given[w], self.version, data=self.shard.weights_for(w))

    def end_run(self):
        self.require_defined()
        for rank in self.peers.alive:
            self.peers.send(rank, FINISH)
        states: dict[int, bytes] = {}
        averages: dict[int, list] = {}
        while len(states) < len(self.others) or any(w not in averages for w in self.peers.alive if w in self.workers):
            message = self.peers.receive()
            if message.kind == STATE:
                weights, states[message.rank] = pickle.loads(message.data.tobytes())
                self.put_shard(message.rank, weights)
            elif message.kind == AVERAGES:
                averages[message.rank] = pickle.loads(message.data.tobytes())
            elif message.kind == LOST:
                self.note_losses()
        everyones = [averages[w] for w in sorted(averages)]
        self.put_shard(0, self.shard.weights)
        final = {
            "loss_sum": sum(loss * weight for loss, weight in self.measured),
            "weight_sum": sum(weight for _, weight in self.measured),
            "shard": self.shard.weights,
            "averages": [
                np.mean(same, axis=0, dtype=np.float64).astype(same[0].dtype) for same in zip(*everyones, strict=True)
            ],
            "staleness": self.late,
        }
        data = pickle.dumps(final)
        for rank in self.peers.alive:
            self.peers.send(rank, FINAL, data=data)
        if self.job.elastic is None:
            take_over(self.trainer.optimizer, [self.shard.state(), *(states[j] for j in self.others)])
        return final

    def meet(self, wish):
        self.peers.let_interrupt()
        for rank in list(self.peers.alive):
            message = self.peers.take(rank)
            wish = wish or (message.kind == MEET and bool(message.numbers[0]))
        self.warn_of_losses()
        self.n_lost = len(self.lost)
        for rank in self.peers.alive:
            self.peers.send(rank, MEET, wish, self.n_lost)
        return bool(wish)
