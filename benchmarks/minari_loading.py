"""A Minari dataset into flat arrays: valex against Minari's own iteration over episodes.

    python benchmarks/minari_loading.py [--episodes 1000] [--steps 1000] [--rounds 5]

    ratio native   seconds of Minari's iterate_episodes() over the whole set
                   / those of reading the same set from valex's store, which it was converted to once
    ratio hdf5     the same / those of reading Minari's own files straight into flat arrays, card and checks included

The set is written by Minari's own writer. Minari ends with a list of episodes, nothing is concatenated on its side; valex ends
with obs, next_obs and all the rest as flat arrays whose checksum has been compared (native) or worked out (hdf5). All of it
comes from the page cache. The bar is the native one's: data that are trained on are read again and again, converted once.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import footer, header, interleave, paired, ratio, show

OBS_DIM, ACT_DIM = 17, 6  # of a planar walker


def write_set(name: str, episodes: int, steps: int) -> None:
    """Write random numbers as a set, by Minari's own writer."""
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            id=e,
            observations=rng.normal(size=(steps + 1, OBS_DIM)).astype(np.float32),
            actions=rng.uniform(-1, 1, (steps, ACT_DIM)).astype(np.float32),
            rewards=rng.normal(size=steps),
            terminations=[False] * steps,
            truncations=[False] * (steps - 1) + [True],
            infos={},
        )
        for e in range(episodes)
    ]
    spaces = gymnasium.spaces.Box(-np.inf, np.inf, (OBS_DIM,)), gymnasium.spaces.Box(-1, 1, (ACT_DIM,))
    minari.create_dataset_from_buffers(name, buffers, observation_space=spaces[0], action_space=spaces[1])


def timed(load: Callable[[], int], expected: int) -> Callable[[], float]:
    """Return a contestant that takes the time of `load`, which has to return how many transitions it has loaded."""

    def run() -> float:
        begin = time.perf_counter()
        found = load()
        seconds = time.perf_counter() - begin
        assert found == expected, f"{found} transitions, {expected} were written"
        return seconds

    return run


def main() -> None:
    """Write the set, convert it, let the three take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=1_000, help="transitions of an episode")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    try:
        import minari
    except ImportError:
        sys.exit("minari is not installed; pip install 'valex[offline]'")
    from valex.datasets.files import read, write

    total = options.episodes * options.steps
    header(f"{total:,} transitions in {options.episodes:,} episodes, obs {OBS_DIM}, action {ACT_DIM}")
    with tempfile.TemporaryDirectory() as root:
        os.environ["MINARI_DATASETS_PATH"] = root
        write_set("bench/set-v0", options.episodes, options.steps)
        theirs, ours = Path(root) / "bench" / "set-v0", Path(root) / "converted"
        write(ours, *read(theirs))

        def iterate() -> int:
            return sum(len(episode.rewards) for episode in list(minari.load_dataset("bench/set-v0").iterate_episodes()))

        contestants = {
            "minari, iterate_episodes": timed(iterate, total),
            "valex, Minari's files": timed(lambda: len(read(theirs)[0].obs), total),
            "valex, its own store": timed(lambda: len(read(ours)[0].obs), total),
        }
        for run in contestants.values():
            run()
        times = interleave(contestants, options.rounds)
    show(times, "million transitions per second", lambda s: total / s / 1e6)
    minaris, hdf5, native = contestants
    ratio("minari_loading_native", paired(times, lambda t: t[minaris] / t[native]), at_least=5.0)
    ratio("minari_loading_hdf5", paired(times, lambda t: t[minaris] / t[hdf5]))
    footer()


if __name__ == "__main__":
    main()
