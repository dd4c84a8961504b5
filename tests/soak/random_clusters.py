"""k-means on random problems: every answer equal to the float64 reference, for several threads.

    python tests/soak/random_clusters.py [--count 1000] [--seed 0] [--algorithm auto]

Problem number i is that of `kmeans_problems.problem(seed + i)`: 5 to 3,000 rows, 1 to 200 features,
1 to n clusters; duplicates, constant columns, offsets to 1e6, blobs, noise, ties, weights with
zeros, empty clusters. Labels, iterations, moved rows, centres and inertia must agree. A problem in
which rounding decides a tie of the reference is counted apart.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="how many problems")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first")
    parser.add_argument("--algorithm", default="auto")
    options = parser.parse_args()
    from kmeans_problems import check, problem

    warnings.simplefilter("ignore")
    begin, compared, wrong = time.perf_counter(), 0, []
    for seed in range(options.seed, options.seed + options.count):
        try:
            compared += check(
                problem(seed), algorithm=options.algorithm, n_threads=1 + seed % 4, progress=False
            )
        except AssertionError as error:
            wrong.append(str(error).splitlines()[0])
            print(wrong[-1], flush=True)
    seconds = time.perf_counter() - begin
    print(
        f"{options.count} problems, algorithm {options.algorithm}: {compared} equal, "
        f"{len(wrong)} wrong, {options.count - compared - len(wrong)} with ties, {seconds:.0f} s"
    )
    return 1 if wrong or compared < options.count / 2 else 0


if __name__ == "__main__":
    sys.exit(main())
