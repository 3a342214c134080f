"""The HTML document, read as text and looked at in Chromium."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from browser import browse
from salience import ALS, Collaborative, HybridScorer, ItemKNN, Popularity, Prior, datasets
from salience.evaluation import Report, evaluate, evaluate_lists, splits
from salience.evaluation.document import figures, write_html
from salience.evaluation.document.drawing import draw

METRICS = [f"{base}@{k}" for base in ("recall", "ndcg", "map", "coverage", "novelty", "diversity") for k in (5, 10, 20)]
FIGURES = ["by-cutoff", "by-history", "by-popularity", "accuracy-diversity", "attention-mixture", "training-loss"]


class Mixture:
    """A small hybrid: what the report needs of a model that mixes components."""

    component_names = ("collaborative", "popularity")

    def __init__(self, train):
        self.als = ALS(8, regularization=5.0, epochs=4).fit(train)
        self.history = np.diff(train.matrix.indptr)
        self.user_map, self.item_map = self.als.user_map, self.als.item_map
        self.loss_history_ = self.als.loss_history_
        self.recommend, self.score, self.explain = self.als.recommend, self.als.score, self.als.explain

    def attention(self, users):
        share = self.history[self.user_map.rows(users, argument="users")] / self.history.max()
        return np.column_stack([share, 1 - share])


@pytest.fixture(scope="module")
def made():
    catalogue = datasets.synthetic(200, 120)
    split = splits.random(catalogue.interactions)
    models = {"Mixture": Mixture(split.train), "Popularity": Popularity().fit(split.train)}
    reports = {
        name: evaluate(model, split.train, split.test, metrics=METRICS, item_features=catalogue.item_features)
        for name, model in models.items()
    }
    titles = dict(catalogue.titles)
    titles[next(iter(titles))] = '<b>Bold & "quoted"</b>'
    return split, models, reports, titles


@pytest.fixture(scope="module")
def document(made, tmp_path_factory):
    split, models, reports, titles = made
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_html(path, reports, models=models, train=split.train, titles=titles, title="A <title>", notes=["How & why."])
    return path


LONG = "A name of a model that nobody would want to type into a terminal, version 2"
ODD = (r"смесь $\alpha + \foo$", "смесь", LONG, "混合")


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    catalogue = datasets.synthetic(120, 80)
    split = splits.random(catalogue.interactions)
    crowd = Collaborative(ALS(4, epochs=2), name="what the crowd says, and some more words about it")
    mixed = HybridScorer([crowd, ItemKNN(20), Prior()], rounds=1).fit(split.train)
    models = dict(zip(ODD, (mixed, mixed, ALS(4, epochs=3).fit(split.train), mixed), strict=True))
    reports = {name: evaluate(model, split.train, split.test, metrics=METRICS[:6]) for name, model in models.items()}
    titles = {item: f"{title} {'very long ' * 9}{'unbroken' * 9}" for item, title in catalogue.titles.items()}
    path = tmp_path_factory.mktemp("odd") / "report.html"
    write_html(path, reports, models=models, train=split.train, titles=titles, title="длинный заголовок " * 9)
    return path


# In a browser


@pytest.fixture(scope="module")
def page(document, tmp_path_factory):
    with browse(tmp_path_factory.mktemp("profile")) as tab:
        tab.open(document)
        yield tab


def test_the_browser_notices_what_this_test_is_about(page, tmp_path, document):
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("boo"); missing()</script>')
    page.open(bad)
    page.evaluate("new Promise(done => setTimeout(done, 300))")
    complaints = " ".join(page.complaints())
    assert "boo" in complaints
    assert "missing is not defined" in complaints
    assert page.requests() == ["http://127.0.0.1:9/x.png"]
    page.open(document)


def test_no_complaints_and_no_requests(page, document):
    page.open(document)
    for scheme in ("light", "dark"):
        page.colours(scheme)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert page.complaints() == []
    assert page.requests() == []


def test_every_plot_is_present_and_painted(page):
    sizes = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('section.figure')].map(s => {"
        "const box = s.querySelector('svg').getBoundingClientRect();"
        "return [s.id, [box.width, box.height, s.querySelectorAll('svg path, svg use, svg text').length]]}))"
    )
    assert list(sizes) == FIGURES
    for name, (width, height, shapes) in sizes.items():
        assert width > 300, name
        assert height > 100, name
        assert shapes > 20, name
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") == page.evaluate(
        "document.querySelectorAll('[id]').length"
    )
    dangling = page.evaluate(
        "[...document.querySelectorAll('use')].filter(u => !document.querySelector(u.getAttribute('xlink:href'))).length"
    )
    assert dangling == 0


LUMINANCE = """
(selector, property) => [...document.querySelectorAll(selector)].map(e => {
  const [r, g, b] = getComputedStyle(e)[property].match(/[\\d.]+/g).map(v => {
    v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4});
  return 0.2126 * r + 0.7152 * g + 0.0722 * b})
