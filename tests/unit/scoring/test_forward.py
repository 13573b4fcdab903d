"""Preparation and forward pass: bit for bit, in order, and never a number that is none."""

import dataclasses

import numpy as np
import pytest

from infra.demo import gamma
from scoring.keys import prediction_key
from scoring.outcomes import Failed, Prepared, Scores
from scoring.prepare import histogram, view_histograms
from scoring.runtime import CPU, ForwardFailed, available, check_output


def prepared(name: str, features: np.ndarray) -> Prepared:
    return Prepared(set_id=name, features=features.astype(np.float32))


def batch_of(count: int) -> list[Prepared]:
    random = np.random.default_rng(1)
    return [prepared(str(i), random.dirichlet(np.ones(50), 4).ravel()) for i in range(count)]


def published(image):
    """The histogram as the authors' own code takes it, step by step in place."""
    pixels = image.astype(np.float32)
    pixels -= np.mean(pixels)
    pixels /= np.std(pixels)
    counts = np.histogram(pixels, bins=50, density=False)[0]
    return counts / counts.sum()


@pytest.mark.parametrize(
    "make", [lambda x: x, lambda x: x.astype(np.uint16) * 16, lambda x: x.astype(np.int16) - 9]
)
def test_level_by_level_is_the_plain_recipe_bit_for_bit(images, make):
    """Standardising levels instead of pixels changes not one count."""
    image = make(images["R-MLO"])
    assert np.array_equal(histogram(image, 50), published(image))


@pytest.mark.parametrize("power", [1.25 + 0.01 * patient for patient in range(12)])
def test_levels_on_an_edge_fall_where_the_plain_recipe_puts_them(images, power):
    """Of 255 levels in 50 bins every 51st lies on an edge: one bit of the deviation moves a whole level."""
    image = gamma(images["L-CC"], power)
    assert np.array_equal(histogram(image, 50), published(image))


def test_float_images_take_the_plain_way(images):
    """An image with a broken rescale has no levels; it gets the same recipe."""
    image = images["L-CC"].astype(np.float32) * np.float32(0.5)
    assert histogram(image, 50).sum() == pytest.approx(1)


def test_views_are_concatenated_in_order():
    """The parts of the features are the views, in the order given."""
    first, second = np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8)
    features = view_histograms([first, second], 2)
    assert features.dtype == np.float32
    assert features.tolist() == [0.75, 0.25, 0.25, 0.75]


def test_batches_keep_order_and_do_not_mix(density):
    """One result an exam, in order, and the same bits alone as among others."""
    batch = batch_of(33)
    together = density.forward(batch)
    assert [result.set_id for result in together] == [exam.set_id for exam in batch]
    assert together == [density.forward([exam])[0] for exam in batch]


def test_an_empty_batch_gives_nothing(density):
    """No exam, no result."""
    assert density.forward([]) == []


def test_nan_fails_one_exam_and_not_its_neighbours(density):
    """A result that is no number is `failed`; the others of the batch are scored."""
    good, bad, last = batch_of(3)
    bad = dataclasses.replace(bad, features=np.full(200, np.nan, np.float32))
    results = density.forward([good, bad, last])
    assert [type(result) for result in results] == [Scores, Failed, Scores]
    assert results[1].reason == "not_finite"


def test_a_wrong_count_is_noticed():
    """Fewer rows or classes than expected is an error, not a shift by one."""
    for shape in ((1, 4), (2, 3), (2,)):
        with pytest.raises(ForwardFailed, match=r"probabilities: expected \(2, 4\)"):
            check_output("probabilities", np.zeros(shape, np.float32), (2, 4))


def test_features_of_another_width_fail(density):
    """A batch that the card does not describe ends as `failed`."""
    (result,) = density.forward([prepared("x", np.zeros(7))])
    assert isinstance(result, Failed)
    assert result.reason == "wrong_count"


def test_scores_say_what_they_are(density):
    """Probabilities by class name, the most probable one, and their sum as a score between 0 and 1."""
    (result,) = density.forward(batch_of(1))
    assert list(result.probabilities) == list(density.card.class_names)
    assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-6)
    dense = result.probabilities["heterogeneously_dense"] + result.probabilities["extremely_dense"]
    assert result.score == pytest.approx(dense)
    assert result.category == max(result.probabilities, key=result.probabilities.get)


def test_cpu_stands_in_for_a_provider_that_is_absent(caplog):
    """Asking for what this machine lacks is said in the log, and the CPU does the work."""
    assert available(("NoSuchExecutionProvider",)) == [CPU]
    assert "NoSuchExecutionProvider is not available" in caplog.text


def test_the_key_depends_on_each_of_its_four_parts():
    """Another set, model, preparation or parameter is another key, wherever the border between them lies."""
    keys = {
        prediction_key(*parts) for parts in (("a", "b", "c", "d"), ("ab", "", "c", "d"), ("a", "b", "d", "c"))
    }
    assert len(keys) == 3
    assert prediction_key("a", "b", "c", "d") == prediction_key("a", "b", "c", "d")
