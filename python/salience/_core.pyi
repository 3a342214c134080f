from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

__version__: str

def config() -> dict[str, Any]: ...
def similarity(a: Float32, b: Float32, metric: str, threads: int) -> Float32: ...
def topk(
    queries: Float32,
    items: Float32,
    k: int,
    metric: str,
    exclude: tuple[Int64, Int32] | None,
    allowed: npt.NDArray[np.bool_] | None,
    threads: int,
) -> tuple[Int64, Float32]: ...
def select(scores: npt.NDArray[Any], k: int, threads: int) -> tuple[Int64, npt.NDArray[Any]]: ...
def gramian(factors: Float32, threads: int) -> npt.NDArray[np.float64]: ...
def rotate(factors: Float32, rotation: Float32, threads: int) -> None: ...
def half_step(
    indptr: Int64,
    indices: Int32,
    values: Float32,
    design: Float32,
    is_explicit: bool,
    alpha: float,
    offset: float,
    diagonal: Float32,
    ridge: Float32,
    solution: Float32,
    steps: int,
    tolerance: float,
    threads: int,
) -> tuple[float, float, int]: ...
def row_loss(
    indptr: Int64,
    indices: Int32,
    values: Float32,
    design: Float32,
    is_explicit: bool,
    alpha: float,
    offset: float,
    solution: Float32,
    threads: int,
) -> npt.NDArray[np.float64]: ...
def random_normal(seed: int, stream: int, rows: int, columns: int) -> Float32: ...
