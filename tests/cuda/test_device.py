"""device=: arrays of other libraries in and out, the caller's stream, and what cannot be served says why."""

from __future__ import annotations

import pickle
import sys
import types

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse as sp

import salience
from cuda_on_cpu.stand_in import StandIn
from salience import _backends, _device
from salience.datasets import synthetic

RANDOM = np.random.default_rng(0)
Q = RANDOM.standard_normal((6, 20), dtype=np.float32)
X = RANDOM.standard_normal((5000, 20), dtype=np.float32)
EXPECTED = salience.topk(Q, X, 9, device="cpu")


def equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        array = one if isinstance(one, np.ndarray) else one.numpy()
        assert array.dtype == other.dtype
        assert array.tobytes() == other.tobytes()


def test_numpy_in_numpy_out(cuda):
    equal(salience.topk(Q, X, 9, device="cuda"), EXPECTED)
    equal(salience.topk(Q, X.astype(np.float16), 9, device="cuda"), salience.topk(Q, X.astype(np.float16), 9))
    brain = X.astype(ml_dtypes.bfloat16)
    equal(salience.topk(Q, brain, 9, device="cuda"), salience.topk(Q, brain, 9))
    equal([salience.similarity(Q, X, device="cuda")], [salience.similarity(Q, X)])
    equal(salience.select(X.astype(float), 5, device="cuda"), salience.select(X.astype(float), 5))
    wide = np.asfortranarray(Q)
    equal(salience.topk(wide, np.repeat(X, 2, axis=1)[:, ::2], 9, device="cuda"), EXPECTED)
    equal(salience.topk(Q[:0], X, 9, device="cuda"), salience.topk(Q[:0], X, 9))


def test_arrays_on_the_gpu_are_worked_on_there(cuda):
    q, x = StandIn(cuda, Q), StandIn(cuda, X, stride=24)
    for found in (
        salience.topk(q, x, 9),
        salience.topk(q, X, 9),
        salience.topk(Q, x, 9),
        salience.topk(q, x, 9, device="cuda"),
    ):
        assert hasattr(found[0], "__cuda_array_interface__")
        equal(found, EXPECTED)
    equal([salience.similarity(q, x)], [salience.similarity(Q, X)])
    equal(salience.select(StandIn(cuda, X), 5), salience.select(X, 5))
    half = X.astype(np.float16)
    equal(salience.topk(q, StandIn(cuda, half), 9), salience.topk(Q, half, 9))
    mask = RANDOM.random(5000) < 0.3
    seen = sp.random_array((6, 5000), density=0.05, format="csr", rng=np.random.default_rng(1))
    equal(
        salience.topk(q, x, 9, allow=mask, deny=[3], exclude=seen),
        salience.topk(Q, X, 9, allow=mask, deny=[3], exclude=seen),
    )


def test_work_runs_on_the_stream_that_the_array_names(emulated):
    q, x = StandIn(emulated, Q, stream=77), StandIn(emulated, X)
    emulated.take_launches()
    salience.topk(q, x, 9)
    salience.similarity(q, x)
    launches = emulated.take_launches()
    assert len(launches) > 5
    assert {stream for _, _, _, stream in launches} == {77}
    salience.topk(Q, X, 9, device="cuda")
    assert {stream for _, _, _, stream in emulated.take_launches()} == {2}  # the thread's own


def fake_cupy(module):
    """A module that looks like CuPy as far as salience looks."""

    class Device:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    class ndarray:  # noqa: N801
        device = Device()

        def __init__(self, array):
            self.array = np.asarray(array)
            contiguous = self.array.flags.c_contiguous
            self.held = StandIn(module, self.array)
            self.__cuda_array_interface__ = {**self.held.__cuda_array_interface__}
            if not contiguous:
                self.__cuda_array_interface__["strides"] = self.array.strides

        def astype(self, kind, copy=True):
            return type(self)(self.array.astype(kind, copy=copy))

        def get(self):
            return self.held._memory.numpy()

        numpy = get

    ndarray.__module__ = "cupy"
    fake = types.ModuleType("cupy")
    fake.ndarray = ndarray
    fake.empty = lambda shape, kind: ndarray(np.zeros(shape, kind))
    fake.ascontiguousarray = lambda value: ndarray(np.ascontiguousarray(value.array))
    fake.cuda = types.SimpleNamespace(get_current_stream=lambda: types.SimpleNamespace(ptr=123))
    return fake


