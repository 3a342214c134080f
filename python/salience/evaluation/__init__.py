"""How good recommendations are: metrics, leak-safe splits, evaluation of models and of lists."""

from salience.evaluation import metrics, splits
from salience.evaluation.cross_validation import cross_validate
from salience.evaluation.metrics import Metric, parse_metric, rank_hits, ranking_metrics
from salience.evaluation.report import Report
from salience.evaluation.runner import DEFAULT_METRICS, evaluate, evaluate_lists
from salience.evaluation.splits import Split

__all__ = [
    "DEFAULT_METRICS",
    "Metric",
    "Report",
    "Split",
    "cross_validate",
    "evaluate",
    "evaluate_lists",
    "metrics",
    "parse_metric",
    "rank_hits",
    "ranking_metrics",
    "splits",
]
