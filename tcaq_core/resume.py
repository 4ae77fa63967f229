"""What a job saves as it goes, and how the next attempt takes it up.

``calibrate``                the calibration data
``<pass>``                   the denoiser after the pass, as a snapshot
``par/round-<k>/inputs``     trajectories that the quantized model sampled
``par/round-<k>/<block>``    what reconstruction changed in the block

Each also holds the generator's state, where randomness goes on, and what was reported:
an attempt that resumes draws the same numbers as one that nothing disturbed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tcaq_core.block_state import block_state, changed, load_block_state
from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.journal import Entry, Journal, tensors_digest
from tcaq_core.learned import Rounding
from tcaq_core.manifest import Structure
from tcaq_core.state import load_state, state_of
from tcaq_core.structure import structure_of


def recorded(
    journal: Journal,
    name: str,
    record: Callable[[], CalibrationSet],
    *,
    device: torch.device,
    tick: Callable[[], None],
) -> CalibrationSet:
    """Return the saved calibration data; record and save it where there is none.

    `tick` is called when it was saved, to say that it is there.

    Raises:
        ResumeRefused: as `Journal.read`.
    """
    entry = journal.read(name)
    if entry is not None:
        tick()
        journal.reached(name)
        return _data(entry.tensors, device)
    data = record()
    journal.write(name, Entry(_tensors(data)))
    return data


def calibrated(journal: Journal, data: CalibrationSet) -> Journal:
    """Return the journal for what follows calibration: its data is binding, too."""
    return journal.under(tensors_digest(_tensors(data)))


@dataclass
class Stages:
    """The passes that are finished: the denoiser's state after each, and reports."""

    journal: Journal
    denoiser: QuantizedDenoiser
    generator: torch.Generator
    finished: list[str] = field(default_factory=list)
    """The passes that were restored and need not run."""
    report: dict[str, Any] = field(default_factory=dict)

    def restore(self, kinds: Sequence[str], data: CalibrationSet) -> CalibrationSet:
        """Bring the denoiser to where the saved passes left it; return their data.

        The denoiser has just been built from its recipe.

        Raises:
            ResumeRefused: as `Journal.read`.
        """
        device = data.x_t.device
        last: Entry | None = None
        for kind in kinds:
            entry = self.journal.read(kind)
            if entry is None:
                break
            last = entry
            self.finished.append(kind)
            if kept := _under("data", entry.tensors):
                data = _data(kept, device)
        if last is not None:
            state = {k: v.to(device) for k, v in _under("state", last.tensors).items()}
            structure = Structure.model_validate_json(last.facts["structure"])
            load_state(self.denoiser, state, structure, snapshot=True)
            self.generator.set_state(last.tensors["generator"])
            self.report.update(last.facts["report"])
        return data

    def save(self, kind: str, *, data: CalibrationSet | None = None) -> None:
        """Save what a pass left; `data` is given if the pass changed it."""
        state = state_of(self.denoiser, snapshot=True)
        tensors = {f"state/{name}": tensor for name, tensor in state.items()}
        tensors["generator"] = self.generator.get_state()
        if data is not None:
            tensors |= {f"data/{name}": x for name, x in _tensors(data).items()}
        structure = structure_of(self.denoiser).model_dump_json()
        facts = {"report": self.report, "structure": structure}
        self.journal.write(kind, Entry(tensors, facts))


@dataclass
class Blocks:
    """The blocks that are reconstructed, round by round, and what carries over."""

    journal: Journal
    denoiser: QuantizedDenoiser
    generator: torch.Generator
    tick: Callable[[int], None]
    """Called with the number of blocks that are done, when some were restored."""
    roundings: dict[str, Rounding] = field(default_factory=dict)
    report: list[dict[str, Any]] = field(default_factory=list)

    def restore_round(self, k: int) -> bool:
        """Restore a whole round; return False, with nothing done, if it is not whole.

        Raises:
            ResumeRefused: as `Journal.read`.
        """
        names = list(self.denoiser.blocks())
        if not all(self.journal.has(_entry_name(k, name)) for name in names):
            return False
        entries = [(name, self.journal.read(_entry_name(k, name))) for name in names]
        whole = [(name, entry) for name, entry in entries if entry is not None]
        if len(whole) < len(names):
            return False
        for name, entry in sorted(whole, key=lambda pair: int(pair[1].facts["index"])):
            self._take(name, entry)
        self._passed(k)
        return True

    def restore(self, k: int, name: str) -> bool:
        """Restore one block of a round; return whether there was one to restore.

        Raises:
            ResumeRefused: as `Journal.read`.
        """
        entry = self.journal.read(_entry_name(k, name))
        if entry is None:
            return False
        self._take(name, entry)
        self._passed(k)
        return True

    def reconstruct(
        self,
        k: int,
        name: str,
        work: Callable[[], tuple[Rounding, dict[str, Any]]],
        *,
        carries_over: bool,
    ) -> None:
        """Do a block's work and save what it changed.

        The rounding variables are as large as the weights: they are saved only if a
        later round starts from them.
        """
        block = self.denoiser.blocks()[name]
        before = block_state(block)
        self.roundings[name], report = work()
        tensors = {f"block/{key}": v for key, v in changed(before, block).items()}
        tensors["generator"] = self.generator.get_state()
        if carries_over:
            rounding = self.roundings[name]
            tensors |= {f"rounding/{key}": v for key, v in rounding.items()}
        facts = {"report": report, "index": len(self.report)}
        self.journal.write(_entry_name(k, name), Entry(tensors, facts))
        self.report.append(report)

    def _passed(self, k: int) -> None:
        self.tick(len(self.report))
        self.journal.reached(_entry_name(k, str(self.report[-1]["block"])))

    def _take(self, name: str, entry: Entry) -> None:
        block = self.denoiser.blocks()[name]
        load_block_state(block, _under("block", entry.tensors))
        device = self.denoiser.unet.device
        rounding = _under("rounding", entry.tensors)
        self.roundings[name] = {key: v.to(device) for key, v in rounding.items()}
        self.generator.set_state(entry.tensors["generator"])
        self.report.append(entry.facts["report"])


def _entry_name(k: int, block: str) -> str:
    return f"par/round-{k}/{block}"


def _tensors(data: CalibrationSet) -> dict[str, Tensor]:
    return {"x_t": data.x_t, "t": data.t}


def _data(tensors: dict[str, Tensor], device: torch.device) -> CalibrationSet:
    return CalibrationSet(tensors["x_t"].to(device), tensors["t"].to(device))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
