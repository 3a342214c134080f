"""The examples do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_classic_formula_is_what_the_scorer_computes(capsys):
    by_hand, scored = runpy.run_path(str(EXAMPLES / "classic_formula.py"))["main"]()
    assert scored == pytest.approx(by_hand, rel=1e-5)
    assert "0.5 x" in capsys.readouterr().out


def test_movies_are_recommended_with_reasons(data_folder, capsys):
    del data_folder
    model = runpy.run_path(str(EXAMPLES / "movies.py"))["main"]()
    assert model.component_names == ["collaborative", "genres", "tags", "history", "popularity"]
    assert "because of" in capsys.readouterr().out


def test_titles_are_a_modality_of_their_own(data_folder, capsys):
    del data_folder
    pytest.importorskip("wordllama")
    model = runpy.run_path(str(EXAMPLES / "movies.py"))["main"](with_titles=True)
    assert model.component_names[-1] == "titles"
    assert model.components[-1].features.shape == (9066, 256)
    assert "titles:" in capsys.readouterr().out


def test_articles_that_nobody_has_read_are_recommended_by_their_words(data_folder, capsys):
    del data_folder
    model = runpy.run_path(str(EXAMPLES / "articles.py"))["main"]()
    assert model.component_names == ["collaborative", "words", "neighbours", "popularity"]
    assert "words: {" in capsys.readouterr().out
