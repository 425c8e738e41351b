"""Checks of shapes, as far as they are known."""


def same(shape, other) -> bool:
    """Whether two shapes are the same; None is a size that isn't known."""
    return len(shape) == len(other) and all(
        None in pair or pair[0] == pair[1] for pair in zip(shape, other, strict=True)
    )


def check_mask(mask, shape) -> None:
    """Raises a ValueError unless `mask` is None or of this shape: one that would broadcast is refused too."""
    if mask is not None and not same(mask.shape, shape):
        raise ValueError(f"expected a mask of shape {tuple(shape)}, got {tuple(mask.shape)}")
