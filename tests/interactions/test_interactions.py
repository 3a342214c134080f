"""Interactions against dictionaries."""

from __future__ import annotations

import datetime
import gzip

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from salience import Interactions, datasets

ROWS = st.lists(
    st.tuples(st.sampled_from(["b", "a", "ü"]), st.integers(-3, 3), st.integers(-4, 9), st.integers(0, 5)), max_size=30
)
COLUMNS = ("u", "i", "v", "t")


@given(
    rows=ROWS,
    rule=st.sampled_from(["sum", "last", "first", "max", "mean"]),
    make=st.sampled_from([pd.DataFrame, pl.DataFrame, pa.table]),
)
@settings(max_examples=120, deadline=None)
def test_duplicates_become_one_by_the_stated_rule(rows, rule, make):
    types = (object, np.int64, np.float64, np.int64)
    arrays = {n: np.array([r[c] for r in rows], dtype=t) for c, (n, t) in enumerate(zip(COLUMNS, types, strict=True))}
    frame = make(arrays if rows else {"u": np.array([], np.int64), **{n: arrays[n] for n in COLUMNS[1:]}})
    found = Interactions.from_frame(frame, user="u", item="i", value="v", time="t", duplicates=rule)
    groups = {}
    for row in sorted(rows, key=lambda row: row[3]):
        groups.setdefault(row[:2], []).append(row)
    reduce = {
        "sum": sum,
        "max": max,
        "mean": lambda v: sum(v) / len(v),
        "last": lambda v: v[-1],
        "first": lambda v: v[0],
    }
    expected = {
        pair: (np.float32(reduce[rule]([row[2] for row in same])), (same[0] if rule == "first" else same[-1])[3])
        for pair, same in groups.items()
    }
    entries = zip(
        found.users[found.rows], found.items[found.matrix.indices], found.matrix.data, found.times, strict=True
    )
    assert {(u, i): (v, t) for u, i, v, t in entries} == expected
    assert found.merged == len(rows) - len(expected)
    assert found.users.tolist() == sorted({row[0] for row in rows})


def test_dates_become_microseconds():
    when = [datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 2)]
    for make in (pd.DataFrame, pl.DataFrame, pa.table):
        found = Interactions.from_frame(make({"u": [1, 2], "i": [1, 1], "t": when}), user="u", item="i", time="t")
        assert found.times.tolist() == [1577836800000000, 1577923200000000]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.csv.gz", "x.parquet"])
def test_files_give_what_their_frame_gives(tmp_path, name):
    frame = pd.DataFrame({"user": ["b", "a", "b"], "item": [5, 7, 6], "stars": [1.5, 2, 3], "at": [3, 2, 1]})
    path = tmp_path / name
    if name.endswith("parquet"):
        pyarrow.parquet.write_table(pa.Table.from_pandas(frame), path)
    else:
        text = frame.to_csv(index=False, sep="\t" if "tsv" in name else ",").encode()
        path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    found = Interactions.read(path, value="stars", time="at")
    expected = Interactions.from_frame(frame, user="user", item="item", value="stars", time="at")
    assert (found.matrix != expected.matrix).nnz == 0
    assert found.users.tolist() == ["a", "b"]
    assert found.items.tolist() == [5, 6, 7]
    assert found.times.tolist() == expected.times.tolist() == [2, 3, 1]


def test_dates_in_text_are_what_they_are_in_frames(tmp_path):
    texts = ["2020-01-02", "2020-01-01 12:00:00.5", "2020-01-01T02:00:00+02:00", "2020-01-01T00:00:00Z"]
    dates = pd.to_datetime(["2020-01-02", "2020-01-01 12:00:00.5", "2020-01-01", "2020-01-01"], format="mixed")
    frame = pd.DataFrame({"user": 1, "item": range(4), "at": texts})
    frame.to_csv(tmp_path / "x.csv", index=False)
    expected = Interactions.from_frame(frame.assign(at=dates), user="user", item="item", time="at")
    assert Interactions.read(tmp_path / "x.csv", time="at").times.tolist() == expected.times.tolist()


@pytest.mark.parametrize("text", ["", "now", "NaT", "01/02/2020", "2020-13-01"])
def test_what_is_no_date_is_named(tmp_path, text):
    (tmp_path / "x.csv").write_text(f"user,item,at\n1,1,2020-01-02\n1,2,{text}\n")
    with pytest.raises(ValueError, match=f"time: '{text}'; expected a number in every row, or an ISO 8601 date"):
        Interactions.read(tmp_path / "x.csv", time="at")


def test_leading_zeros_stay_in_ids(tmp_path):
    (tmp_path / "x.csv").write_text("user,item\n007,1\n7,1\n")
    assert Interactions.read(tmp_path / "x.csv").users.tolist() == ["007", "7"]


