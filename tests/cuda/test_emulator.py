"""The emulator itself: what CUDA allows goes through, what it does not is found."""

from __future__ import annotations

import numpy as np
import pytest

VALUES = [float(i) for i in range(256)]
REVERSED = [float(block * 64 + 63 - i) for block in range(4) for i in range(64)]


def test_a_sound_kernel_gives_its_answer_in_any_order(emulated):
    for seed in range(20):
        emulated.configure(seed=seed)
        assert emulated.run_mistake("reverse_blocks", 0, VALUES) == REVERSED
        assert emulated.run_mistake("copy_blocks", 0, VALUES) == VALUES
        assert emulated.run_mistake("meet_badly", 0, VALUES) == [VALUES[i ^ 1] for i in range(256)]


def test_a_removed_barrier_is_caught(emulated):
    wrong = 0
    for seed in range(20):
        emulated.configure(seed=seed)
        wrong += emulated.run_mistake("reverse_blocks", 1, VALUES) != REVERSED
    assert wrong == 20  # NaN (or 0) from memory that nobody has written yet


MISTAKES = {
    "an index off by one": ("reverse_blocks", 2, "0 bytes beyond the end of an allocation of 1024 bytes"),
    "barriers at different places": ("meet_badly", 3, "divergent barrier: lanes wait at bindings.cpp"),
    "a lane that left": ("meet_badly", 4, "left while others wait at the barrier|deadlock"),
    "a warp operation that half the warp comes to": ("meet_badly", 5, "deadlock .* 16 lanes wait for their warp"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_reported(emulated, mistake):
    kernel, number, words = MISTAKES[mistake]
    for seed in range(20):
        emulated.configure(seed=seed)
        with pytest.raises(RuntimeError, match=words):
            emulated.run_mistake(kernel, number, VALUES)
    assert emulated.run_mistake("reverse_blocks", 0, VALUES) == REVERSED  # a report leaves nothing behind


def test_a_copy_that_nobody_waits_for_has_not_arrived(emulated):
    assert np.isnan(emulated.run_mistake("copy_blocks", 6, VALUES)).all()


def test_matrix_operands_lie_as_documented(emulated):
    emulated.configure(noise=False)
    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = random.integers(-9, 9, (16, 16)).astype(float), random.integers(-9, 9, (8, 16)).astype(float)
        found = emulated.multiply(a.ravel().tolist(), b.ravel().tolist())
        assert (np.reshape(found, (16, 8)) == a @ b.T).all()


def test_noise_stays_within_what_the_bound_grants(emulated):
    random = np.random.default_rng(0)
    largest = 0.0
    for seed in range(50):
        emulated.configure(seed=seed)
        a, b = (random.standard_normal((rows, 16)).astype(np.float16).astype(float) for rows in (16, 8))
        off = np.abs(np.reshape(emulated.multiply(a.ravel().tolist(), b.ravel().tolist()), (16, 8)) - a @ b.T)
        share = off / (20 * 2.0**-23 * np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1))
        assert (share < 1).all()
        largest = max(largest, share.max())
    assert largest > 0.2


def test_halves_round_as_numpy_rounds(emulated):
    random = np.random.default_rng(0)
    edges = [0.0, -0.0, 65504, 65519.9, 65520, 2.0**-14, 2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 1 + 2.0**-11, np.inf]
    values = np.concatenate([random.standard_normal(5000) * 10.0 ** random.uniform(-9, 5, 5000), edges])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float32).astype(np.float16).view(np.uint16)
    assert [emulated.half_bits(float(v)) for v in values.astype(np.float32)] == expected.tolist()


def test_memory_is_counted_and_given_back(emulated):
    before = emulated.allocated()
    held = emulated.DeviceArray(10, 10, "<f4", None)
    assert emulated.allocated() == before + 400
    del held
    assert emulated.allocated() == before
    emulated.configure(memory=1000)
    with pytest.raises(MemoryError, match=r"device: too little memory for the output: 4000 bytes wanted, \d+ of 1000"):
        emulated.DeviceArray(10, 100, "<f4", None)
