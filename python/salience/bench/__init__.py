"""The harness: Salience beside other libraries on the same problem, interleaved, with the answers compared.

``salience bench`` and ``benchmarks/compare.py`` are its command. A :class:`Problem` is what everyone is given;
its adapters say how each peer does it; :func:`hold` measures. To add a peer: a line in ``PEERS`` and an adapter
beside the problem.
"""

from salience.bench.contest import Outcome, Problem, Result, Verdict, choose_peers, hold
from salience.bench.environment import machine, record_environment
from salience.bench.peers import PEERS, Peer, UnsupportedError
from salience.bench.results import markdown, milliseconds
from salience.bench.timing import interleave, take_turns

__all__ = [
    "PEERS",
    "Outcome",
    "Peer",
    "Problem",
    "Result",
    "UnsupportedError",
    "Verdict",
    "choose_peers",
    "hold",
    "interleave",
    "machine",
    "markdown",
    "milliseconds",
    "record_environment",
    "take_turns",
]
