"""What is known about a run so far."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cutout_client.cli import console
from cutout_client.cli.kept import Keeper
from cutout_client.cli.outcomes import Outcome, said
from cutout_client.cli.stopping import Stop
from cutout_client.coco import CocoDataset
from cutout_client.exports import Dataset
from cutout_client.results import Segmentation
from cutout_client.saving import write_json


@dataclass
class Tally:
    """Counts, failures, and the dataset of all answers.

    Attributes:
        total: Pictures that there are.
        exports: Datasets of other tools, by their formats, which take every answer.
        done: Of them, those with which nothing is wrong.
        kept: Of these, those that an earlier run has asked about.
    """

    total: int
    exports: Mapping[str, Dataset]
    done: int = 0
    kept: int = 0
    _failures: list[str] = field(default_factory=list)
    _dataset: CocoDataset = field(default_factory=CocoDataset)
    _kept_by: Counter[tuple[str, ...]] = field(default_factory=Counter)
    _asked_of: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Takes note of one picture."""
        failures = [said(outcome.error)] if outcome.error else []
        if outcome.result is not None:
            self._dataset.add(outcome.job.title, outcome.result)
            (self._kept_by if outcome.kept else self._asked_of)[outcome.result.models] += 1
            failures += self._export(outcome.job.title, outcome.result)
        if not failures:
            self.done += 1
            self.kept += outcome.kept
        else:
            self._failures.append(f"{outcome.job.title}: {'; '.join(failures)}")

    def write_datasets(self, keeper: Keeper, *, coco: bool) -> None:
        """Writes what is about all pictures, if there are any answers: one COCO file, and the other tools' datasets."""
        if self._kept_by or self._asked_of:
            paths = write_json(keeper.out / "coco.json", self._dataset.to_dict()) if coco else []
            keeper.keep_datasets([*paths, *(path for export in self.exports.values() for path in export.save())])

    def _export(self, title: str, result: Segmentation) -> list[str]:
        failures = []
        for form, export in self.exports.items():
            try:
                export.add(title, result)
            except (OSError, ValueError) as error:
                failures.append(f"{form} was not written: {said(error)}")
        return failures

    def print_failures(self, stop: Stop) -> None:
        """Lists on stderr what failed, why, and what was not asked about."""
        for failure in self._failures:
            console.write_error(failure)
        if unasked := self.total - self.done - len(self._failures):
            write = console.write_warning if stop.signals else console.write_error
            write(f"{unasked} more pictures were not asked about: {stop.reason}")
        if self._asked_of and (others := self._kept_by.keys() - self._asked_of.keys()):
            names = "; ".join(", ".join(each) for each in sorted(others))
            count = sum(self._kept_by[each] for each in others)
            console.write_warning(f"{count} answers of an earlier run are by {names}: --again asks anew")

    def print_end(self, out: Path) -> None:
        """Says how much was done, and where it is."""
        before = f" ({self.kept} of them before; --again asks anew)" if self.kept else ""
        text = f"\n{self.done} of {self.total} pictures done{before}, files in {out}/"
        console.stdout().print(text, soft_wrap=True)
