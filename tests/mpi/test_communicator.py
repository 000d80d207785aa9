"""Rounds, errors, agreement and sums of the ranks of an MPI job."""

import signal
import time

import numpy as np
import pytest
from mpi4py import MPI

import fastopt as fo
from fastopt.parallel import Communicator, cuts, shared_memory
from fastopt.parallel.communicator import NUMBERS, wait
from fastopt.parallel.cuts import SHORT
from fastopt.parallel.reduction import REDUCTIONS, sum_of
from fastopt.parallel.shared_memory import shared_arrays


def several(comm):
    if comm.size == 1:
        pytest.skip("one rank has nobody to differ from")


def test_every_rank_is_told_the_numbers_of_all(comm):
    told = comm.tell("count", comm.rank, np.nan if comm.rank == 0 else 2.5)
    assert np.array_equal(told[:, 0], np.arange(comm.size))
    assert np.array_equal(told[:, 1], [np.nan, *[2.5] * (comm.size - 1)], equal_nan=True)
    assert comm.tell("nothing").shape == (comm.size, 0)
    assert comm.tell("all", *range(NUMBERS)).tolist() == [list(range(NUMBERS))] * comm.size


def test_two_communicators_of_the_same_ranks_share_one_duplicate(comm):
    assert Communicator(MPI.COMM_WORLD).mpi == comm.mpi != MPI.COMM_WORLD
    assert (comm.node_rank, comm.node_size) == (comm.rank, comm.size)


def test_part_of_the_job_works_by_itself(comm):
    half = Communicator(MPI.COMM_WORLD.Split(comm.rank % 2))
    assert half.size == (comm.size + 1 - comm.rank % 2) // 2
    assert (half.tell("parity", comm.rank)[:, 0] % 2 == comm.rank % 2).all()


@pytest.mark.parametrize("comm_given", [3, "world", MPI.COMM_NULL])
def test_what_is_no_communicator_is_refused(comm_given):
    with pytest.raises((TypeError, ValueError), match=r"^comm: expected a communicator"):
        Communicator(comm_given)


@pytest.mark.parametrize("error", [ValueError, FloatingPointError, KeyboardInterrupt, OSError])
def test_an_error_of_one_rank_is_raised_on_all(comm, error):
    last = comm.size - 1
    with pytest.raises(error, match=r"rank|too wide") as found, comm.together():
        comm.tell("first")
        if comm.rank == last:
            raise error("too wide")
        comm.tell("second")
    assert str(found.value) == ("too wide" if comm.size == 1 else f"rank {last}: too wide")
    comm.tell("the ranks are in step again")


def test_an_error_that_all_ranks_have_is_raised_as_it_is(comm):
    with pytest.raises(ValueError, match=r"^n: expected more$"), comm.together():
        raise ValueError("n: expected more")


def test_an_error_of_a_kind_of_its_own_is_named(comm):
    several(comm)

    class Strange(Exception):
        pass

    with pytest.raises(RuntimeError, match="no way") as found, comm.together():
        if comm.rank == 1:
            raise Strange("no way")
    assert str(found.value) == "rank 1: no way (Strange)"
    with pytest.raises((RuntimeError, ExceptionGroup), match="no way"), comm.together():
        if comm.rank == 1:
            raise ExceptionGroup("no way", [ValueError("one of them")])
    comm.tell("still in step")


def test_blocks_within_blocks_raise_once(comm):
    with pytest.raises(ValueError, match="inner"), comm.together(), comm.together("inner"):
        if comm.rank == 0:
            raise ValueError("inner")
    comm.tell("in step")


def test_an_error_that_another_communicator_of_the_same_ranks_has_told_is_not_told_again(comm):
    with pytest.raises(ValueError, match="inner"), comm.together():
        if comm.rank == 0:
            raise ValueError("inner")
        Communicator().tell("deep within")
    comm.tell("in step")


def test_ranks_that_do_different_things_are_told_so(comm):
    several(comm)
    with pytest.raises(RuntimeError, match=r"got 'step' on rank 0 and 'save' on rank 1$"):
        comm.tell("step" if comm.rank == 0 else "save")


def test_what_differs_is_named_on_all_ranks(comm):
    comm.agree("start", {"rule": "Adam", "dtype": "float32"})
    several(comm)
    facts = {"rule": "Adam", "dtype": "float64" if comm.rank == 1 else "float32"}
    with pytest.raises(ValueError, match=r"^dtype: .* got float32 on rank 0 and float64 on rank 1; set one$"):
        comm.agree("start", facts, "set one")
    with pytest.raises(ValueError, match=r"^seed: .* got none on rank 0 and 3 on rank 1$"):
        comm.agree("start", {"seed": "3"} if comm.rank else {})


def test_bytes_of_all_ranks_arrive_whole(comm):
    assert comm.gathered("bytes", b"x" * comm.rank) == [b"x" * rank for rank in range(comm.size)]


# ---------------------------------------------------------------- sums

