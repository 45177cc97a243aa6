"""Variant profiles for tests of workloads."""

from serving.routing.profile import LatencyQuantiles, VariantProfile


def profile(variant: str, **p95_s: float) -> VariantProfile:
    """Return a profile with the given p95 by batch size (`b1=0.01`); medians are half of it."""
    return VariantProfile(
        variant=variant,
        accuracy=0.9,
        tier_accuracy=0.9,
        accuracy_drop=0.0,
        agreement=1.0,
        weight_bytes=1,
        artifact_bytes=1,
        latencies={
            int(size.removeprefix("b")): LatencyQuantiles(p50_s=s / 2, p95_s=s, p99_s=s * 2)
            for size, s in p95_s.items()
        },
    )


PROFILES = {
    "dense": profile("dense", b1=0.010, b8=0.040, b64=0.400),
    "int8": profile("int8", b1=0.004, b8=0.010),
    "sparse": profile("sparse", b1=0.005, b8=0.009),
}
