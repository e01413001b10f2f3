"""Figures of several judges stand beside each other, each under a name of its own."""

from types import SimpleNamespace

from flashjax.evaluate.judge import Figure, figures_of


def test_figures_of_one_name_are_told_apart_by_their_judges():
    def judge(name, *values):
        figures = tuple(Figure(key, value) for key, value in zip("ab", values, strict=False))
        return SimpleNamespace(name=name, judge=lambda images, prompts: figures)

    judges = [judge("scenes", 1.0, 2.0), judge("DINO", 3.0), judge("DINO", 4.0)]
    found = {figure.name: figure.value for figure in figures_of(judges, None, [])}
    assert found == {"a": 1.0, "b": 2.0, "a (DINO)": 3.0, "a (DINO 2)": 4.0}
