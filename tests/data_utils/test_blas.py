"""Threads of numpy's linear algebra are one inside, and what they were outside."""

import numpy as np
import pytest

from instag.data_utils import blas
from instag.data_utils.blas import one_blas_thread, set_blas_threads


def test_one_thread_inside_and_as_before_outside():
    before = set_blas_threads(2)
    if not before:
        pytest.skip("this numpy brings no OpenBLAS of its own")
    try:
        with pytest.raises(ValueError, match="inside"), one_blas_thread():
            assert set_blas_threads(1) == 1
            raise ValueError("inside")
        assert set_blas_threads(2) == 2
    finally:
        set_blas_threads(before)


def test_without_openblas_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(blas, "LIBRARY", "no such library*")
    assert set_blas_threads(1) == 0
    with one_blas_thread():
        np.testing.assert_allclose(np.linalg.solve(2 * np.eye(3), np.ones(3)), 0.5)
