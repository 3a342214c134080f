"""A scorer that lives: predict, then learn, event by event in time order.

    SALIENCE_DATA=... python benchmarks/quality/prequential.py            # ml-latest-small, its second half
    python benchmarks/quality/prequential.py --nightly                    # and with components fitted anew each night
    python benchmarks/quality/prequential.py --tune                       # how the rates of Feedback were chosen
    python benchmarks/quality/prequential.py --memory                     # a million events pass

The model is fitted on the first half of the ratings in time order, as interactions; each later rating is predicted (the
NDCG@10 of the film among all films that the user has not rated) and then observed. The rates were chosen on the events
from 30 to 50 % of the stream, with a model fitted on the first 30 % (--tune): the second half took no part in it.
"""

from __future__ import annotations

import argparse
import copy
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from salience import ALS, Collaborative, Content, History, HybridScorer, Interactions, ItemKNN, Prior
from salience.datasets import load_movielens, movielens_genres
from salience.evaluation import PrequentialReport, plot_prequential, prequential
from salience.hybrid import Events, Feedback

DAY = 86_400
FROZEN = Feedback(rate=0.0, user_rate=0.0, refresh=None)
SETTINGS = {
    "histories alone": FROZEN,
    "and the item side": Feedback(rate=0.0, user_rate=0.0),
    "rate 0.02, user 0": Feedback(rate=0.02, user_rate=0.0),
    "rate 0.02, user 0.3": Feedback(rate=0.02),
    "rate 0.05, user 0.3": Feedback(),
    "rate 0.005, user 0.1": Feedback(rate=0.005, user_rate=0.1),
}


def part(data: Interactions, begin: float, end: float) -> Interactions:
    """Take the interactions between two shares of the stream."""
    order = np.argsort(data.times, kind="stable")
    mask = np.zeros(len(data), bool)
    mask[order[int(begin * len(data)) : int(end * len(data))]] = True
    return data.select(mask)


def only_known_users(data: Interactions) -> Interactions:
    """Leave out users without interactions, who are to be new."""
    return Interactions.from_frame(data.to_frame(), user="user", item="item", value="value", time="time")


def movies(data: Interactions, train: Interactions, **how: Any) -> HybridScorer:
    genres = movielens_genres(data.items)[0]
    components = [
        Collaborative(ALS(32)), Content(genres, items=data.items, name="genres"),
        History(ItemKNN(100, weighting="degree", binary=True)), Prior(),
    ]  # fmt: skip
    return HybridScorer(components, most_users=600, **how).fit(only_known_users(train))


def live(model: HybridScorer, feedback: Feedback) -> HybridScorer:
    """Copy a scorer that is to learn in its own way."""
    twin = copy.copy(model)
    twin.feedback = feedback
    return twin


def line(name: str, report: PrequentialReport, frozen: PrequentialReport | None) -> None:
    low, high = report.interval()
    text = f"{name:>24}  " + "  ".join(f"{metric} {value:.4f}" for metric, value in report.values.items())
    text += f"  ({low:.4f} to {high:.4f})"
    if frozen is not None:
        text += "  against frozen {:+.4f} to {:+.4f}".format(*report.interval(frozen))
    print(text, flush=True)
    for call, (median, high, most) in report.latency().items():
        print(f"{'':>24}  {call}: p50 {median:.2f} ms, p99 {high:.2f} ms, at most {most:.0f} ms", flush=True)


def stream(data: Interactions, plot: str | None, nightly: bool) -> None:
    model, events = movies(data, part(data, 0.0, 0.5)), part(data, 0.5, 1.0)
    print(f"{model.component_names}, {len(events):,} events", flush=True)
    reports: dict[str, PrequentialReport] = {}

    def run(name: str, feedback: Feedback, learn: bool = True, each: Callable[[Any], Any] | None = None) -> None:
        period = None if each is None else DAY
        reports[name] = prequential(live(model, feedback), events, learn=learn, period=period, each_period=each)
        line(name, reports[name], reports.get("frozen"))

    run("frozen", FROZEN, learn=False)
    run("histories alone", FROZEN)
    run("online", Feedback())
    if nightly:
        run("online, nightly refit", Feedback(refresh=None), each=lambda scorer: scorer.refresh(anew=True))
        ratio = reports["online, nightly refit"].values["ndcg@10"] / reports["online"].values["ndcg@10"]
        print(f"nightly refit / online: {ratio:.4f}")
    if plot is not None:
        plot_prequential(reports, plot, window=5000)


def tune(data: Interactions) -> None:
    model, events = movies(data, part(data, 0.0, 0.3)), part(data, 0.3, 0.5)
    for name, feedback in SETTINGS.items():
        line(name, prequential(live(model, feedback), events), None)


def memory(data: Interactions, learn: bool, count: int) -> None:
    """Print memory while random events, most of them on popular films, pass; attention learns from them or not."""
    rates = {} if learn else {"rate": 0.0, "user_rate": 0.0}
    model = live(movies(data, part(data, 0.0, 0.5)), Feedback(history_limit=100, refresh=0.2, **rates))
    random = np.random.default_rng(0)
    users, items = model.user_map.ids, model.item_map.ids
    moment = int(data.times.max())
    batch = 10_000
    for start in range(0, count, batch):
        chosen = np.minimum(random.geometric(0.002, batch), len(items)) - 1
        events = Events.of(
            random.choice(users, batch), items[chosen], random.integers(-1, 2, batch),
            times=moment + np.arange(start, start + batch),
        )  # fmt: skip
        model.observe(events)
        if (start + batch) % (count // 10) == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
            print(f"{start + batch:>9,} events: {resident:.0f} MiB, peak {peak:.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nightly", action="store_true")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--plot", metavar="FILE")
    given = parser.parse_args()
    data = load_movielens()
    if given.tune:
        tune(data)
    elif given.memory:
        memory(data, learn=False, count=1_000_000)
        memory(data, learn=True, count=100_000)
    else:
        stream(data, given.plot, given.nightly)


if __name__ == "__main__":
    main()
