"""Converts images to the values that a model takes, and back."""

from typing import NamedTuple

import numpy as np
import torch
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


class Normalization(NamedTuple):
    """How a model takes images; the defaults are those of the image processors of `transformers`."""

    image_mean: tuple[float, ...] = tuple(IMAGENET_DEFAULT_MEAN)  # of 0 … 1, in the model's order of channels
    image_std: tuple[float, ...] = tuple(IMAGENET_DEFAULT_STD)
    blue_first: bool = False  # the model takes BGR

    def of(self, image: np.ndarray) -> torch.Tensor:
        """Returns (3, H, W) float32 `pixel_values` of an image (H, W, 3) uint8 in RGB."""
        return self.normalize(torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32)).div_(255))

    def normalize(self, values: torch.Tensor) -> torch.Tensor:
        """Returns `pixel_values` of (3, H, W) in [0, 1] in RGB, perhaps in place."""
        values = values.flip(0) if self.blue_first else values
        mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (self.image_mean, self.image_std))
        return values.sub_(mean).div_(std)

    def to_image(self, pixel_values: torch.Tensor) -> np.ndarray:
        """Returns the image, (H, W, 3) uint8 in RGB, of (3, H, W) `pixel_values`."""
        values = pixel_values.detach().float().cpu().permute(1, 2, 0).numpy()
        values = values * np.asarray(self.image_std, np.float32) + np.asarray(self.image_mean, np.float32)
        image = np.rint(values * 255).clip(0, 255).astype(np.uint8)
        return image[..., ::-1] if self.blue_first else image
