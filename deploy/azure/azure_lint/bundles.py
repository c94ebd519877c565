"""What a bundle of opt-2.7b needs. Sizes are in 10^9 bytes; docs/azure.md says where each number is from."""

from __future__ import annotations

from dataclasses import dataclass

# Assumed speed of a disk whose pages are not in the cache: below the smallest limit among the
# sizes here, 128 MB/s (Standard_DS3_v2). On a disk limited to 200 MB/s int8 took 20.8 s, all of it reading.
COLD_READ_GB_S = 0.1
# Assumed to be taken by the platform beside the container.
PLATFORM_GB = 2.0


@dataclass(frozen=True)
class Bundle:
    """A bundle by target and precision."""

    disk_gb: float
    memory_gb: float
    gpu_memory_gb: float
    warm_start_s: float

    @property
    def start_s(self) -> float:
        """From the start of the process until ready, when nothing is in the page cache."""
        return self.warm_start_s + self.disk_gb / COLD_READ_GB_S


# CPU: the most that was measured. CUDA: sizes computed in docs/gpu.md, with 1 GiB for CUDA and one slot of all
# positions; host memory taken as the bundle once; no start was measured: three minutes are assumed beside the reading.
BUNDLES = {
    ("cpu", "fp32"): Bundle(disk_gb=14.97, memory_gb=15.72, gpu_memory_gb=0, warm_start_s=15.5),
    ("cpu", "int8"): Bundle(disk_gb=4.09, memory_gb=5.39, gpu_memory_gb=0, warm_start_s=8.8),
    ("cpu", "int4"): Bundle(disk_gb=3.19, memory_gb=5.10, gpu_memory_gb=0, warm_start_s=8.4),
    ("cuda", "fp16"): Bundle(disk_gb=7.7, memory_gb=8.0, gpu_memory_gb=10.0, warm_start_s=180),
    ("cuda", "int8"): Bundle(disk_gb=5.4, memory_gb=6.0, gpu_memory_gb=7.7, warm_start_s=180),
    ("cuda", "int4"): Bundle(disk_gb=4.1, memory_gb=5.0, gpu_memory_gb=6.4, warm_start_s=180),
}
# What a deployment without tags is taken for: the exporter's defaults.
DEFAULT_PRECISION = {"cpu": "int8", "cuda": "fp16"}
