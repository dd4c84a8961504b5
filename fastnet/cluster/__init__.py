"""k-means: exact, as fast as bounds allow, the same for any number of threads.

>>> import fastnet as fn
>>> model = fn.KMeans(10, random_state=0).fit(x)
>>> model.labels_, model.cluster_centers_, model.inertia_
"""

from .kmeans import KMeans
from .minibatch import MiniBatchKMeans
from .path import KMeansPath, silhouette
from .statistics import Statistics, merge

__all__ = ["KMeans", "KMeansPath", "MiniBatchKMeans", "Statistics", "merge", "silhouette"]
