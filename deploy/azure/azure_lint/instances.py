"""The sizes that managed online endpoints offer, by Microsoft's list, and what is in them.

The list: https://learn.microsoft.com/azure/machine-learning/reference-managed-online-endpoints-vm-sku-list
Memory: the pages of the families under https://learn.microsoft.com/azure/virtual-machines/sizes
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Instance:
    """Memory in GiB. `gpu` is None without one; a part of a GPU counts with its memory."""

    name: str
    cores: int
    memory_gib: float
    gpu: str | None = None
    gpu_memory_gib: int = 0


def _family(pattern: str, cores: tuple[int, ...], gib_per_core: float) -> list[Instance]:
    return [Instance(pattern.format(n), n, n * gib_per_core) for n in cores]


_ALL = [
    *_family("Standard_DS{}_v2", (1,), 3.5),
    Instance("Standard_DS2_v2", 2, 7),
    Instance("Standard_DS3_v2", 4, 14),
    Instance("Standard_DS4_v2", 8, 28),
    Instance("Standard_DS5_v2", 16, 56),
    *_family("Standard_D{}a_v4", (2, 4, 8, 16, 32, 48, 64, 96), 4),
    *_family("Standard_D{}as_v4", (2, 4, 8, 16, 32, 48, 64, 96), 4),
    *_family("Standard_E{}s_v3", (2, 4, 8, 16, 32, 48), 8),
    Instance("Standard_E64s_v3", 64, 432),
    *_family("Standard_F{}s_v2", (2, 4, 8, 16, 32, 48, 64, 72), 2),
    *_family("Standard_FX{}mds", (4, 12, 24, 36, 48), 21),
    *_family("Standard_L{}as_v3", (8, 16, 32, 48, 64, 80), 8),
    *_family("Standard_L{}s_v2", (8, 16, 32, 48, 64, 80), 8),
    *_family("Standard_L{}s_v3", (8, 16, 32, 48, 64, 80), 8),
    Instance("Standard_NC4as_T4_v3", 4, 28, "T4", 16),
    Instance("Standard_NC8as_T4_v3", 8, 56, "T4", 16),
    Instance("Standard_NC16as_T4_v3", 16, 110, "T4", 16),
    Instance("Standard_NC64as_T4_v3", 64, 440, "T4", 16),
    Instance("Standard_NC24ads_A100_v4", 24, 220, "A100", 80),
    Instance("Standard_NC48ads_A100_v4", 48, 440, "A100", 80),
    Instance("Standard_NC96ads_A100_v4", 96, 880, "A100", 80),
    Instance("Standard_NC6s_v2", 6, 112, "P100", 16),
    Instance("Standard_NC12s_v2", 12, 224, "P100", 16),
    Instance("Standard_NC24s_v2", 24, 448, "P100", 16),
    Instance("Standard_NC6s_v3", 6, 112, "V100", 16),
    Instance("Standard_NC12s_v3", 12, 224, "V100", 16),
    Instance("Standard_NC24s_v3", 24, 448, "V100", 16),
    Instance("Standard_NC40ads_H100_v5", 40, 320, "H100", 94),
    Instance("Standard_NC80adis_H100_v5", 80, 640, "H100", 94),
    Instance("Standard_ND96amsr_A100_v4", 96, 1900, "A100", 80),
    Instance("Standard_ND96asr_v4", 96, 900, "A100", 40),
    Instance("Standard_ND40rs_v2", 40, 672, "V100", 32),
    Instance("Standard_ND96is_H100_v5", 96, 1900, "H100", 80),
    Instance("Standard_ND96isr_H100_v5", 96, 1900, "H100", 80),
    Instance("Standard_NV6ads_A10_v5", 6, 55, "A10", 4),
    Instance("Standard_NV12ads_A10_v5", 12, 110, "A10", 8),
    Instance("Standard_NV18ads_A10_v5", 18, 220, "A10", 12),
    Instance("Standard_NV36ads_A10_v5", 36, 440, "A10", 24),
    Instance("Standard_NV36adms_A10_v5", 36, 880, "A10", 24),
    Instance("Standard_NV72ads_A10_v5", 72, 880, "A10", 24),
]
# Azure does not mind the case of a size's name.
INSTANCES = {instance.name.lower(): instance for instance in _ALL}
# CUDA 13 has no code for them (docs/gpu.md).
TOO_OLD = ("P100", "V100")
