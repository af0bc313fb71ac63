"""Taking turns: every subject is measured a little, again and again, so that the machine's moods fall on all alike."""

import gc
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import NamedTuple


class Figure(NamedTuple):
    """One line of the table: what was measured, beside what, and whether that reaches far enough."""

    benchmark: str
    subject: str
    rate: float
    reference: str
    reference_rate: float
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "/s"

    @property
    def ratio(self) -> float:
        return self.rate / self.reference_rate

    @property
    def reaches(self) -> bool | None:
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.ratio >= self.at_least) and (
            self.at_most is None or self.ratio <= self.at_most
        )


def seconds(call: Callable[[], object]) -> float:
    gc.collect()
    start = perf_counter()
    call()
    return perf_counter() - start


def take_turns(subjects: dict[str, Callable[[int], float]], *, count: int, rounds: int) -> dict[str, float]:
    """Things per second of each subject: the median over the rounds. A subject does ``count`` and says how long."""
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    for subject in subjects.values():
        subject(max(1, count // 5))  # warm
    for number in range(rounds):
        # Who goes first changes, so that nobody always follows the same neighbour.
        names = list(subjects)[number % len(subjects) :] + list(subjects)[: number % len(subjects)]
        for name in names:
            gc.collect()
            taken[name].append(subjects[name](count))
    return {name: count / median(times) for name, times in taken.items()}


def table(figures: list[Figure]) -> str:
    rows = [("benchmark", "subject", "", "beside", "", "ratio", "reach", "")]
    for figure in figures:
        reach = [f"≥ {figure.at_least:g}"] if figure.at_least is not None else []
        reach += [f"≤ {figure.at_most:g}"] if figure.at_most is not None else []
        rows.append(
            (
                figure.benchmark,
                figure.subject,
                f"{figure.rate:,.0f}{figure.unit}",
                figure.reference,
                f"{figure.reference_rate:,.0f}{figure.unit}",
                f"{figure.ratio:.2f}",
                " ".join(reach),
                {True: "reached", False: "MISSED", None: ""}[figure.reaches],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(8)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in (2, 4, 5) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
