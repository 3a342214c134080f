"""An array on the device that belongs to no known library."""

from __future__ import annotations

import numpy as np


class StandIn:
    """An array of no known library that offers the interface; rows may lie apart."""

    def __init__(self, module, array, *, stride=None, stream=None):
        array = np.ascontiguousarray(array)
        wide = np.zeros((array.shape[0], stride or array.shape[1]), array.dtype)
        wide[:, : array.shape[1]] = array
        self._memory = module.DeviceArray(*wide.shape, wide.dtype.str, None)
        self._memory.assign(wide)
        strides = None if stride is None else (stride * array.itemsize, array.itemsize)
        self.__cuda_array_interface__ = {
            **self._memory.__cuda_array_interface__, "shape": array.shape, "strides": strides, "stream": stream,
        }  # fmt: skip
