"""enwik8 for tensorflow-datasets, without TensorFlow.

Importing this module imports tensorflow-datasets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray

CHUNK = 1 << 20


class Enwik8Bytes(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc] # tensorflow-datasets is untyped
    """enwik8 or a prefix of it, in chunks of 1 MiB, of which the last may be shorter; one split, ``text``.

    Every example is ``{"bytes": (N,) uint8}``; their concatenation is the text. The config identifies the text.

    Args:
        text: the text to write.
        config: the name of the config.
        options: the options of every builder.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "The bytes, in their order."}

    def __init__(self, *, text: NDArray[np.uint8], config: str, **options: Any) -> None:
        self._text = text
        super().__init__(
            config=tfds.core.BuilderConfig(name=config, description="The text it was made from."), **options
        )

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The first 100,000,000 bytes of a dump of the English Wikipedia of 2006, or a prefix of them.",
            homepage="http://mattmahoney.net/dc/textdata.html",
            citation=(
                "@misc{mahoney2011large,\n"
                "  title={Large text compression benchmark},\n"
                "  author={Mahoney, Matt},\n"
                "  year={2011}, url={http://mattmahoney.net/dc/text.html}\n"
                "}"
            ),
            features=tfds.features.FeaturesDict(
                {"bytes": tfds.features.Tensor(shape=(None,), dtype=np.uint8, encoding="bytes")}
            ),
            disable_shuffling=True,  # examples are then stored in the order of their keys
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        """The split; nothing is downloaded."""
        return {"text": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The chunks, with their index as the key."""
        for start in range(0, len(self._text), CHUNK):
            yield start // CHUNK, {"bytes": self._text[start : start + CHUNK]}
