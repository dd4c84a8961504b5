"""fastnet's models as scikit-learn's: in its pipelines, searches and checks.

>>> from fastnet.sklearn import KMeans, MiniBatchKMeans

The same classes as `fastnet.KMeans` and `fastnet.MiniBatchKMeans`, derived from scikit-learn's base
classes. Wants ``pip install "fastnet[sklearn]"``.
"""

from __future__ import annotations

from typing import Any

try:
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        ClusterMixin,
        TransformerMixin,
    )
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        'fastnet.sklearn wants scikit-learn 1.6 or newer: pip install "fastnet[sklearn]"'
    ) from error

from . import cluster
from .cluster.data import Rows, make_rows

__all__ = ["KMeans", "MiniBatchKMeans"]


class _ScikitLearn(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Input, errors and tags the way scikit-learn wants them."""

    dtype: Any
    max_memory: Any
    _check_values: Any

    def _input(self, X: Any, reset: bool, finite: bool = True) -> Rows:
        X = validate_data(self, X, reset=reset, accept_sparse="csr", dtype="numeric",
                          ensure_all_finite=False)  # fmt: skip
        rows = make_rows(X, self.dtype, self.max_memory)
        self._check_values(rows, finite)
        return rows

    def _check_fitted(self) -> None:
        check_is_fitted(self)

    def _convergence_warning(self) -> type[Warning]:
        return ConvergenceWarning

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class KMeans(_ScikitLearn, cluster.KMeans):
    __doc__ = cluster.KMeans.__doc__


class MiniBatchKMeans(_ScikitLearn, cluster.MiniBatchKMeans):
    __doc__ = cluster.MiniBatchKMeans.__doc__
