"""The GPUs: what they do, what holds them back, and which one breaks."""

from __future__ import annotations

from grafana.parts import (
    BAD,
    FAIR,
    GOOD,
    GPU_POD,
    NAMESPACE,
    NODES,
    REGION,
    RELEASE,
    WHERE,
    WHO,
    Board,
    Panel,
    Query,
    Row,
    rate,
)

GPUS = f'{RELEASE}, pod=~"$pod"'
# A pod has one GPU as a rule; where it has more, each is a line of its own.
BY = "pod, gpu_uuid"
LEGEND = "{{pod}}"
DEVICE = "{{Hostname}} GPU {{gpu}}"
DEVICES = "Hostname, gpu"
DCGM = "dcgm-exporter (GPU operator, or GKE's managed one)"
# Bits of DCGM_FI_DEV_CLOCK_THROTTLE_REASONS that cost throughput; the others are idle and what was asked for.
THROTTLING = {
    "power cap": 0x4,
    "hardware slowdown": 0x8,
    "software: hot": 0x20,
    "hardware: hot": 0x40,
    "power brake": 0x80,
}


def each(metric: str) -> str:
    return f"max by ({BY}) ({metric}{{{GPUS}}})"


def throttled(bit: int) -> str:
    """How many GPUs have that bit set."""
    reasons = f"max by ({DEVICES}) (DCGM_FI_DEV_CLOCK_THROTTLE_REASONS{{{NODES}}})"
    return f"sum(floor({reasons} / {bit}) % 2)"


USE = Row(
    "Use",
    (
        Panel(
            "Utilisation",
            "The part of the time in which the GPU runs at least one kernel: busy, not necessarily well "
            "used.",
            "`nv_gpu_utilization`, from Triton.",
            "Low while requests wait: too few instances, or the CPU feeds it too slowly. High with small "
            "batches: see the batch size on the Triton dashboard.",
            (Query(each("nv_gpu_utilization"), LEGEND),),
            "percentunit",
            maximum=1,
        ),
        Panel(
            "Memory used",
            "The GPU's memory that is in use, by engines, their contexts and CUDA.",
            "`nv_gpu_memory_used_bytes` / `nv_gpu_memory_total_bytes`, from Triton.",
            "Near 100 %: the next model or instance does not load. `model.instances.count`, smaller "
            "profiles.",
            (
                Query(
                    f"{each('nv_gpu_memory_used_bytes')}\n/ {each('nv_gpu_memory_total_bytes')}",
                    LEGEND,
                ),
            ),
            "percentunit",
            alerts=("InferenceGpuMemoryNearlyFull", "InferenceGpuMissing"),
            maximum=1,
        ),
        Panel(
            "GPUs of the release",
            "Each pod's GPU now.",
            "`nv_gpu_*`, from Triton.",
            "A pod without a GPU is missing here: see its runbook.",
            (
                Query(each("nv_gpu_utilization"), "Utilisation", unit="percentunit"),
                Query(each("nv_gpu_memory_used_bytes"), "Memory used", unit="bytes"),
                Query(each("nv_gpu_memory_total_bytes"), "Memory", unit="bytes"),
                Query(each("nv_gpu_power_usage"), "Power", unit="watt"),
                Query(each("nv_gpu_power_limit"), "Power limit", unit="watt"),
            ),
            "none",
            kind="table",
            alerts=("InferenceGpuMissing",),
            columns=(("pod", "Pod"), ("gpu_uuid", "GPU")),
            width=24,
            height=7,
        ),
    ),
)

POWER = Row(
    "Power and energy",
    (
        Panel(
            "Power",
            "What each GPU draws, with the lowest power limit.",
            "`nv_gpu_power_usage` and `nv_gpu_power_limit`, from Triton.",
            "At its limit for long, the GPU lowers its clocks: a T4 is made to. Expect less throughput than "
            "measured cold.",
            (
                Query(each("nv_gpu_power_usage"), LEGEND),
                Query(f"min(nv_gpu_power_limit{{{GPUS}}})", "limit", objective=True),
            ),
            "watt",
            alerts=("InferenceGpuPowerCapped",),
            width=8,
        ),
        Panel(
            "Energy of a request",
            "The energy that the GPUs spend on one answered request, idle time included.",
            "`nv_energy_consumption` / `nv_inference_request_success`.",
            "Rises when GPUs idle: fewer replicas do. Rises under load: smaller batches, or another engine.",
            (
                Query(
                    f"{rate('nv_energy_consumption', GPUS, WHERE)}\n"
                    f"/ ({rate('nv_inference_request_success', GPUS, WHERE)} > 0)",
                    WHO,
                ),
            ),
            "joule",
            width=8,
        ),
        Panel(
            "Energy in this time",
            "What each pod's GPUs spent in the time that the dashboard shows. 3.6 MJ are a kilowatt hour.",
            "`nv_energy_consumption`, from Triton.",
            "Nothing is wrong; it is what the bill is about.",
            (Query(f"sum by (pod) (increase(nv_energy_consumption{{{GPUS}}}[$__range]))", LEGEND),),
            "joule",
            kind="bargauge",
            width=8,
        ),
    ),
)

