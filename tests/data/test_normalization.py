import numpy as np
import pytest

from scl_hf.data.normalization import Normalization


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "normalization", [Normalization(), Normalization((0.1, 0.2, 0.3), (0.5, 0.25, 1.0), blue_first=True)]
)
def test_an_image_comes_back(image, normalization):
    before = image.copy()
    values = normalization.of(image)
    assert values.shape == (3, 5, 7)
    np.testing.assert_array_equal(normalization.to_image(values), image)
    np.testing.assert_array_equal(image, before)


def test_mean_and_std_are_those_of_the_models_own_order(image):
    values = Normalization((0.1, 0.2, 0.3), (0.5, 0.25, 1.0), blue_first=True).of(image)
    expected = (image[..., ::-1] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 1.0]
    np.testing.assert_allclose(values.permute(1, 2, 0), expected, atol=1e-6)