def test_a_header_alone_is_empty(tmp_path):
    (tmp_path / "x.csv").write_text("user,item\n")
    assert Interactions.read(tmp_path / "x.csv").shape == (0, 0)


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csr_array, sp.csc_array, sp.coo_array])
def test_any_sparse_matrix(kind):
    dense = np.array([[0, 1.5], [2, 0], [0, 0]])
    found = Interactions.from_csr(kind(dense), users=["x", "y", "z"])
    assert found.matrix.toarray().tolist() == dense.tolist()
    assert found.users.tolist() == ["x", "y", "z"]
    assert found.items.tolist() == [0, 1]


def test_unsorted_repeated_wide_and_frozen_csr():
    arrays = np.array([1.0, 2.0, 4.0]), np.array([1, 0, 1], np.int64), np.array([0, 3], np.int64)
    for array in arrays:
        array.flags.writeable = False
    found = Interactions.from_csr(sp.csr_matrix(arrays, shape=(1, 2)))
    assert found.matrix.toarray().tolist() == [[2.0, 5.0]]
    assert found.merged == 1


def test_select_and_to_frame():
    found = Interactions.from_csr(sp.csr_array(np.array([[1, 2], [0, 3]])))
    part = found.select(np.array([False, True, True]))
    assert part.shape == (2, 2)
    for backend in ("pandas", "polars", "pyarrow"):
        again = Interactions.from_frame(part.to_frame(backend), user="user", item="item", value="value")
        assert again.matrix.toarray().tolist() == [[2.0], [3.0]]


def test_the_synthetic_catalogue_repeats_and_is_skewed():
    one, two = datasets.synthetic(300, 200, seed=1), datasets.synthetic(300, 200, seed=1)
    assert (one.interactions.matrix != two.interactions.matrix).nnz == 0
    assert len(set(one.titles.values())) == 200
    counts = np.sort(np.bincount(one.interactions.matrix.indices))[::-1]
    assert counts[:20].sum() > 0.25 * counts.sum()
    assert one.item_features.shape == (200, len(one.genres))


@pytest.mark.data
def test_published_data_sets(data_folder):
    train, valid, test = datasets.load_gowalla(data_folder)
    assert [len(part) for part in (train, valid, test)] == [719081, 91047, 217242]
    assert len(datasets.load_movielens(data_folder)) == 100004
    assert datasets.movielens_titles(data_folder)[1] == "Toy Story (1995)"
    assert [len(part) for part in datasets.load_citeulike(data_folder)] == [53399, 81461]


def test_joined_interactions_keep_rows_and_merge_pairs():
    import pandas as pd

    first = Interactions.from_frame(
        pd.DataFrame({"u": ["b", "a"], "i": [1, 2], "v": [1.0, 2.0], "t": [5, 6]}),
        user="u",
        item="i",
        value="v",
        time="t",
    )
    second = Interactions.from_frame(
        pd.DataFrame({"u": ["b", "c"], "i": [1, 9], "v": [3.0, 4.0], "t": [4, 8]}),
        user="u",
        item="i",
        value="v",
        time="t",
    )
    for rule, value in (("sum", 4.0), ("last", 3.0), ("max", 3.0)):
        both = first.joined(second, duplicates=rule)
        assert both.users.tolist() == ["a", "b", "c"]
        assert both.items.tolist() == [1, 2, 9]
        assert both.matrix.toarray().tolist() == [[0, 2, 0], [value, 0, 0], [0, 0, 4]]
        assert both.times.tolist() == [6, 5, 8]
        assert both.merged == 1
    empty = Interactions.from_csr(sp.csr_array((0, 0)))
    assert len(empty.joined(empty)) == 0
    with pytest.raises(ValueError, match="interactions: row numbers; expected ids as before"):
        first.joined(empty)


def test_values_decay_by_half_lives():
    import pandas as pd

    frame = pd.DataFrame({"u": [0, 0, 1], "i": [0, 1, 1], "v": [8.0, 8.0, 8.0], "t": [100, 90, 70]})
    data = Interactions.from_frame(frame, user="u", item="i", value="v", time="t")
    assert data.decayed(10).matrix.data.tolist() == [8.0, 4.0, 1.0]
    assert data.decayed(10, now=110).matrix.data.tolist() == [4.0, 2.0, 0.5]
    assert data.decayed(10, now=80).matrix.data.tolist() == [8.0, 8.0, 4.0]
    with pytest.raises(ValueError, match="half_life: 0"):
        data.decayed(0)
    with pytest.raises(ValueError, match="half_life: interactions without times"):
        Interactions.from_csr(data.matrix).decayed(1)
