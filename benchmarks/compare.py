"""Salience beside other libraries: interleaved runs, medians, answers checked, table, JSON and picture.

    python benchmarks/compare.py topk --shapes 256x50000x64x10,1x1000000x128x10 --json topk.json --png topk.png
    python benchmarks/compare.py als gowalla --factors 64,128 --peers implicit,irspack
    python benchmarks/compare.py evaluate --shapes 30000x41000x64
    python benchmarks/compare.py hybrid gowalla --rank 64 --attention linear

The same command as ``salience bench``; ``--help`` lists what each operation takes.
"""

from __future__ import annotations

import sys

from salience.cli import main

if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
