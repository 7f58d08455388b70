"""Tables are whole and say what they mean; the models' colours can be told apart by everybody."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from rlhf_utils.look import COLOURS, INK, Answer, Table, smooth, written

# Machado, Oliveira and Fernandes (2009): linear RGB as people see it who lack a kind of cone.
SEEN = {
    "everybody": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB under daylight."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.maximum(to_xyz @ rgb / [0.9505, 1, 1.089], 1e-4))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(a: str, b: str) -> float:
    """WCAG's ratio of two colours' luminances."""
    light = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (light[1] + 0.05) / (light[0] + 0.05)


@pytest.mark.parametrize("eyes", SEEN)
def test_models_have_colours_that_differ(eyes):
    seen = {name: lab(np.clip(np.array(SEEN[eyes]) @ linear(c), 0, 1)) for name, c in COLOURS.items()}
    close = {(a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in combinations(seen, 2)}
    assert min(close.values()) > 10, min(close, key=close.get)


def test_letters_and_lines_can_be_read_on_light_and_dark():
    for ground in ("#ffffff", "#111111"):
        assert contrast(INK, ground) >= 3.9
        assert all(contrast(colour, ground) >= 2.5 for colour in COLOURS.values())


def test_a_table_is_whole_in_html_and_in_letters():
    long = "word " * 200
    table = Table([{"a_name": "x\ny", "text": Answer(long, 0.9), "n": 1234, "share": 0.25, "none": None}])
    page, plain = table._repr_html_(), repr(table)
    assert page.count("word") == 200 and plain.count("word") == 200 and "…" not in page + plain
    assert max(map(len, plain.splitlines())) <= 108
    assert (
        "a name" in page
        and "1,234" in page
        and "0.25" in page
        and "–" in page
        and "✓" in page
        and "\\n" not in page
    )


def test_an_index_that_says_something_is_shown():
    named = pd.DataFrame({"gold": [0.5]}, index=pd.Index(["SFT"], name="model"))
    assert Table(named).columns == ["model", "gold"]
    assert Table(pd.DataFrame({"gold": [0.5]}, index=["SFT"])).columns == ["", "gold"]
    counted = pd.DataFrame({"update": [1, 2], "gold": [0.5, 0.6]}).set_index("update")  # a range, but named
    assert Table(counted).columns == ["update", "gold"] and Table(counted).cells[1] == [2, 0.6]
    two = pd.DataFrame({"gold": [0.5]}, index=pd.MultiIndex.from_tuples([("SFT", "greedy")]))
    assert Table(two).columns == ["", "", "gold"] and Table(two).cells == [["SFT", "greedy", 0.5]]
    kept = pd.DataFrame({"gold": [0.5], "level_0": [1]}).set_index("gold", drop=False)
    assert Table(kept).columns == ["gold", "gold", "level 0"] and Table(kept).cells == [[0.5, 0.5, 1]]


def test_answers_are_text_and_their_new_words_are_marked():
    answer = Answer("<b>Cows</b> eat grass, and hay.", 0.1, "Cows eat grass.")
    page = answer.html()
    assert "<b>" not in page and page.startswith('<span class="rlhf-bad">✗</span>')
    assert "<mark>and</mark> <mark>hay.</mark>" in page and "<mark>grass," not in page
    assert Answer("", 0.9).html().endswith("<i>(empty)</i>")
    assert Answer("so so", 0.5).mark == "" and str(Answer("yes", 1.0)) == "✓ yes"


@pytest.mark.parametrize(
    "value, text",
    [
        (63.0, "63.00"),
        (63, "63"),
        (float("nan"), "–"),
        (True, "yes"),
        ({"a": 0.5}, "a 0.50"),
        (np.int64(1200), "1,200"),
    ],
)
def test_values_as_people_read_them(value, text):
    assert written(value) == text


def test_a_running_mean_starts_without_a_lag():
    assert smooth([4.0]) == [4.0] and smooth([]) == []
    noisy = [3.0 + (-1) ** i for i in range(400)]
    assert max(smooth(noisy)[50:]) - min(smooth(noisy)[50:]) < 0.3
