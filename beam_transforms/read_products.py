"""Products of a source as a PCollection."""

from beam_transforms.read_partitions import ReadPartitions
from beam_transforms.sources.source import Source


class ReadProducts(ReadPartitions):
    """Source -> batches of products, and the rows that could not be read as dicts under the tag `dead_letters`.

    Args:
        source: What to read; a source without products gives an empty PCollection.
    """

    def __init__(self, source: Source) -> None:
        super().__init__("products", source.product_partitions(), source.read_products)
