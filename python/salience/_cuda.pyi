from typing import Any

import numpy as np
import numpy.typing as npt

_Pattern = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]
_Additions = tuple[_Pattern, npt.NDArray[np.float32]]
_Gates = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
_Report = dict[str, int]

class View:
    def __init__(self, address: int, rows: int, columns: int, row_stride: int, type: str, on_device: bool) -> None: ...

class DeviceArray:
    def __init__(self, rows: int, columns: int, typestr: str, stream: int | None) -> None: ...
    def assign(self, source: npt.NDArray[Any]) -> None: ...
    def numpy(self) -> npt.NDArray[Any]: ...
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...

class Index:
    @property
    def rows(self) -> int: ...
    @property
    def present(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def type(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def device(self) -> int: ...
    @staticmethod
    def build(items: View, present: npt.NDArray[np.bool_] | None, metric: str, stream: int | None) -> Index: ...
    def add(self, vectors: View, stream: int | None) -> Index: ...
    def update(self, rows: npt.NDArray[np.int64], vectors: View, stream: int | None) -> Index: ...
    def remove(self, rows: npt.NDArray[np.int64]) -> Index: ...
    def search(
        self,
        queries: View,
        k: int,
        exclude: _Pattern | None,
        allowed: View | None,
        ids: View,
        scores: View,
        stream: int | None,
        path: str = "auto",
        additions: _Additions | None = None,
        gates: _Gates | None = None,
        labels: npt.NDArray[np.int64] | None = None,
        tuning: dict[str, int] = ...,
    ) -> _Report: ...
    def download(self) -> npt.NDArray[Any]: ...
    def present_flags(self) -> npt.NDArray[np.uint8] | None: ...

class Factors:
    def __init__(self, rows: int, columns: int) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    def upload(self, source: npt.NDArray[np.float32]) -> None: ...
    def download(self, to: npt.NDArray[np.float32]) -> None: ...
    def copy(self) -> Factors: ...

class Rows:
    def __init__(
        self,
        indptr: npt.NDArray[np.int64],
        indices: npt.NDArray[np.int32],
        values: npt.NDArray[np.float32],
        columns: int,
        block_bytes: int,
    ) -> None: ...
    @property
    def blocks(self) -> int: ...

class Features:
    def __init__(
        self,
        indptr: npt.NDArray[np.int64],
        indices: npt.NDArray[np.int32],
        values: npt.NDArray[np.float32],
        transposed_indptr: npt.NDArray[np.int64],
        transposed_indices: npt.NDArray[np.int32],
        transposed_values: npt.NDArray[np.float32],
    ) -> None: ...
    def multiply(
        self, weights: Factors, keep: npt.NDArray[np.float32] | None, out: Factors, workspace: int
    ) -> None: ...
    def multiply_transposed(
        self, strength: npt.NDArray[np.float32], factors: Factors, rows: int, workspace: int
    ) -> npt.NDArray[np.float64]: ...

def half_step(
    rows: Rows,
    design: Factors,
    solution: Factors,
    diagonal: npt.NDArray[np.float32],
    ridge: npt.NDArray[np.float32],
    *,
    prior: Factors | None = None,
    is_explicit: bool = False,
    alpha: float = 1.0,
    mean: float = 0.0,
    solver: str = "auto",
    steps: int = 2,
    tolerance: float = 0.0,
    relaxation: float = 1.0,
    with_data_loss: bool = False,
    half_gathers: bool = True,
    workspace: int = ...,
) -> dict[str, float]: ...
def gramian(factors: Factors, columns: int, workspace: int) -> npt.NDArray[np.float64]: ...
def rotate(factors: Factors, rotation: npt.NDArray[np.float32], workspace: int) -> None: ...
def ridge_loss(factors: Factors, prior: Factors | None, ridge: npt.NDArray[np.float32]) -> float: ...
def fill_empty(rows: Rows, factors: Factors, prior: Factors) -> None: ...
def explain(
    indptr: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int32],
    values: npt.NDArray[np.float32],
    design: Factors,
    diagonal: npt.NDArray[np.float32],
    ridge: npt.NDArray[np.float32],
    *,
    prior: npt.NDArray[np.float32] | None,
    is_explicit: bool,
    alpha: float,
    mean: float,
    targets: npt.NDArray[np.float32],
    history: npt.NDArray[np.int32],
    first_part: npt.NDArray[np.int64],
    part_count: int,
    workspace: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]: ...
def attend(
    units: Factors,
    history: _Pattern,
    log_weights: npt.NDArray[np.float64] | None,
    candidates: npt.NDArray[np.int64],
    temperature: float,
    smoothing: float,
) -> npt.NDArray[np.float32]: ...
def unavailable() -> str: ...
def device() -> dict[str, Any]: ...
def similarity(a: View, b: View, metric: str, out: View, stream: int | None) -> None: ...
def select(scores: View, k: int, ids: View, values: View, stream: int | None) -> None: ...
def topk(
    queries: View,
    items: View,
    k: int,
    metric: str,
    exclude: _Pattern | None,
    allowed: View | None,
    ids: View,
    scores: View,
    stream: int | None,
    path: str = "auto",
    additions: _Additions | None = None,
    gates: _Gates | None = None,
    labels: npt.NDArray[np.int64] | None = None,
    tuning: dict[str, int] = ...,
) -> _Report: ...
def probe_screening(
    queries: npt.NDArray[np.float32], items: npt.NDArray[np.float32], metric: str, path: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]: ...
