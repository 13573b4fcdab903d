"""The gate lets the exam and fair transforms of it pass, and refuses what only looks like numbers."""

from collections.abc import Callable

import numpy as np
import pytest

from scoring.gate import Gate, Refused
from scoring.prepare import check_image, measure
from scoring.views import check_header

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


SIZE = (2600, 2000)


def refusal_of(card, image: np.ndarray) -> str | None:
    """The word under which the density model refuses an image; None where it takes it."""
    gate = Gate(card.checks)
    try:
        check_image(gate, image, SIZE, "L-CC", card.preparation.parameters["dark_below"])
    except Refused as error:
        return error.refusal.word.removesuffix(":L-CC")
    return None


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
    assert refusal_of(density.card, FAIR[name](images[view])) is None


@pytest.mark.parametrize("name", FOUL)
def test_foul_images_are_refused_by_name(density, images, name):
    """Each check bites, and says which it is."""
    transform, word = FOUL[name]
    assert refusal_of(density.card, transform(images["L-CC"])) == word


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["noise", "noise clipped at black", "inverted", "uncropped"])
def test_foul_images_are_refused_in_every_view(density, images, view, name):
    """No view lets noise, an inverted or an uncropped image pass."""
    assert refusal_of(density.card, FOUL[name][0](images[view])) is not None


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
    card = density.card
    assert check_header(card.input, card.intake, know(exams[0].datasets["L-CC"])) is None
    refusal = check_header(card.input, card.intake, know(exams[0].datasets["L-CC"], **change))
    assert refusal is not None
    assert refusal.word == word


def test_every_check_of_the_card_is_tested(density):
    """A new check needs a foul image that gets its word."""
    assert {word for _, word in FOUL.values()} == {c.measure for c in density.card.checks} | {
        "flat",
        "image_size",
    }


def test_what_was_measured_is_kept_until_the_refusal(density, images):
    """The gate tells every measure that it saw, the refused one last."""
    gate = Gate(density.card.checks)
    with pytest.raises(Refused):
        check_image(gate, uncropped(images["L-CC"]), SIZE, "L-CC", 0.02)
    assert list(gate.measured) == ["background:L-CC", "roughness:L-CC", "chest_wall:L-CC"]


def test_a_measure_that_is_no_number_is_refused(density):
    """NaN is in no range, and passes no gate."""
    with pytest.raises(Refused):
        Gate(density.card.checks).note("background", float("nan"))
    with pytest.raises(Refused):
        Gate([]).note("unchecked", float("nan"))


def test_the_card_tells_what_was_measured(density, images):
    """The ranges of the card hold the published images with room on both sides."""
    [background] = [check.range for check in density.card.checks if check.measure == "background"]
    dark = density.card.preparation.parameters["dark_below"]
    shares = [measure(images[view], dark)["background"] for view in VIEWS]
    assert (round(min(shares), 2), round(max(shares), 2)) == (0.37, 0.58)
    assert background[0] < min(shares) - 0.1
    assert background[1] > max(shares) + 0.1
