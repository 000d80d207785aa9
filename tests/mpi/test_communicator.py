"""Rounds, errors, agreement and sums of the ranks of an MPI job."""

import signal
import time

import numpy as np
import pytest
from mpi4py import MPI

import fastopt as fo
from fastopt.parallel import Communicator, reduction
from fastopt.parallel.communicator import NUMBERS, wait
from fastopt.parallel.reduction import SHORT, SUMS


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


@pytest.mark.parametrize("sum_of", SUMS)
def test_sums_are_those_of_float64_to_rounding(comm, dtype, sum_of):
    everyones = [np.random.default_rng(rank).normal(size=5000).astype(dtype) for rank in range(comm.size)]
    buckets = np.split(everyones[comm.rank].copy(), [100, 100, 3000])
    total = SUMS[sum_of](comm, buckets)
    for k in reversed(range(len(buckets))):
        total.start(k)
        total.progress()
    total.finish()
    exact = np.sum(everyones, axis=0, dtype=np.float64)
    assert np.abs(np.concatenate(buckets) - exact).max() <= 8 * np.finfo(dtype).eps


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [1 << 22, 1 << 14])
def test_ordered_sums_have_the_bits_of_adding_in_rank_order(comm, dtype, size, piece, monkeypatch):
    monkeypatch.setattr(reduction, "PIECE", piece)
    everyones = [np.random.default_rng(rank).normal(size=size).astype(dtype) for rank in range(comm.size)]
    bucket, expected = everyones[comm.rank].copy(), everyones[0].copy()
    for part in everyones[1:]:
        expected = expected + part
    total = SUMS["ordered"](comm, [bucket])
    for _ in range(2):  # a sum can be used again
        bucket[:] = everyones[comm.rank]
        total.start(0)
        total.finish()
        assert bucket.tobytes() == expected.tobytes()


def test_nan_of_one_rank_reaches_all(comm):
    for sum_of in SUMS.values():
        bucket = np.full(100, np.nan if comm.rank == comm.size - 1 else 1.0)
        total = sum_of(comm, [bucket])
        total.start(0)
        total.finish()
        assert np.isnan(bucket).all()


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
