"""What the sampling benchmark prints for people."""

from collections.abc import Mapping

from benchmarks.sampling_kernels import KINDS, PRODUCTS, KernelTimes
from benchmarks.sampling_rows import Row


def print_rows(rows: list[Row], missing: Mapping[str, str]) -> None:
    """Print rows under one head, then what could not run and why."""
    first = rows[0]
    print(f"{first.model}, batch {first.batch}, ", end="")
    print(f"{first.device}, {first.threads} threads of the CPU")
    baselines = list(dict.fromkeys(name for row in rows for name in row.speedup))
    print(f"{'engine':<27}{'bits':>7}{'ms':>10}{'weights MB':>12}", end="")
    print(f"{'peak MB':>9}{'error':>8}", end="")
    print("".join(f"{'x ' + _short(name):>26}" for name in baselines), " note")
    for row in rows:
        bits = f"W{row.weight_bits}A{row.activation_bits}"
        print(
            f"{row.engine:<27}{bits:>7}{1e3 * row.seconds_per_forward:>10.3f}", end=""
        )
        print(f"{row.weight_bytes / 1e6:>12.2f}{row.peak_bytes / 1e6:>9.1f}", end="")
        error = "" if row.relative_error is None else f"{row.relative_error:.4f}"
        print(f"{error:>8}", end="")
        print("".join(f"{_ratio(row, name):>26}" for name in baselines), end="")
        print(f"  {row.note}")
    for name, why in missing.items():
        print(f"{name}: left out. {why}")


def print_kernels(label: str, times: KernelTimes) -> None:
    """Print what the kernels of a forward take alone, and what that leaves."""
    forward = times.forward_seconds
    print(f"\n{label}: a forward takes {1e3 * forward:.3f} ms; its kernels alone:")
    print(f"{'kernel':<15}{'calls':>6}{'ms':>9}{'share':>8}{'Tops/s':>9}  what")
    for kernel in times.kernels:
        rate = kernel.operations / kernel.seconds / 1e12
        print(f"{kernel.kind:<15}{kernel.calls:>6}{1e3 * kernel.seconds:>9.3f}", end="")
        print(f"{kernel.seconds / forward:>8.1%}{rate:>9.3f}  {kernel.what}")
    for kind in KINDS:
        seconds = times.seconds_of(kind)
        print(f"all {kind:<17}{1e3 * seconds:>9.3f}{seconds / forward:>8.1%}")
    products, every = times.seconds_of(*PRODUCTS), times.seconds_of(*KINDS)
    between = forward - every
    print(f"between kernels      {1e3 * between:>9.3f}{between / forward:>8.1%}")
    print(f"the forward is {forward / products:.2f} times its integer products", end="")
    print(f" and {forward / every:.2f} times all of its kernels;")
    rate = times.operations / forward
    print(f"it achieves {rate / 1e12:.3f}e12 int8 operations a second", end="")
    peak = times.peak_operations_per_second
    print("" if peak is None else f", {rate / peak:.1%} of the device's {peak:.3g}")


def _short(engine: str) -> str:
    return engine.removeprefix("diffusers-")


def _ratio(row: Row, baseline: str) -> str:
    if baseline not in row.speedup:
        return ""
    ratio, low, high = row.speedup[baseline]
    return f"{ratio:.2f} ({low:.2f} to {high:.2f})"
