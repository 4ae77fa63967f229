"""Tests; a package, because one of the same name comes with torch-fidelity."""
