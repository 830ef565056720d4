"""Colours: text can be read, both tones of a hue can be told apart."""

import pytest

from flowagent.pictures.theme import THEMES, colours, contrast, mixed, tones

themes = pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@themes
def test_texts_can_be_read(theme):
    assert contrast(theme.ink, theme.background) >= 7
    assert contrast(theme.muted, theme.background) >= 4.5


@themes
def test_hues_are_seen_on_the_background_and_are_different(theme):
    assert all(contrast(hue, theme.background) >= 3 for hue in (*theme.hues, theme.other))
    assert len(set(theme.hues)) == len(theme.hues) >= 10


@themes
def test_tones_have_a_contrast_of_3(theme):
    for hue in (*theme.hues, theme.other):
        dark, light = tones(hue)
        assert contrast(dark, light) >= 3
        assert contrast(dark, "#ffffff") > contrast(light, "#ffffff")


def test_a_label_has_one_colour_and_what_is_no_one_thing_is_grey():
    theme = THEMES["light"]
    found = colours([("a", False), ("Other", True), ("b", False), ("a", False)], theme)
    assert found == {("a", False): theme.hues[0], ("b", False): theme.hues[1], ("Other", True): theme.other}


@themes
def test_twenty_labels_have_different_colours_that_are_seen(theme):
    found = colours([(str(i), False) for i in range(20)], theme)
    assert len(set(found.values())) == 20
    assert all(contrast(colour, theme.background) >= 3 for colour in found.values())


def test_mixed():
    assert mixed("#000000", "#ffffff", 0.5) == "#808080"
