"""SVG that belongs to the page: its colours and fonts are those of the style sheet, in light, dark and print.

matplotlib writes literal colours. The figures are drawn with a fixed set of them, each of which stands for a
variable of the style sheet and is replaced by it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

INK, QUIET, RULE, PAPER = "#100001", "#100002", "#100003", "#100004"
SERIES = tuple(f"#20000{digit}" for digit in "12345678")
_VARIABLES = {
    INK: "--ink",
    QUIET: "--quiet",
    RULE: "--rule",
    PAPER: "--paper",
    **{colour: f"--series-{n}" for n, colour in enumerate(SERIES, start=1)},
}
_SETTINGS = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.edgecolor": RULE,
    "axes.labelcolor": QUIET,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "ytick.major.size": 0.0,
    "text.color": INK,
    "text.parse_math": False,  # names are what they are, dollars and all
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}


def draw(name: str, size: tuple[float, float], paint: Callable[[Any], None]) -> str:
    """Draw a figure as SVG to be put into a page.

    Parameters
    ----------
    name : str
        Unique in the page: no identifier of this figure is in another.
    size : (float, float)
        Width and height in inches.
    paint : callable
        Given the empty matplotlib figure.

    Raises
    ------
    ImportError
        Where matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("report: needs matplotlib; pip install 'salience[report]'") from None
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        # It is the browser that draws the text, with whatever fonts it has.
        warnings.filterwarnings("ignore", r"Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _embed(buffer.getvalue(), name)


def _embed(svg: str, name: str) -> str:
    """Leave the bare element, with identifiers of its own, variables for colours and the page's font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    width, height = re.findall(r'(?:width|height)="([\d.]+)pt"', svg)[:2]
    size = f'style="max-width: {float(width) * 4 / 3:.0f}px"'
    return re.sub(rf'width="{width}pt"|height="{height}pt"', "", svg, count=2).replace("<svg", f"<svg {size}", 1)
