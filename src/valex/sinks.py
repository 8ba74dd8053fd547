"""Optional trackers. A sink that fails is dropped with a warning and never stops a run."""

import math
import sys
from pathlib import Path
from typing import Any

SINKS = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # name, also of the extra -> package that it needs


class TensorBoard:
    """Write scalars to <run>/tensorboard; needs valex[tensorboard]."""

    def __init__(self) -> None:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

        self._make, self._writers = SummaryWriter, {}

    def write(self, run: Path, row: dict[str, float]) -> None:
        if run not in self._writers:
            self._writers[run] = self._make(str(run / "tensorboard"))
        for name, value in row.items():
            if math.isfinite(value):
                self._writers[run].add_scalar(name, value, int(row["env_steps"]))

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class WandB:
    """Log to Weights & Biases, one W&B run per run; needs valex[wandb]."""

    def __init__(self) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._wandb, self._runs = wandb, {}

    def write(self, run: Path, row: dict[str, float]) -> None:
        if run not in self._runs:
            self._runs[run] = self._wandb.init(
                project="valex", name=run.name, id=run.name, resume="allow", dir=str(run), reinit="create_new"
            )
        self._runs[run].log(row, step=int(row["env_steps"]))

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()


class Guarded:
    """A sink whose failures are said once and then forgotten."""

    def __init__(self, name: str, make: Any) -> None:
        self.name, self._sink = name, None
        self._guard(lambda: setattr(self, "_sink", make()))

    def _guard(self, action: Any) -> None:
        try:
            action()
        except Exception as error:  # whatever a tracker raises must not stop a run
            self._sink = None
            print(f"warning: {self.name} is off: {type(error).__name__}: {error}", file=sys.stderr)

    def write(self, run: Path, row: dict[str, float]) -> None:
        sink = self._sink
        if sink is not None:
            self._guard(lambda: sink.write(run, row))

    def close(self) -> None:
        sink = self._sink
        if sink is not None:
            self._guard(sink.close)


def open_sinks(names: tuple[str, ...]) -> list[Guarded]:
    """Open the named sinks. Raises KeyError for a name that is not in SINKS."""
    makers = {"tensorboard": TensorBoard, "wandb": WandB}
    return [Guarded(name, makers[name]) for name in names]


def close_sinks(sinks: list[Guarded]) -> None:
    """Close what was opened."""
    for sink in sinks:
        sink.close()
