"""`python -m paretoserve` runs the command `paretoserve`."""

from __future__ import annotations

from paretoserve.main import main

main()
