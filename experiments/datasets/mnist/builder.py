"""MNIST for tensorflow-datasets, without TensorFlow.

The ``mnist`` of tensorflow-datasets encodes PNGs and reads files through TensorFlow. This builder stores the raw pixels
in array_record files, in the official order.

Importing this module imports tensorflow-datasets.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray

from experiments.datasets.mnist import idx


class MnistIdx(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc] # tensorflow-datasets is untyped
    """MNIST from its four idx files, which must be in ``manual_dir``; splits ``train`` and ``test``.

    Every example is ``{"image": (28, 28) uint8, "label": int64 below 10}``. The n-th example of a
    split is the n-th of its official file.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "The official files, in their order."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the four idx files of MNIST, plain or gzipped, into manual_dir."

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description="70000 handwritten digits of 28x28 pixels, in the order of the official files.",
            homepage="http://yann.lecun.com/exdb/mnist/",
            citation=(
                "@article{lecun1998gradient,\n"
                "  title={Gradient-based learning applied to document recognition},\n"
                "  author={LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick},\n"
                "  journal={Proceedings of the IEEE}, volume={86}, number={11}, pages={2278--2324}, year={1998}\n"
                "}"
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(28, 28), dtype=np.uint8, encoding="bytes"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # examples are then stored in the order of their keys
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        """The two splits, from the files in the manual folder."""
        arrays = idx.read_folder(Path(dl_manager.manual_dir))
        return {
            split: self._generate_examples(arrays[f"{split}_images"], arrays[f"{split}_labels"])
            for split in ("train", "test")
        }

    def _generate_examples(
        self, images: NDArray[np.uint8], labels: NDArray[np.uint8]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The examples, with their index in the official file as the key."""
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image, "label": int(label)}