def test_cupy_in_cupy_out(emulated, monkeypatch):
    cupy = fake_cupy(emulated)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    q, x = cupy.ndarray(Q), cupy.ndarray(np.asfortranarray(X))
    emulated.take_launches()
    found = salience.topk(q, x, 9, allow=cupy.ndarray(np.ones((1, 5000), bool)).get()[0])
    assert all(isinstance(array, cupy.ndarray) for array in found)
    assert {stream for _, _, _, stream in emulated.take_launches()} == {123}
    equal(found, EXPECTED)
    small = (X[:50] * 10).astype(np.int8)
    equal([salience.similarity(cupy.ndarray(small), cupy.ndarray(small))], [salience.similarity(small, small)])


@pytest.mark.filterwarnings("ignore")
def test_real_cupy_and_torch(cuda):
    """On a GPU, with the libraries themselves."""
    if hasattr(cuda, "configure"):
        pytest.skip("SKIPPED: the emulator's memory is none that CuPy knows")
    cupy = pytest.importorskip("cupy")
    torch = pytest.importorskip("torch")
    with cupy.cuda.Stream(non_blocking=True):
        q, x = cupy.asarray(Q), cupy.asarray(X)
        found = salience.topk(q, x, 9)
        assert all(isinstance(array, cupy.ndarray) for array in found)
        equal([array.get() for array in found], EXPECTED)
        equal([salience.similarity(q, cupy.asfortranarray(x)).get()], [salience.similarity(Q, X)])
    with torch.cuda.stream(torch.cuda.Stream()):
        found = salience.topk(torch.from_numpy(Q).cuda(), torch.from_numpy(X).cuda(), 9)
        assert all(array.is_cuda for array in found)
        equal([array.cpu().numpy() for array in found], EXPECTED)


METRICS = ("dot", "cosine", "euclidean")


