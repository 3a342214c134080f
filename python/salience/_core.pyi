from typing import Any

import numpy as np
import numpy.typing as npt

_Float32 = npt.NDArray[np.float32]
_Int32 = npt.NDArray[np.int32]
_Int64 = npt.NDArray[np.int64]

__version__: str
packed_block_rows: int

class Index:
    @property
    def rows(self) -> int: ...
    @property
    def present(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def type(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @staticmethod
    def build(items: npt.NDArray[Any], type: str, metric: str, threads: int) -> Index: ...
    @staticmethod
    def restore(items: npt.NDArray[Any], type: str, metric: str, parts: dict[str, Any], threads: int) -> Index: ...
    def add(self, vectors: npt.NDArray[Any], threads: int) -> Index: ...
    def update(self, rows: _Int64, vectors: npt.NDArray[Any], threads: int) -> Index: ...
    def remove(self, rows: _Int64) -> Index: ...
    def search(
        self,
        queries: _Float32,
        k: int,
        exclude: tuple[_Int64, _Int32] | None,
        allowed: npt.NDArray[np.bool_] | None,
        threads: int,
        path: str = "auto",
        additions: tuple[tuple[_Int64, _Int32], _Float32] | None = None,
        gates: tuple[_Float32, _Float32] | None = None,
        labels: _Int64 | None = None,
    ) -> tuple[_Int64, _Float32]: ...
    def block(self, number: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]: ...
    def description(self) -> dict[str, Any]: ...

def encoding() -> str: ...
def config() -> dict[str, Any]: ...
def use_instruction_set(name: str) -> None: ...
def machine_limits(threads: int) -> dict[str, float]: ...
def similarity(a: _Float32, b: _Float32, metric: str, threads: int) -> _Float32: ...
def topk(
    queries: _Float32,
    items: npt.NDArray[Any],
    type: str,
    k: int,
    metric: str,
    exclude: tuple[_Int64, _Int32] | None,
    allowed: npt.NDArray[np.bool_] | None,
    threads: int,
    path: str = "auto",
) -> tuple[_Int64, _Float32]: ...
def probe_screening(
    queries: _Float32, items: _Float32, metric: str, path: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]: ...
def select(scores: npt.NDArray[Any], k: int, threads: int) -> tuple[_Int64, npt.NDArray[Any]]: ...
def gramian(factors: _Float32, threads: int) -> npt.NDArray[np.float64]: ...
def rotate(factors: _Float32, rotation: _Float32, threads: int) -> None: ...
def half_step(
    indptr: _Int64,
    indices: _Int32,
    values: _Float32,
    design: _Float32,
    solution: _Float32,
    diagonal: _Float32,
    ridge: _Float32,
    *,
    is_explicit: bool = False,
    alpha: float = 1.0,
    shift: _Float32 | None = None,
    prior: _Float32 | None = None,
    dense: npt.NDArray[np.float64] | None = None,
    solver: str = "auto",
    steps: int = 2,
    tolerance: float = 0.0,
    block: int = 64,
    relaxation: float = 1.0,
    with_data_loss: bool = False,
    threads: int = 0,
) -> dict[str, float]: ...
def random_normal(seed: int, stream: int, rows: int, columns: int, threads: int = 0) -> _Float32: ...

rank_formulas: dict[str, int]
_Pattern = tuple[_Int64, _Int32]
_Ranks = tuple[_Int64, _Int64, _Int64, _Int64]

def factor_ranks(
    queries: _Float32,
    items: _Float32,
    relevant: _Pattern,
    exclude: _Pattern | None,
    allowed: npt.NDArray[np.bool_] | None,
    depth: int,
    threads: int,
) -> tuple[_Ranks, _Int64]: ...
def score_ranks(
    scores: npt.NDArray[Any],
    relevant: _Pattern,
    exclude: _Pattern | None,
    allowed: npt.NDArray[np.bool_] | None,
    threads: int,
) -> _Ranks: ...
def list_ranks(recommended: _Int64, relevant: _Pattern, items: int, threads: int) -> _Ranks: ...
def rank_metrics(
    relevant: _Pattern,
    gains: _Float32 | None,
    ranks: _Int64,
    lengths: _Int64,
    better: _Int64,
    equal: _Int64,
    items: int,
    formulas: list[tuple[int, int, float]],
    threads: int,
) -> npt.NDArray[np.float64]: ...
def diversify(
    items: _Int64, scores: _Float32, vectors: _Float32, k: int, diversity: str, trade_off: float, threads: int
) -> _Int64: ...
def calibrate(
    items: _Int64,
    scores: _Float32,
    categories: _Pattern,
    shares: _Float32,
    targets: npt.NDArray[np.float64],
    k: int,
    trade_off: float,
    threads: int,
) -> _Int64: ...
def unit_rows(vectors: _Float32, threads: int) -> _Float32: ...
def attend(
    units: _Float32,
    history: _Pattern,
    log_weights: npt.NDArray[np.float64] | None,
    candidates: _Int64,
    temperature: float,
    smoothing: float,
    threads: int,
) -> _Float32: ...
