"""How good recommendations are: metrics, leak-safe splits, evaluation, comparison."""

from salience.evaluation import metrics, splits, statistics
from salience.evaluation.beyond import Lists
from salience.evaluation.comparison import Comparison, Pair, compare
from salience.evaluation.cross_validation import cross_validate
from salience.evaluation.lists import read_qrels, read_run
from salience.evaluation.metrics import Metric, metric_names, parse_metric, rating_metrics
from salience.evaluation.prequential import PrequentialReport, plot_prequential, prequential
from salience.evaluation.ranks import Ranks, factor_lists, factor_ranks, list_ranks, score_ranks
from salience.evaluation.report import HeldOut, Report
from salience.evaluation.runner import DEFAULT_METRICS, evaluate, evaluate_lists
from salience.evaluation.search import SearchResult, Trial, Uniform, search
from salience.evaluation.slices import Slices
from salience.evaluation.sources import BlockScores, Factors
from salience.evaluation.splits import Split
from salience.evaluation.tradeoff import TradeoffCurve, tradeoff_curve

__all__ = [
    "DEFAULT_METRICS",
    "BlockScores",
    "Comparison",
    "Factors",
    "HeldOut",
    "Lists",
    "Metric",
    "Pair",
    "PrequentialReport",
    "Ranks",
    "Report",
    "SearchResult",
    "Slices",
    "Split",
    "TradeoffCurve",
    "Trial",
    "Uniform",
    "compare",
    "cross_validate",
    "evaluate",
    "evaluate_lists",
    "factor_lists",
    "factor_ranks",
    "list_ranks",
    "metric_names",
    "metrics",
    "parse_metric",
    "plot_prequential",
    "prequential",
    "rating_metrics",
    "read_qrels",
    "read_run",
    "score_ranks",
    "search",
    "splits",
    "statistics",
    "tradeoff_curve",
]
