"""The libraries that are measured beside Salience: what they are called, whether they are here, their threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from typing import Any

from threadpoolctl import ThreadpoolController, threadpool_limits


class UnsupportedError(Exception):
    """A peer cannot be asked for this problem; the message says why."""


@dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Attributes
    ----------
    name : str
        What it is called here and on the command line.
    module : str
        What is imported.
    package : str
        What is installed.
    """

    name: str
    module: str
    package: str

    @property
    def installed(self) -> bool:
        """Whether Python finds the module; it may still fail to import."""
        return find_spec(self.module) is not None

    @cached_property
    def version(self) -> str:
        """Name the version of the distribution that provides the module, and the distribution if it is another.

        (RecTools brings a build of implicit under the module name of the original.)
        """
        providers = packages_distributions().get(self.module, [])
        if not providers:
            return "unknown"
        named = [provider for provider in providers if provider.lower() == self.package]
        return version(named[0]) if named else f"{providers[0]} {version(providers[0])}"


PEERS = {
    peer.name: peer
    for peer in (
        Peer("faiss", "faiss", "faiss-cpu"),
        Peer("implicit", "implicit", "implicit"),
        Peer("irspack", "irspack", "irspack"),
        Peer("lenskit", "lenskit", "lenskit"),
        Peer("numpy", "numpy", "numpy"),
        Peer("ranx", "ranx", "ranx"),
        Peer("rectools", "rectools", "rectools"),
        Peer("surprise", "surprise", "scikit-surprise"),
        Peer("torch", "torch", "torch"),
        Peer("usearch", "usearch", "usearch"),
    )
}


def thread_limit(threads: int, *, blas_only: bool = False) -> contextlib.AbstractContextManager[Any]:
    """Hold BLAS (and OpenMP) to ``threads`` while the block runs."""
    limits: contextlib.AbstractContextManager[Any] = threadpool_limits(threads, user_api="blas" if blas_only else None)
    return limits


def on_one_blas_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """Hold BLAS to one thread during ``call``, which has threads of its own.

    What libraries ask for who call BLAS from several threads; better for many queries, and worse for few.
    """
    controller = ThreadpoolController()

    def run() -> Any:
        with controller.limit(limits=1, user_api="blas"):
            return call()

    return run


def by_blas_threads(name: str, call: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    """Let a library with threads of its own take turns with BLAS as it is and with BLAS on one thread."""
    return {name: call, f"{name}, one BLAS thread": on_one_blas_thread(call)}
