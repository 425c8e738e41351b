"""Codebook: the vectors that a semantic id is the number of."""

import dataclasses
import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from beam_transforms._nearest_codes import NearestCodes
from beam_transforms.schema import PADDING_ID

_CODES, _ABOUT = "codes.npy", "codebook.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Codebook:
    """K codes of width W, what they were trained on, and the assignment of vectors to them.

    Semantic ids of different codebooks don't mix: what holds semantic ids keeps the codebook's version beside them.

    Attributes:
        codes: float32 of shape (K, W).
        trained_on: Number of vectors that the codes were trained on; 0 where that isn't known.
        mse: Mean squared difference between an entry of those vectors and the same entry of their codes.
        assignment_counts: int64 of shape (K,), how many of those vectors have each code; zeros where that isn't known.

    Raises:
        ValueError: If the codes aren't a finite (K, W) array with K, W >= 1, or there isn't one count for each.
    """

    codes: np.ndarray
    trained_on: int = 0
    mse: float = 0.0
    assignment_counts: np.ndarray | None = None

    def __post_init__(self) -> None:
        codes = np.array(self.codes, dtype="<f4", order="C")
        if codes.ndim != 2 or 0 in codes.shape:
            raise ValueError(f"codes must have the shape (K, W) with K, W >= 1, got {codes.shape}")
        if not np.isfinite(codes).all():
            raise ValueError(f"codes must be finite; {(~np.isfinite(codes).all(axis=1)).sum()} of {len(codes)} are not")
        counts = np.zeros(len(codes)) if self.assignment_counts is None else self.assignment_counts
        counts = np.array(counts, dtype=np.int64)
        if counts.shape != (len(codes),) or (counts < 0).any():
            raise ValueError(f"expected {len(codes)} counts >= 0, one a code, got an array of shape {counts.shape}")
        for name, values in (("codes", codes), ("assignment_counts", counts)):
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @property
    def size(self) -> int:
        """K, the number of codes."""
        return len(self.codes)

    @property
    def width(self) -> int:
        """W, the width of a code and of the vectors that it stands for."""
        return self.codes.shape[1]

    @functools.cached_property
    def version(self) -> str:
        """12 hexadecimal digits that depend on the codes alone."""
        digest = hashlib.sha256(f"{self.codes.shape}".encode())
        digest.update(self.codes.tobytes())
        return digest.hexdigest()[:12]

    @property
    def codes_used(self) -> int:
        """How many codes at least one vector of the training has."""
        return int(np.count_nonzero(np.asarray(self.assignment_counts)))

    @property
    def perplexity(self) -> float:
        """2 to the entropy (in bits) of the assignment: as many codes, used equally, would be as hard to guess."""
        counts = np.asarray(self.assignment_counts)
        shares = counts[counts > 0] / max(counts.sum(), 1)
        return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0

    def assign(self, embeddings: np.ndarray) -> np.ndarray:
        """The number of the code nearest to each vector, in the Euclidean distance.

        The same vector has the same code whatever batch it is in. Of equally near codes, the lowest number wins; that
        of exact arithmetic on the float32 values wherever two squared distances differ by more than some 1e-15 of
        themselves. `keras_models.layers.NearestCode` gives the same wherever float32 can tell two distances apart.

        Args:
            embeddings: Numbers of shape (B, W), taken as float32.

        Returns:
            int64 of shape (B,); -1 where a vector holds NaN or infinity.

        Raises:
            ValueError: If the vectors are of another width than the codes.
        """
        vectors = np.asarray(embeddings)
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise ValueError(
                f"expected embeddings of shape (rows, {self.width}) for codebook {self.version} of {self.size} codes, "
                f"got {vectors.shape}; use the codebook that was trained on such embeddings"
            )
        vectors = vectors.astype(np.float32, copy=False)
        finite = np.isfinite(vectors).all(axis=1)
        if finite.all():
            return self._nearest(vectors)
        codes = np.full(len(vectors), PADDING_ID, dtype=np.int64)
        codes[finite] = self._nearest(vectors[finite])
        return codes

    @functools.cached_property
    def _nearest(self) -> NearestCodes:
        return NearestCodes(self.codes)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def save(self, folder: str | Path) -> Path:
        """Writes `codebook-<version>` below a folder, complete or not at all; one that is there already stays.

        Returns:
            The path of what was written, which `load` reads.
        """
        folder = Path(folder)
        path = folder / f"codebook-{self.version}"
        if path.exists():
            return path
        folder.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".codebook-", dir=folder))
        try:
            np.save(beside / _CODES, self.codes, allow_pickle=False)
            about = {
                "version": self.version,
                "codes": self.size,
                "width": self.width,
                "trained_on": self.trained_on,
                "mse": self.mse,
                "codes_used": self.codes_used,
                "perplexity": self.perplexity,
                "assignment_counts": np.asarray(self.assignment_counts).tolist(),
            }
            (beside / _ABOUT).write_text(json.dumps(about))
            beside.chmod(0o755)
            try:
                beside.rename(path)
            except OSError:
                if not path.exists():  # else somebody wrote the same in the meantime
                    raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Codebook":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: If there is no codebook at the path.
            ValueError: If it is damaged, or its codes aren't those of the version that it names.
        """
        path = Path(path)
        for name in (_CODES, _ABOUT):
            if not (path / name).is_file():
                raise FileNotFoundError(f"no codebook at {path}: {name} is missing; Codebook.save writes one")
        try:
            codes = np.load(path / _CODES, allow_pickle=False)
            about = json.loads((path / _ABOUT).read_text())
            codebook = cls(codes, int(about["trained_on"]), float(about["mse"]), np.array(about["assignment_counts"]))
            version = about["version"]
        except (ValueError, KeyError, TypeError, EOFError, OverflowError, RecursionError) as error:
            raise ValueError(f"the codebook at {path} is damaged: {error}; save or copy it again") from error
        if codebook.version != version:
            raise ValueError(
                f"the codes at {path} are of version {codebook.version}, but {_ABOUT} names {version}: one of the two "
                "files was changed; save or copy the codebook again"
            )
        return codebook
