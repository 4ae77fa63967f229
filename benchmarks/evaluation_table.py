"""What the evaluation benchmark prints for people."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def print_rows(rows: Sequence[Row], missing: Mapping[str, str]) -> None:
    """Print rows by what they are, then what could not run and why."""
    kinds = ("sharding", "simulation")
    plain = [row for row in rows if row["engine"] not in kinds]
    if plain:
        _print_engines(plain)
    for row in rows:
        if row["engine"] == "sharding":
            _print_sharding(row)
    simulated = [row for row in rows if row["engine"] == "simulation"]
    if simulated:
        _print_simulation(simulated)
    for name, why in missing.items():
        print(f"{name}: left out. {why}")


def _print_engines(rows: Sequence[Row]) -> None:
    baselines = list(dict.fromkeys(name for r in rows for name in r.get("speedup", {})))
    print(f"{'engine':<34}{'images':>8}{'images/s':>10}{'peak MB':>9}", end="")
    print("".join(f"{'x ' + name:>27}" for name in baselines))
    for row in rows:
        print(f"{row['engine']:<34}{row['images']:>8}", end="")
        print(
            f"{row['images_per_second']:>10.2f}{row['peak_bytes'] / 1e6:>9.1f}", end=""
        )
        print("".join(f"{_ratio(row, name):>27}" for name in baselines))
    floors = [row["floor_bytes"] / 1e6 for row in rows]
    print(
        f"peak MB: beyond {min(floors):.0f} to {max(floors):.0f} MB that the ", end=""
    )
    print("interpreter, torch and the libraries take before")


def _ratio(row: Row, name: str) -> str:
    found = row.get("speedup", {}).get(name)
    if found is None:
        return ""
    if isinstance(found, float):
        return f"{found:.2f}"
    return "{:.2f} ({:.2f} to {:.2f})".format(*found)


def _print_sharding(row: Row) -> None:
    print(f"\n{row['images']} images in {row['shards']} shards, one thread a worker:")
    for name in ("1_worker", "2_workers", "one_killed"):
        print(f"  {name:<12}{row[f'seconds_{name}']:>8.1f} s", end="")
        print(f"   score {row[f'score_{name}']!r}")
    print(f"  2 workers are {row['speedup_2_workers']:.2f} times as fast; ", end="")
    print(f"scores are {'identical' if row['identical'] else 'NOT identical'}")


def _print_simulation(rows: Sequence[Row]) -> None:
    print(f"\n{rows[0]['images']} images, computed from measured seconds:")
    print(f"{'workers':>9}{'images/s':>10}{'speedup':>9}{'efficiency':>12}")
    for row in rows:
        print(f"{row['workers']:>9}{row['images_per_second']:>10.1f}", end="")
        print(f"{row['speedup']:>9.1f}{row['efficiency']:>12.0%}")
