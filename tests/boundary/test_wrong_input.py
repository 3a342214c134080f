"""One table of wrong input: the error class, and the words that name the argument."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp

import salience
from salience import Interactions, _core

Q = np.ones((3, 4), np.float32)
X = np.ones((5, 4), np.float32)
FRAME = pd.DataFrame({"u": [1, 2], "i": [3, 4], "v": [1.0, 2.0], "t": [5, 6]})


def frame(**columns):
    changed = pd.DataFrame({**{name: FRAME[name] for name in FRAME}, **columns})
    return Interactions.from_frame(changed, user="u", item="i", value="v", time="t")


def broken_csr(indices=(0, 1), indptr=(0, 1, 2)):
    csr = sp.csr_matrix((2, 5), dtype=np.float32)
    csr.data, csr.indices, csr.indptr = np.ones(2, np.float32), np.array(indices), np.array(indptr)
    return csr


def index_without(*rows):
    index = salience.Index(X)
    index.remove(rows)
    return index


def parse(tmp_path, content, name="x.csv", **columns):
    (tmp_path / name).write_bytes(content)
    return Interactions.read(tmp_path / name, **columns)


TABLE = {
    "items transposed": (ValueError, r"items: shape \(4, 5\), while queries has shape \(3, 4\)", lambda t: salience.topk(Q, X.T, 2)),
    "b of another width": (ValueError, "b: shape", lambda t: salience.similarity(Q, X[:, :3])),
    "one query as a vector": (ValueError, r"queries: shape \(4,\)", lambda t: salience.topk(Q[0], X, 2)),
    "three dimensions": (ValueError, r"a: shape \(1, 3, 4\)", lambda t: salience.similarity(Q[None], X)),
    "float64 vectors": (TypeError, r"items: .*astype\(numpy.float32\)", lambda t: salience.topk(Q, X.astype(float), 2)),
    "int64 vectors": (TypeError, "queries: an array of int64", lambda t: salience.topk(Q.astype(np.int64), X, 2)),
    "object vectors": (TypeError, "a: an array of object", lambda t: salience.similarity(Q.astype(object), X)),
    "complex vectors": (TypeError, "a: an array of complex", lambda t: salience.similarity(Q.astype(complex), X)),
    "sparse vectors": (TypeError, "items: a sparse matrix", lambda t: salience.topk(Q, sp.csr_array(X), 2)),
    "k of zero": (ValueError, "k: 0", lambda t: salience.topk(Q, X, 0)),
    "k beyond the items": (ValueError, "k: 6; expected a whole number from 1 to the 5 items", lambda t: salience.topk(Q, X, 6)),
    "k of no items": (ValueError, "k: 1", lambda t: salience.topk(Q, X[:0], 1)),
    "k that is no number": (TypeError, "k: 2.0", lambda t: salience.topk(Q, X, 2.0)),
    "k beyond the columns": (ValueError, "k: 5; .*4 columns of scores", lambda t: salience.select(Q, 5)),
    "an unknown metric": (ValueError, "metric: 'l2'", lambda t: salience.topk(Q, X, 2, metric="l2")),
    "no threads": (ValueError, "threads: 0", lambda t: salience.topk(Q, X, 2, threads=0)),
    "exclude transposed": (ValueError, r"exclude: shape \(5, 3\); expected \(3, 5\)", lambda t: salience.topk(Q, X, 2, exclude=sp.csr_array((5, 3)))),
    "exclude as a list": (TypeError, "exclude: .*CSR", lambda t: salience.topk(Q, X, 2, exclude=[1])),
    "exclude out of range": (ValueError, "exclude: column indices 0 to 7", lambda t: salience.topk(Q[:2], X, 2, exclude=broken_csr((0, 7)))),
    "exclude with a negative index": (ValueError, "exclude: column indices -1 to 0", lambda t: salience.topk(Q[:2], X, 2, exclude=broken_csr((0, -1)))),
    "exclude with falling pointers": (ValueError, "exclude: indptr", lambda t: salience.topk(Q[:2], X, 2, exclude=broken_csr(indptr=(0, 2, 1)))),
    "allow out of range": (ValueError, "allow: item row 5; expected 0 to 4", lambda t: salience.topk(Q, X, 2, allow=[5])),
    "deny below zero": (ValueError, "deny: item row -1", lambda t: salience.topk(Q, X, 2, deny=[-1])),
    "a mask of another length": (ValueError, "allow: a mask of 3", lambda t: salience.topk(Q, X, 2, allow=np.ones(3, bool))),
    "fractional ids to allow": (TypeError, "allow: .*float64", lambda t: salience.topk(Q, X, 2, allow=[0.5])),
    "vectors of another width": (ValueError, "vectors: shape", lambda t: salience.Index(X).add(Q[:, :2])),
    "updated rows out of range": (ValueError, "rows: 9 to 9", lambda t: salience.Index(X).update([9], Q[:1])),
    "too few updated rows": (ValueError, "rows: 1 of them", lambda t: salience.Index(X).update([1], Q)),
    "updates of another type": (TypeError, "vectors: float32; expected float16, which the index holds", lambda t: salience.Index(X.astype(np.float16)).update([1], Q[:1])),
    "vectors of float64": (TypeError, "vectors: .*float64", lambda t: salience.Index(X).add(Q.astype(float))),
    "removed rows out of range": (ValueError, "rows: -1 to 2; expected 0 to 4", lambda t: salience.Index(X).remove([2, -1])),
    "removed rows as text": (TypeError, "rows: .*expected a list of item rows", lambda t: salience.Index(X).remove(["1"])),
    "removed twice": (ValueError, "rows: 1 was removed before", lambda t: index_without(1).remove([1])),
    "removed twice at once": (ValueError, "rows: 3 was removed before", lambda t: salience.Index(X).remove([3, 3])),
    "k beyond what is left": (ValueError, "k: 5; expected a whole number from 1 to the 4 items", lambda t: index_without(1).search(Q, 5)),
    "a mask of what is left": (ValueError, "allow: a mask of 4; expected one flag for each of the 5 items", lambda t: index_without(1).search(Q, 2, allow=np.ones(4, bool))),
    "queries of another width": (ValueError, r"items: shape \(5, 4\), while queries has shape \(3, 2\)", lambda t: salience.Index(X).search(Q[:, :2], 2)),
    "items of complex numbers": (TypeError, "items: .*complex64", lambda t: salience.Index(X.astype(np.complex64))),
    "a metric of an index": (ValueError, "metric: 'l2'", lambda t: salience.Index(X, metric="l2")),
    "no index file": (FileNotFoundError, "none", lambda t: salience.Index.load(t / "none")),
    "an unknown path": (ValueError, "path: 'fast'; expected 'auto', 'exact', 'rows', 'bytes' or 'panels'", lambda t: _core.topk(Q, X, "float32", 2, "dot", None, None, 1, "fast")),
    "an unknown instruction set": (ValueError, "instruction set: mmx; expected one of baseline", lambda t: _core.use_instruction_set("mmx")),
    "no frame": (TypeError, "frame: .*expected a pandas", lambda t: Interactions.from_frame([1], user="u", item="i")),
    "a missing column": (ValueError, "item: no column 'x'; expected one of u, i, v, t", lambda t: Interactions.from_frame(FRAME, user="u", item="x")),
    "missing ids": (ValueError, "user: 1 missing", lambda t: frame(u=[1.0, np.nan])),
    "missing text ids": (ValueError, "user: 1 missing", lambda t: frame(u=["a", None])),
    "fractional user ids": (ValueError, "user: .*fractional", lambda t: frame(u=[1.5, 2.0])),
    "boolean item ids": (TypeError, "item: an array of bool", lambda t: frame(i=[True, False])),
    "mixed ids": (TypeError, "item: objects of int, str", lambda t: frame(i=pd.Series([1, "a"], dtype=object))),
    "values of NaN": (ValueError, "value: 1 missing", lambda t: frame(v=[1.0, np.nan])),
    "values of infinity": (ValueError, "value: inf", lambda t: frame(v=[1.0, np.inf])),
    "values beyond float32": (ValueError, r"value: 1e\+300", lambda t: frame(v=[1.0, 1e300])),
    "values of text": (TypeError, "value: .*expected real numbers", lambda t: frame(v=["a", "b"])),
    "times of text": (TypeError, "time: .*expected numbers or dates", lambda t: frame(t=["a", "b"])),
    "repeats that are refused": (ValueError, "frame: 1 rows repeat", lambda t: Interactions.from_frame(pl.DataFrame({"u": [1, 1], "i": [2, 2]}), user="u", item="i", duplicates="error")),
    "an unknown rule": (ValueError, "duplicates: 'any'", lambda t: Interactions.from_frame(FRAME, user="u", item="i", duplicates="any")),
    "a dense matrix": (TypeError, "csr: .*csr_array", lambda t: Interactions.from_csr(np.eye(2))),
    "a complex matrix": (TypeError, "csr: .*real numbers", lambda t: Interactions.from_csr(sp.csr_array(np.eye(2) * 1j))),
    "a matrix with NaN": (ValueError, "csr: nan", lambda t: Interactions.from_csr(sp.csr_array([[np.nan]]))),
    "a matrix that points outside": (ValueError, "csr: column indices 0 to 7", lambda t: Interactions.from_csr(broken_csr((0, 7)))),
    "too few ids": (ValueError, "users: 1 ids", lambda t: Interactions.from_csr(sp.csr_array(np.eye(2)), users=[1])),
    "repeated ids": (ValueError, "items: 1 repeated", lambda t: Interactions.from_csr(sp.csr_array(np.eye(2)), items=[1, 1])),
    "no such file": (FileNotFoundError, "path: .*not a file", lambda t: Interactions.read(t / "none.csv")),
    "a folder": (FileNotFoundError, "path: .*not a file", lambda t: Interactions.read((t / "d.csv", (t / "d.csv").mkdir())[0])),
    "an unknown kind of file": (ValueError, "path: x.json", lambda t: parse(t, b"{}", "x.json")),
    "an empty file": (ValueError, "path: x.csv is empty", lambda t: parse(t, b"")),
    "a ragged file": (ValueError, "path: x.csv has 3 fields in line 3; expected 2", lambda t: parse(t, b"user,item\n1,2\n1,2,3\n")),
    "a file that is not UTF-8": (ValueError, "path: x.csv is not UTF-8 near line", lambda t: parse(t, b"user,item\n\xff,2\n")),
    "a damaged Parquet file": (ValueError, "path: x.parquet is damaged", lambda t: parse(t, b"PAR1 no", "x.parquet")),
    "a file without the column": (ValueError, "user: no column 'user'; expected one of a, b", lambda t: parse(t, b"a,b\n1,2\n")),
    "a file with an empty id": (ValueError, "user: a missing id in row 2", lambda t: parse(t, b"user,item\n1,2\n,2\n")),
    "a file with a bad value": (ValueError, "value: 'x'", lambda t: parse(t, b"user,item,v\n1,2,x\n", value="v")),
    "a value that is not finite": (ValueError, "value: nan", lambda t: parse(t, b"user,item,v\n1,2,nan\n", value="v")),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_wrong_input(name, tmp_path):
    error, words, call = TABLE[name]
    with pytest.raises(error, match=words):
        call(tmp_path)


def test_no_queries_are_legal():
    ids, scores = salience.topk(Q[:0], X, 2)
    assert ids.shape == scores.shape == (0, 2)
