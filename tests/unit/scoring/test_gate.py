"""The gate lets the exam and fair transforms of it pass, and refuses what only looks like numbers."""

from collections.abc import Callable

import numpy as np
import pytest

from scoring.gate import check_header, check_image, measure
from scoring.outcomes import OUT_OF_DOMAIN

VIEWS = ["L-CC", "R-CC", "L-MLO", "R-MLO"]
Transform = Callable[[np.ndarray], np.ndarray]


def scaled(factor: float) -> Transform:
    return lambda x: np.clip(np.rint(x * factor), 0, 255).astype(np.uint8)


def uncropped(x: np.ndarray) -> np.ndarray:
    """The image on a field of 3328 x 2560, resized to the size that the model wants."""
    field = np.zeros((3328, 2560), np.uint8)
    field[364:2964, :2000] = x
    return field[np.arange(2600) * 3328 // 2600][:, np.arange(2000) * 2560 // 2000]


def bordered(x: np.ndarray) -> np.ndarray:
    return np.hstack([x[:, :-60], np.full((len(x), 60), 255, np.uint8)])


def noise(x: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, x.shape).astype(np.uint8)


def dark_noise(x: np.ndarray) -> np.ndarray:
    return np.clip(np.random.default_rng(0).normal(0, 40, x.shape), 0, 255).astype(np.uint8)


FAIR: dict[str, Transform] = {
    "as published": lambda x: x,
    "left-right": np.fliplr,
    "up-down": np.flipud,
    "gain -10 %": scaled(0.9),
    "gain +10 %": scaled(1.1),
    "16 bits": lambda x: x.astype(np.uint16) * 257,
    "12 bits with an offset": lambda x: x.astype(np.uint16) * 15 + 100,
    "float": lambda x: (x * 0.5 - 7).astype(np.float32),
}

FOUL: dict[str, tuple[Transform, str]] = {
    "noise": (noise, "background"),
    "noise clipped at black": (dark_noise, "roughness"),
    "inverted": (lambda x: 255 - x, "background"),
    "uncropped": (uncropped, "chest_wall"),
    "black": (np.zeros_like, "flat"),
    "not a number": (lambda x: np.full(x.shape, np.nan, np.float32), "flat"),
    "another size": (lambda x: x[:-1], "image_size"),
    "a bright border": (bordered, "far_edge"),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", FAIR)
def test_fair_transforms_pass(density, images, view, name):
    """Flips, a tenth of gain and another bit depth are no reason to refuse."""
    assert check_image(density.package.card.gate, FAIR[name](images[view])) is None


@pytest.mark.parametrize("name", FOUL)
def test_foul_images_are_refused_by_name(density, images, name):
    """Each check bites, and says which it is."""
    transform, word = FOUL[name]
    refusal = check_image(density.package.card.gate, transform(images["L-CC"]))
    assert refusal is not None
    assert refusal.word == word


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["noise", "noise clipped at black", "inverted", "uncropped"])
def test_foul_images_are_refused_in_every_view(density, images, view, name):
    """No view lets noise, an inverted or an uncropped image pass."""
    assert check_image(density.package.card.gate, FOUL[name][0](images[view])) is not None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"rows": 3328}, "image_size"),
        ({"columns": None}, "image_size"),
        ({"photometric_interpretation": "RGB"}, "photometric"),
        ({"bits_allocated": 32}, "photometric"),
    ],
)
def test_a_header_is_enough_to_refuse(density, exams, know, change, word):
    """Size and kind are refused before a byte of pixels is read."""
    card = density.package.card
    instance = know(exams[0].datasets["L-CC"])
    assert check_header(card.input, card.gate, instance) is None
    refusal = check_header(card.input, card.gate, know(exams[0].datasets["L-CC"], **change))
    assert refusal is not None
    assert refusal.word == word


def test_every_word_of_the_gate_is_tested():
    """A new word needs a foul image that gets it."""
    assert {word for _, word in FOUL.values()} | {"photometric"} == set(OUT_OF_DOMAIN)


def test_the_card_tells_what_was_measured(density, images):
    """The ranges of the card hold the published images with room on both sides."""
    gate = density.package.card.gate
    shares = [measure(images[view], gate.dark_below)["background"] for view in VIEWS]
    assert (round(min(shares), 2), round(max(shares), 2)) == (0.37, 0.58)
    assert gate.background[0] < min(shares) - 0.1
    assert gate.background[1] > max(shares) + 0.1