def check_index(index, rows, present, k=7):
    q = np.random.default_rng(1).standard_normal((6, rows.shape[1]), dtype=np.float32)
    assert (len(index), index.rows, index.device) == (present.sum(), len(rows), "cuda")
    expected = salience.topk(q, rows, k, metric=index.metric, allow=present, device="cpu")
    equal(index.search(q, k), expected)
    deny = np.flatnonzero(present)[:40]
    equal(
        index.search(q, k, deny=deny),
        salience.topk(q, rows, k, metric=index.metric, allow=present, deny=deny, device="cpu"),
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_an_index_that_changes(cuda, metric, kind, tmp_path):
    random = np.random.default_rng(2)
    rows = random.standard_normal((4500, 11)).astype(kind)
    index = salience.Index(rows, metric=metric, device="cuda")
    assert "on the GPU" in repr(index)
    present = np.ones(4500, bool)
    index.remove([5, 4499])
    present[[5, 4499]] = False
    check_index(index, rows, present)
    new = random.standard_normal((200, 11)).astype(kind)
    assert index.add(new).tolist() == list(range(4500, 4700))
    rows, present = np.concatenate([rows, new]), np.concatenate([present, np.ones(200, bool)])
    index.update([5, 7], new[:2])
    rows[[5, 7]], present[5] = new[:2], True
    check_index(index, rows, present)
    index.save(tmp_path / "items.index")
    assert salience.Index.load(tmp_path / "items.index").device == "cpu"
    check_index(salience.Index.load(tmp_path / "items.index", device="cuda"), rows, present)
    check_index(pickle.loads(pickle.dumps(index)), rows, present)
    assert index.nbytes >= rows.nbytes
    with pytest.raises(ValueError, match="rows: 4499 was removed before"):
        index.remove([4499])
    with pytest.raises(ValueError, match=r"vectors: shape \(2, 10\); expected 11 columns"):
        index.add(new[:2, :10])


def test_an_index_of_arrays_on_the_gpu(cuda):
    index = salience.Index(StandIn(cuda, X))
    assert index.device == "cuda"
    found = index.search(StandIn(cuda, Q), 9)
    assert hasattr(found[0], "__cuda_array_interface__")
    equal(found, EXPECTED)
    equal(index.search(Q, 9), EXPECTED)
    assert index.add(StandIn(cuda, X[:3])).tolist() == [5000, 5001, 5002]
    apart = salience.Index(StandIn(cuda, X, stride=24))
    equal(apart.search(Q, 9), EXPECTED)
    assert apart.add(StandIn(cuda, X[:3], stride=23)).tolist() == [5000, 5001, 5002]
    equal(apart.search(Q, 9), salience.topk(Q, np.concatenate([X, X[:3]]), 9))


def test_bfloat16_on_the_gpu_is_told_from_float16(cuda):
    """The interface of torch calls both "<f2" in some versions."""
    brain = X.astype(ml_dtypes.bfloat16)
    x = StandIn(cuda, brain.view(np.uint16))
    x.dtype = "torch.bfloat16"
    for typestr in ("<f2", "<V2"):
        x.__cuda_array_interface__["typestr"] = typestr
        equal(salience.topk(Q, x, 9), salience.topk(Q, brain, 9))
        equal(salience.Index(x).search(Q, 9), salience.topk(Q, brain, 9))


def test_items_beyond_the_memory_pass_through_it(emulated):
    """An index, and a search, of items that the device cannot hold."""
    big = np.tile(X, (8, 1)) + np.arange(40_000, dtype=np.float32)[:, None] * np.float32(1e-6)
    allow = RANDOM.random(40_000) < 0.5
    expected = salience.topk(Q[:2], big, 4, allow=allow, device="cpu")
    emulated.configure(memory=6 << 20)
    equal(salience.topk(Q[:2], big, 4, allow=allow, device="cuda"), expected)
    index = salience.Index(big, device="cuda")
    assert isinstance(index._state, _device.StreamedIndex)
    equal(index.search(Q[:2], 4, allow=allow), expected)
    index.remove([int(expected[0][0, 0])])
    rows = index.add(big[:2])
    assert rows.tolist() == [40_000, 40_001]
    found = index.search(Q[:2], 4)
    assert expected[0][0, 0] not in found[0]
    emulated.configure(memory=1 << 17)
    with pytest.raises(MemoryError, match=r"device: too little memory for a search: \d+ bytes wanted, \d+ of 131072"):
        salience.topk(Q[:2], big, 4, device="cuda")


@pytest.mark.parametrize("attention", ["fixed", "linear", "softmax"])
def test_a_hybrid_scorer_recommends_the_same(cuda, attention, tmp_path):
    found = synthetic(200, 900, seed=3)
    data, features = found.interactions, found.item_features[found.interactions.items - 1]
    parts = [salience.ALS(8, epochs=2), salience.Content(features), salience.History(salience.ItemKNN(10))]
    model = salience.HybridScorer(parts, attention=attention, most_users=60, device="cuda").fit(data)
    assert model._serving.index.device == "cuda"
    model.save(tmp_path / "hybrid")
    host = salience.HybridScorer.load(tmp_path / "hybrid")
    assert host._serving.index.device == "cpu"
    some = data.items[::3]
    for settings in ({}, {"exclude_seen": False}, {"allow": some}, {"deny": some}):
        one, other = (m.recommend(data.users[:90], 12, **settings) for m in (model, host))
        equal((one.rows, one.scores), (other.rows, other.scores))
    for weights in ([1.0] * len(model.components),):
        one, other = (m.with_weights(weights).recommend(data.users[:9], 2000) for m in (model, host))
        equal((one.rows, one.scores), (other.rows, other.scores))


def test_unsound_blends_are_errors_on_the_gpu(cuda):
    state = salience.Index(X, device="cuda")._state
    gates = np.ones((6, 2), np.float32), np.ones((5000, 1), np.float32)
    with pytest.raises(ValueError, match=r"item_gates: shape \(5000, 1\); expected \(5000, 2\)"):
        state.search(Q, 5, None, None, 0, "auto", None, gates)
    with pytest.raises(ValueError, match="labels: 2 of them; expected one for each of the 5000 items"):
        state.search(Q, 5, None, None, 0, "auto", None, None, np.arange(2))
    other = salience.Index(X, metric="cosine", device="cuda")._state
    with pytest.raises(ValueError, match="metric: not 'dot'; expected 'dot' where scores are blended"):
        other.search(Q, 5, None, None, 0, "auto", None, (np.ones((6, 1), np.float32), np.ones((5000, 1), np.float32)))


def test_memory_is_given_back(emulated):
    before = emulated.allocated()
    index = salience.Index(X, device="cuda")
    index.search(Q, 9)
    index.update([0], X[1:2])
    del index
    salience.topk(Q, X, 9, device="cuda")
    assert emulated.allocated() == before


WRONG = {
    "an unknown device": (ValueError, "device: 'gpu'; expected 'auto', 'cpu' or 'cuda'", lambda m: salience.topk(Q, X, 2, device="gpu")),
    "host work on the GPU's data": (ValueError, "queries: an array on the GPU, while device is 'cpu'", lambda m: salience.topk(StandIn(m, Q), X, 2, device="cpu")),
    "a CPU index": (ValueError, "queries: an array on the GPU", lambda m: salience.Index(X, device="cpu").search(StandIn(m, Q), 2)),
    "doubles": (TypeError, r'items: an array of <f8 of shape \(5000, 20\) on the GPU; .*astype\("float32"\)', lambda m: salience.topk(Q, StandIn(m, X.astype(float)), 2)),
    "rows that lie apart": (TypeError, "a: .*side by side", lambda m: salience.similarity(Transposed(m), X)),
    "other shapes": (ValueError, r"items: shape \(5000, 19\), while queries has shape \(6, 20\)", lambda m: salience.topk(Q, X[:, :19], 2, device="cuda")),
    "k beyond the items": (ValueError, "k: 5001; expected a whole number from 1 to the 5000 items", lambda m: salience.topk(Q, X, 5001, device="cuda")),
    "k beyond the columns": (ValueError, "k: 21; .*20 columns of scores", lambda m: salience.select(Q, 21, device="cuda")),
    "a mask on the GPU": (TypeError, "allow: .*; expected a NumPy array", lambda m: salience.topk(Q, StandIn(m, X), 2, allow=StandIn(m, Q))),
    "a bad exclusion": (ValueError, r"exclude: shape \(5, 3\)", lambda m: salience.topk(Q, X, 2, exclude=sp.csr_array((5, 3)), device="cuda")),
}  # fmt: skip


class Transposed(StandIn):
    """Columns that lie apart."""

    def __init__(self, module):
        super().__init__(module, Q)
        self.__cuda_array_interface__["strides"] = (4, 80)


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input(emulated, wrong):
    kind, words, call = WRONG[wrong]
    with pytest.raises(kind, match=words):
        call(emulated)


def test_what_cannot_be_served_says_why(monkeypatch):
    monkeypatch.setattr(_backends, "_driver_trouble", lambda: "there is no NVIDIA driver on this machine")
    for call in (
        lambda: salience.topk(Q, X, 2, device="cuda"),
        lambda: salience.Index(X, device="cuda"),
        lambda: salience.similarity(Q, X, device="cuda"),
        lambda: salience.select(Q, 2, device="cuda"),
    ):
        with pytest.raises(RuntimeError, match="device: 'cuda', but there is no NVIDIA driver on this machine"):
            call()
    equal(salience.topk(Q, X, 9), EXPECTED)  # "auto" does what it can


def test_a_missing_module_says_why(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(_backends.importlib, "import_module", missing)
    _backends._import_cuda.cache_clear()
    _backends._driver_trouble.cache_clear()
    try:
        assert "CUDA module" in _backends.cuda_why_not()
    finally:
        _backends._import_cuda.cache_clear()
        _backends._driver_trouble.cache_clear()


def test_auto_goes_where_it_pays(emulated, monkeypatch):
    emulated.take_launches()
    salience.topk(Q, X, 9)
    assert not emulated.take_launches()
    assert salience.Index(X).device == "cpu"
    monkeypatch.setattr(_device, "_PAYS_FROM", 1000.0)
    monkeypatch.setattr(_device, "_INDEX_PAYS_FROM", 1000)
    equal(salience.topk(Q, X, 9), EXPECTED)
    assert emulated.take_launches()
    assert salience.Index(X).device == "cuda"


def test_auto_serves_on_the_cpu_what_the_gpu_has_no_memory_for(monkeypatch):
    def full(*arguments):
        raise MemoryError("too little memory on the GPU")

    monkeypatch.setattr(_device, "choose", lambda *arguments, **more: object())
    monkeypatch.setattr(_device, "topk", full)
    equal(salience.topk(Q, X, 9), EXPECTED)
    with pytest.raises(MemoryError, match="too little memory on the GPU"):
        salience.topk(Q, X, 9, device="cuda")


def test_an_index_that_auto_put_on_the_gpu_wakes_up_where_there_is_none(emulated, monkeypatch):
    monkeypatch.setattr(_device, "_INDEX_PAYS_FROM", 1000)
    auto, asked = (pickle.dumps(salience.Index(X, device=device)) for device in ("auto", "cuda"))
    assert pickle.loads(auto).device == pickle.loads(asked).device == "cuda"
    monkeypatch.setattr(_backends, "cuda_why_not", lambda: "there is no GPU")
    woken = pickle.loads(auto)
    assert woken.device == "cpu"
    equal(woken.search(Q, 9), EXPECTED)
    with pytest.raises(RuntimeError, match="there is no GPU"):
        pickle.loads(asked)


def test_a_forked_process_is_told(emulated, monkeypatch):
    monkeypatch.setattr(_backends, "_first_process", 1)
    assert "forked" in salience.show_config()["cuda_why_not"]
    with pytest.raises(RuntimeError, match="forked from one that had used the GPU"):
        salience.topk(Q, X, 2, device="cuda")


def test_config_tells_about_the_gpu(emulated):
    config = salience.show_config()
    assert config["cuda_why_not"] == ""
    assert config["gpu"]["name"] == "emulated"
    assert config["gpu"]["free_bytes"] <= config["gpu"]["total_bytes"]