HEALTH = Row(
    "Clocks, heat and errors, of every GPU node",
    (
        Panel(
            "Temperature",
            "How hot each GPU is.",
            f"`DCGM_FI_DEV_GPU_TEMP`, from {DCGM}.",
            "Above some 85 °C most GPUs slow down. Drain the node, and let the provider look at its cooling.",
            (Query(f"max by ({DEVICES}) (DCGM_FI_DEV_GPU_TEMP{{{NODES}}})", DEVICE),),
            "celsius",
            alerts=("InferenceGpuHot",),
            width=8,
        ),
        Panel(
            "Clock",
            "The clock of each GPU's multiprocessors.",
            f"`DCGM_FI_DEV_SM_CLOCK`, from {DCGM}.",
            "Low under load: the next panel says why.",
            (Query(f"max by ({DEVICES}) (DCGM_FI_DEV_SM_CLOCK{{{NODES}}}) * 1e6", DEVICE),),
            "hertz",
            alerts=("InferenceGpuPowerCapped", "InferenceGpuHot"),
            width=8,
        ),
        Panel(
            "GPUs that are throttled",
            "How many GPUs run below the clock that was asked for, by reason.",
            f"`DCGM_FI_DEV_CLOCK_THROTTLE_REASONS`, from {DCGM}. The exporter's own list of counters leaves "
            f"it out.",
            "Power cap: expected of a T4 under load. Hot, or a power brake: the node, not the model.",
            tuple(Query(throttled(bit), reason) for reason, bit in THROTTLING.items()),
            "none",
            alerts=("InferenceGpuPowerCapped", "InferenceGpuHot"),
            decimals=0,
            stacked=True,
            width=8,
        ),
        Panel(
            "Last XID error",
            "The number of the last error that the driver reported; 0: none since it was loaded.",
            f"`DCGM_FI_DEV_XID_ERRORS`, from {DCGM}.",
            "48, 63, 64, 74, 79, 94, 95: the hardware; drain the node. 13, 31, 43: a program's fault; read "
            "its log.",
            (Query(f"max by ({DEVICES}) (DCGM_FI_DEV_XID_ERRORS{{{NODES}}})", DEVICE),),
            "none",
            kind="bargauge",
            alerts=("InferenceGpuXid",),
            first=GOOD,
            steps=((1.0, BAD),),
            width=8,
        ),
        Panel(
            "Memory errors, not corrected",
            "Double-bit errors of each GPU's memory since its driver was loaded.",
            f"`DCGM_FI_DEV_ECC_DBE_VOL_TOTAL`, from {DCGM}. The exporter's own list of counters leaves it "
            f"out.",
            "Any: results may be wrong. Drain the node and have the GPU replaced.",
            (Query(f"max by ({DEVICES}) (DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{{{NODES}}})", DEVICE),),
            "none",
            kind="bargauge",
            alerts=("InferenceGpuEcc",),
            first=GOOD,
            steps=((1.0, BAD),),
            width=8,
        ),
        Panel(
            "Rows that could not be remapped",
            "1 where the GPU ran out of spare memory for rows that broke. GPUs before Ampere, such as a T4, "
            "say nothing.",
            f"`DCGM_FI_DEV_ROW_REMAP_FAILURE`, from {DCGM}.",
            "Have the GPU replaced.",
            (Query(f"max by ({DEVICES}) (DCGM_FI_DEV_ROW_REMAP_FAILURE{{{NODES}}})", DEVICE),),
            "none",
            kind="bargauge",
            alerts=("InferenceGpuEcc",),
            first=GOOD,
            steps=((1.0, FAIR),),
            width=8,
        ),
    ),
)

BOARD = Board(
    "gpu",
    "Inference: GPU",
    "Use, power, energy, heat, clocks and errors of the GPUs.",
    (USE, POWER, HEALTH),
    (REGION, NAMESPACE, GPU_POD),
)
