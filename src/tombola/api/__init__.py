"""The calls for one's own model: draw, preview, sparsify."""

from tombola.api.drawing import draw, preview
from tombola.api.sparsifying import Sparsified, sparsify

__all__ = ["Sparsified", "draw", "preview", "sparsify"]