SIZES = [0, 1, 7, 16, 1000, SHORT // 4 + 3, 30_001]


def in_order(everyones, factors):
    """What ordered sums promise the bits of."""
    parts = [
        part * part.dtype.type(f) if f else np.zeros_like(part) for part, f in zip(everyones, factors, strict=True)
    ]
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


def by_messages(comm, n, dtype):
    own = np.empty(n, dtype)
    return own, sum_of("ordered", comm, [own])


def in_shared_memory(comm, n, dtype):
    shared = shared_arrays(comm, n, dtype)
    return shared.own, sum_of("ordered", comm, [shared.own], shared)


WAYS = by_messages, in_shared_memory


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_sums_are_those_of_float64_to_rounding(comm, dtype, reduce):
    everyones = [np.random.default_rng(rank).normal(size=5000).astype(dtype) for rank in range(comm.size)]
    buckets = np.split(everyones[comm.rank].copy(), [100, 100, 3000])
    total = sum_of(reduce, comm, buckets)
    for k in reversed(range(len(buckets))):
        total.start(k, [1.0] * comm.size)
        total.progress()
    total.finish()
    exact = np.sum(everyones, axis=0, dtype=np.float64)
    assert np.abs(np.concatenate(buckets) - exact).max() <= 8 * np.finfo(dtype).eps


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [1 << 22, 1 << 14])
def test_ordered_sums_have_the_bits_of_adding_in_rank_order(comm, dtype, way, size, piece, monkeypatch):
    several(comm)
    monkeypatch.setattr(cuts, "PIECE", piece)
    everyones = [np.random.default_rng(rank).normal(size=size).astype(dtype) for rank in range(comm.size)]
    own, total = way(comm, size, dtype)
    for factors in ([1.0] * comm.size, [0.3, 0.6, 0.1, 0.0][: comm.size]):  # a sum can be used again
        own[:] = everyones[comm.rank]
        comm.tell("all have their own")
        total.start(0, factors)
        total.finish()
        assert own.tobytes() == in_order(everyones, factors).tobytes()
        comm.tell("all have looked")


@pytest.mark.parametrize("way", WAYS)
def test_what_does_not_count_may_be_nan(comm, dtype, way):
    several(comm)
    own, total = way(comm, 5000, dtype)
    own[:] = np.nan if comm.rank == 0 else 1.0
    comm.tell("all have their own")
    total.start(0, [0.0] + [1.0] * (comm.size - 1))
    total.finish()
    assert (own == comm.size - 1).all()


def test_nan_of_one_rank_reaches_all(comm):
    for reduce in REDUCTIONS:
        bucket = np.full(100, np.nan if comm.rank == comm.size - 1 else 1.0)
        total = sum_of(reduce, comm, [bucket])
        total.start(0, [1.0] * comm.size)
        total.finish()
        assert np.isnan(bucket).all()


def test_shared_memory_is_used_again_when_no_rank_has_an_array_in_it(comm):
    several(comm)
    kept = shared_arrays(comm, 3000, np.float64)
    n_windows = len(comm.windows)
    for _ in range(5):
        other = shared_arrays(comm, 3000, np.float32)
        assert not np.shares_memory(other.own, kept.own)
        assert (other.own == 0).all()
        other.own[:] = 1
        if comm.rank == 0:
            view = other.own[5:7]  # of the rank whose memory is looked at last
        del other
    assert len(comm.windows) <= n_windows + 2
    assert (kept.own == 0).all()
    assert comm.rank or (view == 1).all()


def test_without_room_for_it_there_is_no_shared_memory(comm, monkeypatch):
    monkeypatch.setattr(shared_memory, "FILES", "/no such folder")
    assert shared_arrays(comm, 1 << 24, np.float64) is None


# ---------------------------------------------------------------- waiting and threads


def test_a_rank_that_waits_leaves_its_core(comm):
    several(comm)
    comm.tell("ready")
    if comm.rank == 0:
        time.sleep(1)
    before = time.process_time()
    comm.tell("waited")
    assert time.process_time() - before < 0.5


def test_the_ranks_of_a_machine_divide_its_cores(comm):
    assert fo.config()["node_ranks"] == comm.size
    told = comm.tell("threads", fo.get_num_threads(), len(fo.threads.cpus()))
    assert told[:, 0].sum() <= max(comm.size, told[:, 1].max())


def test_an_interrupt_of_one_rank_is_raised_on_all_in_the_next_round(comm):
    before, done = signal.getsignal(signal.SIGINT), False
    with pytest.raises(KeyboardInterrupt), comm.together():
        if comm.rank == comm.size - 1:
            signal.raise_signal(signal.SIGINT)
        wait(comm.mpi.Ibarrier())
        done = True
        comm.tell("not heard")
        done = False
    assert done
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_is_not_waited_with(comm):
    with pytest.raises(KeyboardInterrupt), comm.interrupts:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    comm.tell("in step")
