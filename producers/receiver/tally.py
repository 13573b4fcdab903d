"""What was stored since it was last counted: one append an instance, the metrics once a second."""

from collections import deque

from infra import metrics


class Tally:
    """Associations add, each from its own thread; one thread counts."""

    def __init__(self) -> None:
        self._stored: deque[tuple[str, int, float]] = deque()  # its ends may be used from several threads

    def add(self, source: str, length: int, seconds: float) -> None:
        """Note an instance: its source, bytes of its dataset, seconds until it was durable."""
        self._stored.append((source, length, seconds))

    def count(self) -> None:
        """Bring what was noted into the metrics."""
        for _ in range(len(self._stored)):
            source, length, seconds = self._stored.popleft()
            metrics.inc("prodrome_receive_instances_total", source=source)
            metrics.inc("prodrome_receive_bytes_total", length, source=source)
            metrics.observe("prodrome_receive_ack_seconds", seconds, source=source)
