"""Figures that are not drawn, for tests that evaluate models and do not look at the figures.

The 13 figures of an evaluation of a small model take more than half of its time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@contextmanager
def undrawn() -> Iterator[None]:
    """Save every figure as a PNG of one pixel."""
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", _save_a_pixel)
        yield


def _save_a_pixel(figure: Any, path: Any, **settings: Any) -> None:
    content = BytesIO()
    Image.new("RGB", (1, 1)).save(content, format="png")
    if hasattr(path, "write"):
        path.write(content.getvalue())
    else:
        Path(path).write_bytes(content.getvalue())
