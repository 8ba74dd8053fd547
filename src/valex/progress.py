"""Progress of one or many runs: a live display on a terminal, one line per ended run elsewhere."""

import sys
import time


class Progress:
    """A callable that takes the events of runner and launch."""

    def __init__(self, title: str, runs: int, quiet: bool):
        self.title, self.runs, self.quiet = title, runs, quiet
        self.live = None
        self.steps: dict[str, tuple[int, int]] = {}
        self.ended = 0
        self.start = time.monotonic()

    def __enter__(self) -> "Progress":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress as Bars, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self.live = Bars(
                TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )  # fmt: skip
            self.live.start()
            self.all = self.live.add_task(f"{self.title}: 0/{self.runs} runs", total=float(self.runs), note="")
            self.tasks: dict[str, object] = {}
        return self

    def __exit__(self, *unused: object) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, event: dict) -> None:
        if event["phase"] == "ended":
            self._end(event)
        elif self.live is not None:
            self._advance(event)

    def _end(self, event: dict) -> None:
        self.ended += 1
        self.steps.pop(event["run"], None)
        if self.live is not None:
            task = self.tasks.pop(event["run"], None)
            if task is not None:
                self.live.remove_task(task)  # pyright: ignore[reportArgumentType]
            self.live.update(self.all, completed=self.ended, description=f"{self.title}: {self.ended}/{self.runs} runs")
        elif not self.quiet:
            elapsed = time.monotonic() - self.start
            why = f" ({event['message']})" if event["state"] == "error" and event.get("message") else ""
            print(
                f"[{self.ended}/{self.runs} {elapsed:5.0f} s] {event['run']}: {event['state']}{why}",
                file=sys.stderr,
                flush=True,
            )

    def _advance(self, event: dict) -> None:
        assert self.live is not None
        name = event["run"]
        if name not in self.tasks:
            self.tasks[name] = self.live.add_task(name, total=float(event["total"]), note="")
        note = event["phase"] if event["return"] is None else f"return {event['return']:.1f}"
        self.live.update(self.tasks[name], completed=event["env_steps"], note=note)  # pyright: ignore[reportArgumentType]
        self.steps[name] = (event["env_steps"], event["total"])
        share = sum(done / total for done, total in self.steps.values())
        self.live.update(self.all, completed=min(self.runs, self.ended + share))
