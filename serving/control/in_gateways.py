"""The variants that gateways compute in their own processes, as the decision sees them.

A gateway loads a generation as soon as the lineup names it, and releases it when no request needs
it any more. So nothing is deployed for it: what gateways report takes the place of an application.
"""

from __future__ import annotations

from collections.abc import Set

from serving.control.cluster import App, GenerationKey
from serving.control.state import Snapshot


def apps_in_gateways(state: Snapshot, variants: Set[str]) -> dict[GenerationKey, App]:
    """Return what stands for the applications of these variants, by generation."""
    apps = {}
    for variant in state.variants:
        for each in variant.generations if variant.name in variants else ():
            key = (variant.name, each.number)
            reports = [
                report
                for report in state.reports
                if (report.variant, report.generation) == key and report.gateway in state.gateways
            ]
            if each.state in ("warming", "published"):
                errors = (report.error for report in reports if not report.replicas)
                apps[key] = App("running", next(filter(None, errors), None))
            elif each.state == "draining" and reports:
                apps[key] = App("stopping")
    return apps
