"""The small trained run of the library's tests."""

from tests.transformer.conftest import sample_folder, small_overrides, trained_folder

__all__ = ["sample_folder", "small_overrides", "trained_folder"]