"""


@pytest.mark.parametrize(("scheme", "media"), [("light", "screen"), ("dark", "screen"), ("dark", "print")])
def test_text_and_lines_stand_out(page, scheme, media):
    """Contrast by WCAG 2: 4.5 for text, 3 for what lines and points show."""
    page.colours(scheme, media)
    paper = page.evaluate(f"({LUMINANCE})('html', 'backgroundColor')[0]")
    assert (paper < 0.05) == (scheme == "dark" and media == "screen")

    def contrast(selector, name):
        values = page.evaluate(f"({LUMINANCE})({selector!r}, {name!r})")
        assert values, selector
        return min((max(paper, v) + 0.05) / (min(paper, v) + 0.05) for v in values)

    for selector in ("body", "h2", ".quiet", "figcaption", "thead th"):
        assert contrast(selector, "color") >= 4.5, selector
    assert contrast("section.figure svg text", "fill") >= 4.5
    assert contrast(".key", "backgroundColor") >= 3
    page.colours("light")


def test_nothing_is_cut_off(page):
    page.colours("light")
    for width in (1200, 400):
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.call("Emulation.clearDeviceMetricsOverride")


WIDE = """[...document.querySelectorAll('table, .lists > div')]
  .filter(t => t.getBoundingClientRect().right > innerWidth).map(t => t.textContent.slice(0, 40))"""
OUTSIDE = """[...document.querySelectorAll('svg text')].filter(t => {
  const box = t.getBoundingClientRect(), all = t.ownerSVGElement.getBoundingClientRect();
  return box.left < all.left - 3 || box.right > all.right + 3}).map(t => t.textContent)"""


@pytest.mark.parametrize(("width", "media"), [(1200, "screen"), (400, "screen"), (672, "print")])
def test_odd_names_and_long_ones_fit(page, odd, width, media):
    """On screens and on paper (A4 less its margins); labels of figures stay inside them."""
    page.open(odd)
    page.colours("light", media)
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE) == []
    if media == "print":  # where nothing scrolls
        assert page.evaluate(WIDE) == []
    page.call("Emulation.clearDeviceMetricsOverride")
    page.colours("light")
    different = page.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size")
    assert different == page.evaluate("document.querySelectorAll('[id]').length")


def test_it_prints(page, document):
    page.open(document)
    printed = page.pdf()
    assert printed.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 15


# As text


class Texts(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href", "data", "action")]

    def handle_data(self, data):
        self.texts.append(data)


def read(path):
    parser = Texts()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def test_it_is_self_contained(document):
    found = read(document)
    assert not {"script", "iframe", "object", "embed", "img"} & set(found.tags)
    assert all(link.startswith(("#", "data:,")) for link in found.links)
    assert "@import" not in document.read_text()
    assert re.findall(r"url\((?!#)", document.read_text()) == []


def test_it_says_what_was_measured(document, made):
    _, _, reports, titles = made
    text = " ".join(" ".join(read(document).texts).split())
    for name, report in reports.items():
        assert name in text
        assert f"{report.values['ndcg@20']:.4f}" in text
    assert "A <title>" in text
    assert "How & why." in text
    assert "paired randomization tests" in text
    assert "because of" in text
    assert "nothing found" in text or "with a hit" in text
    assert "binary gains, log2 discount" in text
    assert next(iter(titles.values())) in text or "<b>" not in text
    assert "<b>Bold" not in document.read_text()


def test_hits_are_those_of_the_test_part(made, tmp_path):
    split, models, reports, _ = made
    user = split.test.users[int(np.argmax(np.diff(split.test.matrix.indptr)))]
    model = models["Popularity"]
    path = tmp_path / "one.html"
    write_html(path, {"Popularity": reports["Popularity"]}, models={"Popularity": model}, users=[user], k=20)
    row = int(split.test.user_map.rows([user])[0])
    tested = set(split.test.items[split.test.matrix[row].indices].tolist())
    hits = tested & set(model.recommend([user], 20).ids[0].tolist())
    assert path.read_text().count(">chosen<") == len(hits)
    assert f"{len(hits)} of {len(tested)} found" in path.read_text()


def test_a_report_alone_draws_what_it_can(tmp_path):
    report = evaluate_lists({1: [1, 2], 2: [2, 3]}, {1: {1: 1}, 2: {9: 1}}, metrics=["ndcg@2"])
    report.to_html(tmp_path / "small.html", name="tiny", title="Tiny")
    found = read(tmp_path / "small.html")
    assert "svg" not in found.tags
    assert "tiny" in found.texts


def test_saved_reports_make_the_same_figures(made, tmp_path):
    _, _, reports, _ = made
    loaded = {}
    for name, report in reports.items():
        report.save(tmp_path / f"{name}.json")
        loaded[name] = Report.load(tmp_path / f"{name}.json")
    for name, source in (("a", reports), ("b", loaded)):
        write_html(tmp_path / f"{name}.html", source)
    assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"reports": {}}, TypeError, "reports: .*; expected a mapping of names to Reports"),
        ({"reports": {"a": 3}}, TypeError, "reports: .* under 'a'"),
        ({"models": {"other": 1}}, ValueError, "models: 'other'; expected names of reports: Mixture, Popularity"),
        ({"metric": "ndcg@7"}, ValueError, "metric: 'ndcg@7'; expected one that 'Mixture' has"),
        ({"level": 1.5}, ValueError, "level"),
    ],
)
def test_bad_input_leaves_no_file(made, tmp_path, arguments, error, words):
    options = {"reports": made[2], **arguments}
    with pytest.raises(error, match=words):
        write_html(tmp_path / "bad.html", options.pop("reports"), **options)
    assert list(tmp_path.iterdir()) == []


def test_reports_on_other_users_are_not_put_together(made, tmp_path):
    split, models, reports, _ = made
    fewer = split.test.select(split.test.rows < 50)
    other = evaluate(models["Popularity"], split.train, fewer, metrics=METRICS[:3])
    with pytest.raises(ValueError, match="'fewer' is about other users than 'all'"):
        write_html(tmp_path / "bad.html", {"all": reports["Popularity"], "fewer": other})


@pytest.mark.parametrize("weights", [np.ones(3), np.ones((2, 2)), "nan"])
def test_wrong_attention_is_an_error(made, tmp_path, weights):
    reports = made[2]

    class Wrong:
        def attention(self, users):
            return np.full((len(users), 2), np.nan) if isinstance(weights, str) else weights

    with pytest.raises(ValueError, match="models: attention of 'Mixture' has shape"):
        write_html(tmp_path / "bad.html", {"Mixture": reports["Mixture"]}, models={"Mixture": Wrong()})


def test_figures_do_not_share_identifiers():
    first, second = (draw(name, (3, 2), lambda f: f.subplots().plot([1, 2])) for name in ("one", "two"))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert not re.findall(r"#[12]0000\d", first + second)
    assert first == draw("one", (3, 2), lambda f: f.subplots().plot([1, 2]))


def test_names_are_not_read_as_formulas(odd):
    found = read(odd)
    assert any(text.startswith(r"смесь $\alpha + \foo$: what the") for text in found.texts)
    assert re.findall(r'<section class="figure" id="(attention[^"]*)"', odd.read_text(encoding="utf-8")) == [
        "attention-alpha----foo", "attention-model", "attention-model-2",
    ]  # fmt: skip


def test_negative_attention_is_left_of_zero():
    weights = np.array([[0.6, -0.4], [0.6, -0.4]])
    figure = figures.attention("m", weights, np.array([3, 9]), ["a", "b"], anchor="x")
    assert "\N{MINUS SIGN}0.4" in figure.svg
    assert ("9", "b", "-0.4000") in figure.rows


def test_one_user_has_no_interval(made, tmp_path):
    split, models, _, _ = made
    one = split.test.select(split.test.rows == split.test.rows[0])
    metrics = ["ndcg@5", "ndcg@10"]
    reports = {name: evaluate(model, split.train, one, metrics=metrics) for name, model in models.items()}
    write_html(tmp_path / "one.html", reports)
    text = " ".join(" ".join(read(tmp_path / "one.html").texts).split())
    assert "nan" not in text.replace("nance", "")
    assert "ndcg@10, 1 user " in text


def test_the_protocol_is_that_of_the_reports(made, tmp_path):
    split, models, _, _ = made
    with pytest.warns(UserWarning, match="sampled"):
        few = evaluate(models["Popularity"], split.train, split.test, metrics=["ndcg@5"], sampled=10)
    few.to_html(tmp_path / "few.html")
    assert "Models rank all items" not in (tmp_path / "few.html").read_text()
    assert "10 SAMPLED candidates" in (tmp_path / "few.html").read_text()


# Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009, full severity; on linear RGB.
EYES = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def cielab(linear):
    ratios = linear @ np.transpose(XYZ) / [0.95047, 1.0, 1.08883]
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("eyes", EYES)
def test_series_differ_to_all_eyes(document, eyes):
    """By more than 10 in CIELAB, where 2 can just be told apart side by side; and from the paper by 3 to 1."""
    blocks = re.findall(r"--paper: (#\w+);.*?((?:--series-\d: #\w+;\s*)+)", document.read_text(), re.DOTALL)
    assert len(blocks) == 3
    for paper, series in blocks:
        codes = [paper if len(paper) == 7 else f"#{paper[1] * 6}", *re.findall(r"#\w+", series)]
        assert len(codes) == 9
        rgb = np.array([[int(code[n : n + 2], 16) for n in (1, 3, 5)] for code in codes]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        light = linear @ XYZ[1] + 0.05
        assert np.maximum(light[1:] / light[0], light[0] / light[1:]).min() >= 3
        lab = cielab(np.clip(linear[1:] @ np.transpose(EYES[eyes]), 0, 1))
        apart = np.linalg.norm(lab[:, None] - lab, axis=2)[np.triu_indices(8, 1)]
        assert apart.min() > 10, (paper, apart.min())


# What example users are shown


@pytest.mark.parametrize("kind", ["neighbours", "hybrid"])
def test_reasons_are_past_items_with_what_they_add(kind, tmp_path):
    """A hybrid's contributions are of components: the past items' own are what belongs beside them."""
    catalogue = datasets.synthetic(150, 80)
    split = splits.random(catalogue.interactions)
    model = ItemKNN(20) if kind == "neighbours" else HybridScorer([ALS(4, epochs=2), ItemKNN(20)])
    model.fit(split.train)
    report = evaluate(model, split.train, split.test, metrics=["ndcg@10"])
    user = split.train.users[3]
    titles = {item: f"T{item}" for item in split.train.items.tolist()}
    write_html(tmp_path / "r.html", {"m": report}, models={"m": model}, train=split.train, titles=titles, users=[user])
    shown = re.findall(r"(T\d+) \(([+-]\d+\.\d+)\)", re.sub(r"\s+", " ", (tmp_path / "r.html").read_text()))
    expected = []
    for item in model.recommend([user], 10).ids[0].tolist():
        reason = model.explain(user, item)
        past, added = reason if kind == "neighbours" else (reason.items, reason.item_contributions.sum(axis=1))
        expected += [
            (f"T{a}", f"{b:+.3f}") for a, b in zip(past[:2].tolist(), added[:2].tolist(), strict=True) if b > 0
        ]
    assert shown == expected != []


def test_users_who_were_not_trained_on_are_shown_as_they_were_measured(tmp_path):
    catalogue = datasets.synthetic(150, 80)
    split = splits.held_out_users(catalogue.interactions)
    models = {"als": ALS(4).fit(split.train), "mixed": HybridScorer([ALS(4, epochs=2), ItemKNN(20)]).fit(split.train)}
    reports = {
        name: evaluate(
            model, split.train, split.test, metrics=["ndcg@5", "ndcg@10"], fold_in=split.fold_in, keep_lists=True
        )
        for name, model in models.items()
    }
    titles = {item: f"T{item}" for item in split.train.items.tolist()}
    user = split.test.users[int(split.test.rows[0])]
    options = {"models": models, "train": split.train, "fold_in": split.fold_in, "titles": titles, "users": [user]}
    write_html(tmp_path / "r.html", reports, **options)
    text = re.sub(r"\s+", " ", (tmp_path / "r.html").read_text())
    row = int(np.flatnonzero(reports["als"].users["ndcg@10"] == user)[0])
    for report in reports.values():
        for item in report.lists[row, :10].tolist():
            assert f"T{item}" in text
    past = split.fold_in.matrix[[int(split.test.rows[0])]]
    assert f"had {past.nnz} items" in text
    assert 'id="attention-mixed"' in text
    assert "mixed: collaborative" in text
    bare = {name: evaluate(model, split.train, split.test, metrics=["ndcg@10"], fold_in=split.fold_in)
            for name, model in models.items()}  # fmt: skip
    with pytest.raises(ValueError, match="expected reports made with keep_lists=True"):
        write_html(tmp_path / "r.html", bare, **options)
