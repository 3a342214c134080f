"""Index: whatever was added, changed, removed, saved and mapped, searches answer as topk would."""

from __future__ import annotations

import copy
import json
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
import salience
from forking import holds_in_child
from salience import _core

METRICS = ("dot", "cosine", "euclidean")
DTYPES = (np.float32, np.float16)


def check(index, rows, present, k=7):
    """Search and compare with the oracle over ``rows``, of which ``present`` are in the index."""
    q = np.random.default_rng(1).standard_normal((6, rows.shape[1]), dtype=np.float32)
    excluded = np.broadcast_to(~present, (len(q), len(rows)))
    assert (len(index), index.rows) == (present.sum(), len(rows))
    k = min(k, len(index))
    if k == 0:
        return
    expected = reference.topk(q, rows.astype(np.float32), k, index.metric, excluded)
    for path in ("auto", "rows", "bytes", "panels"):
        found = index._state.search(q, k, None, None, 2, path)
        assert np.array_equal(found[0], expected[0])
        assert found[1].tobytes() == expected[1].tobytes()


@given(
    seed=st.integers(0, 2**32 - 1), start=st.sampled_from([0, 1, 191, 192, 400]), columns=st.integers(1, 40),
    metric=st.sampled_from(METRICS), dtype=st.sampled_from(DTYPES),
    changes=st.lists(st.sampled_from(["add", "update", "remove"]), max_size=6),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_changes_one_after_another(seed, start, columns, metric, dtype, changes):
    random = np.random.default_rng(seed)

    def draw(count):
        scale = random.choice([1e-3, 1.0, 1e3])  # blocks must follow the largest norm in them
        return (random.standard_normal((count, columns)) * scale).astype(dtype)

    rows = draw(start)
    present = np.ones(start, bool)
    index = salience.Index(rows, metric=metric)
    rows = rows.copy()
    for change in changes:
        if change == "add":
            new = draw(random.integers(0, 300))
            assert index.add(new).tolist() == list(range(len(rows), len(rows) + len(new)))
            rows, present = np.concatenate([rows, new]), np.concatenate([present, np.ones(len(new), bool)])
        elif change == "update":
            where = random.integers(0, len(rows), random.integers(0, 9)) if len(rows) else np.zeros(0, int)
            new = draw(len(where))
            index.update(where, new)
            rows[where], present[where] = new, True
        else:
            left = np.flatnonzero(present)
            gone = random.choice(left, min(len(left), random.integers(0, 50)), replace=False)
            index.remove(gone)
            present[gone] = False
        if len(index) and random.random() < 0.5:  # which leaves a copy in 8 bits for the next change to inherit
            index._state.search(np.ones((1, columns), np.float32), 1, None, None, 1, "bytes")
    check(index, rows, present)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mapped", [True, False])
def test_save_and_load(tmp_path, metric, dtype, mapped):
    random = np.random.default_rng(0)
    rows = (3 + random.standard_normal((500, 21))).astype(dtype)
    rows[[7, 300]] = np.nan
    index = salience.Index(rows, metric=metric)
    present = np.ones(500, bool)
    index.remove([5, 499])
    present[[5, 499]] = False
    path = tmp_path / "items.index"
    index.save(path)
    loaded = salience.Index.load(path, mapped=mapped)
    assert loaded.nbytes == index.nbytes
    check(loaded, rows, present)
    # What was mapped can be changed: the change is in memory, the file stays.
    before = path.read_bytes()
    loaded.update([5], rows[:1])
    loaded.add(rows[:3])
    check(
        loaded,
        np.concatenate([np.r_[rows[:5], rows[:1], rows[6:]], rows[:3]]),
        np.r_[np.arange(500) != 499, [True] * 3],
    )
    assert path.read_bytes() == before
    loaded.save(path)
    assert len(salience.Index.load(path, mapped=mapped)) == 502


def test_a_file_in_another_encoding_is_packed_anew(tmp_path):
    rows = np.random.default_rng(0).standard_normal((300, 9), dtype=np.float32)
    path = tmp_path / "items.index"
    salience.Index(rows).save(path)
    other = b"bfloat16   " if _core.encoding() == "fixed_point" else b"fixed_point"
    data = path.read_bytes()
    mine = _core.encoding().encode()
    length = max(len(mine), len(other.strip()))
    header, body = data[: 8 + int.from_bytes(data[:8], "little")], data[8 + int.from_bytes(data[:8], "little") :]
    text = header[8:].replace(mine, other.strip())
    text = text.rstrip().ljust(len(header) - 8 + length)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    check(salience.Index.load(path), rows, np.ones(300, bool))


def damage_header(data, change):
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


DAMAGES = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "no header": lambda data: b"\xff" * len(data),
    "another kind": lambda data: data.replace(b'"Index"', b'"Alien"'),
    "no items": lambda data: damage_header(data, lambda header: header.pop("items")),
    "an unknown metric": lambda data: data.replace(b'\\"dot\\"', b'\\"dog\\"'),
    "too few scales": lambda data: damage_header(data, lambda header: header["encoded"].update(shape=[2, 2])),
    "overlapping": lambda data: damage_header(data, lambda header: header["packed"].update(data_offsets=[0, 8])),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_say_so(tmp_path, damage):
    rows = np.random.default_rng(0).standard_normal((300, 9), dtype=np.float32)
    path = tmp_path / "items.index"
    salience.Index(rows).save(path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    for mapped in (True, False):
        with pytest.raises(ValueError, match="path: .*(damaged|expected salience Index)"):
            salience.Index.load(path, mapped=mapped)


def test_a_search_sees_one_state_while_others_change_it():
    random = np.random.default_rng(0)
    x = random.standard_normal((2000, 16), dtype=np.float32)
    index = salience.Index(x)
    q = random.standard_normal((8, 16), dtype=np.float32)
    states = {salience.topk(q, sign * x, 10)[1].tobytes() for sign in (1, -1)}
    stop = threading.Event()

    def change():
        sign = -1
        while not stop.is_set():
            index.update(np.arange(len(x)), sign * x)
            sign = -sign

    writer = threading.Thread(target=change)
    writer.start()
    try:
        for _ in range(100):
            assert index.search(q, 10)[1].tobytes() in states
    finally:
        stop.set()
        writer.join()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_during_a_change_leaves_a_child_that_works():
    x = np.random.default_rng(0).standard_normal((500, 8), dtype=np.float32)
    index = salience.Index(x)
    expected = index.search(x[:3], 5)[0].tolist()
    with index._changes:  # as if another thread were changing it

        def works():
            good = index.search(x[:3], 5, threads=2)[0].tolist() == expected
            index.add(x[:2])
            return good and len(index) == 502

        assert holds_in_child(works)


def many_items():
    random = np.random.default_rng(0)
    x = random.standard_normal((20_000, 64), dtype=np.float32)
    return x, random.standard_normal((2, 64), dtype=np.float32), salience.Index(x)


def test_searches_that_begin_together_share_one_copy_in_8_bits():
    x, q, index = many_items()
    expected = salience.topk(q, x, 10)
    for _ in range(5):
        begin, found = threading.Barrier(4), []

        def search(index=index, begin=begin, found=found):
            begin.wait()
            for _ in range(5):
                ids, scores = index.search(q, 10, threads=1)
                found.append(np.array_equal(ids, expected[0]) and scores.tobytes() == expected[1].tobytes())

        threads = [threading.Thread(target=search) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [True] * 20
        index.update([0], x[:1])


@pytest.mark.fork_amid_calls
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_the_copy_in_8_bits_is_made_leaves_a_child_that_works():
    x, q, index = many_items()
    expected = salience.topk(q, x, 10)[0].tolist()
    for _ in range(5):
        index.update(np.arange(len(x)), x)
        first = threading.Thread(target=index.search, args=(q, 10))
        first.start()
        good = holds_in_child(lambda: index.search(q, 10)[0].tolist() == expected)
        first.join()
        assert good


@pytest.mark.parametrize("dtype", DTYPES)
def test_copies_and_pickles(dtype):
    rows = np.random.default_rng(0).standard_normal((200, 5)).astype(dtype)
    index = salience.Index(rows, metric="cosine")
    index.remove([3])
    for twin in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        twin.remove([4])
        check(twin, rows, ~np.isin(np.arange(200), [3, 4]))
    check(index, rows, np.arange(200) != 3)
    assert len(pickle.loads(pickle.dumps(salience.Index(rows[:0])))) == 0


def test_an_index_packed_for_another_encoding_is_refused():
    offered = [row["name"] for row in salience.show_config()["instruction_sets"] if row["offered"]]
    if "avx512_bf16" not in offered:
        pytest.skip("SKIPPED: this machine has one encoding")
    chosen = salience.show_config()["chosen"]
    x = np.random.default_rng(0).standard_normal((50, 4), dtype=np.float32)
    try:
        _core.use_instruction_set("avx512_bf16")
        index = salience.Index(x)
        _core.use_instruction_set("baseline")
        with pytest.raises(ValueError, match="index: packed for another instruction set"):
            index.search(x, 3)
        _core.use_instruction_set("avx512_bf16")
        assert index.search(x, 3)[0].tolist() == salience.topk(x, x, 3)[0].tolist()
    finally:
        _core.use_instruction_set(chosen)


def test_memory_is_stated():
    x = np.ones((1000, 40), np.float32)
    blocks = -(-1000 // 192)
    assert blocks * 192 * (40 * 4 + 64 * 2) <= salience.Index(x).nbytes <= blocks * (192 * (40 * 4 + 64 * 2) + 300)
    assert salience.Index(x.astype(np.float16)).nbytes < salience.Index(x).nbytes


def test_a_search_of_few_queries_adds_a_byte_per_element():
    x, q, index = many_items()
    packed = index.nbytes
    index.search(np.repeat(q, 5, axis=0), 10)
    assert index.nbytes == packed
    index.search(q, 10)
    blocks = -(-len(x) // 192)
    assert blocks * 192 * 64 <= index.nbytes - packed <= blocks * 192 * (64 + 5)
    index.remove([3])
    assert index.nbytes - packed >= blocks * 192 * 64
    small = salience.Index(x[:2000])
    packed = small.nbytes
    small.search(q, 10)  # nothing to gain
    assert small.nbytes == packed
