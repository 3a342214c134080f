"""Attention over histories on the GPU: the tests of the CPU's kernel, and the second stage."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from salience import ALS, _core, _device
from salience.datasets import synthetic
from salience.second_stage import HistoryAttention

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "kernels")]

import test_attention as on_cpu  # noqa: E402
from barriers import barriers, goes_wrong  # noqa: E402
from test_attention import *  # noqa: E402, F403

KERNEL = ["attention.cuh"]


def attention_of(module):
    def attend(units, *arguments):
        return _device.DeviceUnits(module, units).attend(*arguments[:-1])

    return attend


@pytest.fixture
def attend(cuda):
    return attention_of(cuda)


@pytest.mark.parametrize("words", [words for words in on_cpu.WRONG if "rows lie" not in words])  # a GPU's are padded
def test_wrong_input_is_named(attend, words):
    with pytest.raises(ValueError, match=words):
        on_cpu.WRONG[words](attend)


@pytest.fixture(scope="module")
def data():
    return synthetic(120, 200, seed=2).interactions


@pytest.mark.parametrize("half_life", [None, 5e6])
def test_a_second_stage_recommends_the_same(cuda, data, half_life, tmp_path):
    settings = {"depth": 70, "half_life": half_life, "mixing": 0.6}
    model = HistoryAttention(ALS(8, epochs=3, device="cpu"), **settings, device="cuda").fit(data)
    host = HistoryAttention(ALS(8, epochs=3, device="cpu"), **settings, device="cpu").fit(data)
    for one in (model, pickle.loads(pickle.dumps(model))):
        best, expected = one.recommend(data.users, 9), host.recommend(data.users, 9)
        assert one._there is not None
        assert np.array_equal(best.rows, expected.rows)
        assert np.array_equal(best.scores, expected.scores)
    assert np.array_equal(model.score(best.queries, best.ids[:, 0]), host.score(best.queries, best.ids[:, 0]))
    model.save(tmp_path / "second")
    assert HistoryAttention.load(tmp_path / "second").device == "auto"


def test_auto_uses_a_gpu_where_it_pays(emulated, data, monkeypatch):
    model = HistoryAttention(ALS(4, epochs=1, device="cpu")).fit(data)
    model.recommend(data.users[:5])
    assert model._there is None
    monkeypatch.setattr(_device, "_PAYS_FROM", 1.0)
    model.recommend(data.users[:5])
    assert model._there is not None
    model.fit(data)
    assert model._there is None  # other units


def test_what_cannot_be_served_is_an_error(emulated, data):
    with pytest.raises(ValueError, match="device: 'gpu'; expected 'auto', 'cpu' or 'cuda'"):
        HistoryAttention(ALS(4), device="gpu")
    model = HistoryAttention(ALS(4, epochs=1, device="cpu"), device="cuda").fit(data)
    emulated.configure(memory=10_000)
    with pytest.raises(MemoryError, match="too little memory for the factors"):
        model.recommend(data.users[:50])
    emulated.configure(launches=0)
    with pytest.raises(RuntimeError, match="cudaErrorLaunchFailure"):
        model.recommend(data.users[:50])
    emulated.configure()
    before = emulated.allocated()
    assert model.recommend(data.users[:50]).ids.shape == (50, 10)
    assert emulated.allocated() > before == 0  # the units stay
    model.device, model._there = "cpu", None
    assert emulated.allocated() == 0


def drill(module, seed=0, skipped=""):
    """Run the kernel through every branch, small; compares with the CPU."""
    module.configure(seed=seed + 1, skipped=skipped, multiprocessors=1)
    vectors, _, candidates, pattern, ages = on_cpu.drawn(seed, 3, 90, 40, 40)
    pattern = np.array([0, 70, 70, 75]), np.concatenate([np.arange(70), np.arange(5)]).astype(np.int32)
    ages = np.resize(ages, 75)
    units = _core.unit_rows(vectors, 1)
    found = attention_of(module)(units, pattern, ages, candidates, 0.3, 0.5, 1)
    assert on_cpu.same(found, _core.attend(units, pattern, ages, candidates, 0.3, 0.5, 1))


BARRIERS = barriers(KERNEL)


def test_the_kernel_meets_at_every_barrier(emulated):
    drill(emulated)
    assert set(BARRIERS) <= set(emulated.barrier_sites())


@pytest.mark.parametrize("barrier", BARRIERS)
def test_no_barrier_of_it_can_be_removed(emulated, barrier):
    """Without it some order of lanes gives a report or another answer."""
    assert any(goes_wrong(drill, emulated, attempt, barrier) for attempt in range(8))
