"""Measurements as JSON can hold them."""

from typing import Any

import numpy as np

from valex.types import PyTree


def plain(tree: PyTree) -> Any:
    """Turn arrays into lists and numbers; numbers that are not finite into None, as JSON has no word for them."""
    if isinstance(tree, dict):
        return {str(key): plain(value) for key, value in tree.items()}
    if hasattr(tree, "_asdict"):
        return plain(tree._asdict())
    if isinstance(tree, list):
        return [plain(value) for value in tree]
    if isinstance(tree, str | bool):
        return tree
    values = np.asarray(tree)
    if values.dtype.kind in "OUbi":
        return values.tolist()
    clean = values.astype(float).astype(object)
    clean[~np.isfinite(values.astype(float))] = None
    return clean.tolist()
