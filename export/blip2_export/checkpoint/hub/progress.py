"""Shows the progress of a download: bytes, rate and time left, counted through the hub client's progress bars."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from blip2_export.progress import ByteProgress, duration, size

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

RATE_SECONDS = 30.0  # the rate is that of so long: connections speed up and slow down


class DownloadProgress(ByteProgress):
    """The progress line of `export`, with the download rate."""

    def __init__(self, total: int, stream: TextIO | None = None, clock: Callable[[], float] | None = None) -> None:
        super().__init__(total, stream, **({"clock": clock} if clock else {}))
        self._seen: deque[tuple[float, int]] = deque()

    def begin(self, stage: str, there: int) -> None:
        """Begins a download. Bytes that are already on the disk do not count towards the rate."""
        self.done = there
        self._seen = deque([(self._clock(), there)])
        self.stage(stage)

    def bar(self) -> type:
        """Returns a class for `tqdm_class` that draws nothing and adds to this progress."""
        watch = self

        class Bar(tqdm):
            def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
                super().__init__(*arguments, **(options | {"disable": True}))

            def update(self, n: float | None = 1) -> None:
                watch.advance(int(n or 0))

        return Bar

    def _left(self) -> str:
        self._seen.append((self._shown, self.done))
        while len(self._seen) > 2 and self._shown - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        if self._shown - since < 1 or self.done <= before:
            return ""
        rate = (self.done - before) / (self._shown - since)
        return f", {size(round(rate))}/s, {duration((self.total - self.done) / rate)} left"
