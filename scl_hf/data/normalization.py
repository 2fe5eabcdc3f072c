"""How a model wants its pixels, and back again."""

from typing import NamedTuple

import numpy as np
import torch
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


class Normalization(NamedTuple):
    """How a model wants its pixels: by default as the image processors of `transformers` give them."""

    image_mean: tuple[float, ...] = tuple(IMAGENET_DEFAULT_MEAN)  # in the model's order of channels, of 0 … 1
    image_std: tuple[float, ...] = tuple(IMAGENET_DEFAULT_STD)
    blue_first: bool = False  # the model takes BGR

    def of(self, image: np.ndarray) -> torch.Tensor:
        """A picture, (H, W, 3) uint8 in RGB, as the model wants it: (3, H, W) float32."""
        return self.normalize(torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32)).div_(255))

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """(3, H, W) pixels in [0, 1] in RGB as the model wants them; may change them in place."""
        pixels = pixels.flip(0) if self.blue_first else pixels
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.image_mean, self.image_std))
        return pixels.sub_(mean).div_(std)

    def picture(self, pixel_values: torch.Tensor) -> np.ndarray:
        """The picture, (H, W, 3) uint8 in RGB, of (3, H, W) `pixel_values`."""
        pixels = pixel_values.detach().float().cpu().permute(1, 2, 0).numpy()
        pixels = pixels * np.asarray(self.image_std, np.float32) + np.asarray(self.image_mean, np.float32)
        pixels = np.rint(pixels * 255).clip(0, 255).astype(np.uint8)
        return pixels[..., ::-1] if self.blue_first else pixels
