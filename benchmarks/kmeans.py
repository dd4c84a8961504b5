"""Time k-means against scikit-learn, oneDAL and faiss: same first centres, iterations, threads.

    python benchmarks/kmeans.py [options of `fastnet bench`]

These are the k-means cases of `fastnet bench` (`fastnet/_bench_cases.py`), all of them unless
``--cases`` names some. The mean distances that come out are compared, because a fast wrong answer
is none.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fastnet import bench

if __name__ == "__main__":
    names = ",".join(case.name for case in bench.CASES if case.clusters)
    sys.exit(bench.main(["--cases", names, *sys.argv[1:]]))
