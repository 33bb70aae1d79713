"""Are there enough pods, and do they get what they ask for: autoscaling, processors, memory, GPUs."""

from __future__ import annotations

from grafana.parts import (
    CLUSTER,
    NAMESPACE,
    NODES,
    REGION,
    RELEASE,
    TRITON_PODS,
    WHERE,
    WHO,
    Board,
    Panel,
    Query,
    Row,
    or_none,
    rate,
)

DEPLOYMENT = f'{CLUSTER}, deployment=~".+-triton"'
# KEDA names its scaler after the Deployment, with a prefix.
SCALER = f'{CLUSTER}, horizontalpodautoscaler=~"(keda-hpa-)?.+-triton"'
PODS = f"{CLUSTER}, {TRITON_PODS}"
CONTAINERS = f'{PODS}, container!=""'
GPU = 'resource="nvidia_com_gpu"'
STATE = "kube-state-metrics"


def used(resource: str, kind: str) -> str:
    """What the pods ask for, or may use, of a resource: of all pods the least, since they are of one kind."""
    return f'min(sum by (pod) (kube_pod_container_resource_{kind}{{{PODS}, resource="{resource}"}}))'


REPLICAS = Row(
    "Pods and autoscaling",
    (
        Panel(
            "Pods",
            "Pods that are ready, that are wanted, and the most that the autoscaler may ask for.",
            f"`kube_deployment_*` and `kube_horizontalpodautoscaler_*`, from {STATE}.",
            "Ready below wanted: the panels below say what pods wait for. Wanted at the maximum: raise it, "
            "or the quota of GPUs.",
            (
                Query(f"sum(kube_deployment_status_replicas_available{{{DEPLOYMENT}}})", "ready"),
                Query(f"sum(kube_deployment_spec_replicas{{{DEPLOYMENT}}})", "wanted"),
                Query(
                    f"sum(kube_horizontalpodautoscaler_spec_max_replicas{{{SCALER}}})",
                    "maximum",
                    objective=True,
                ),
                Query(
                    f"sum(kube_horizontalpodautoscaler_spec_min_replicas{{{SCALER}}})",
                    "minimum",
                ),
            ),
            "none",
            alerts=("InferenceReplicasAtMaximum", "InferencePodNotReady"),
            decimals=0,
        ),
        Panel(
            "Pods that answer Prometheus",
            "Pods that serve their metrics, which Triton does once its model is loaded, and those that "
            "don't.",
            "Prometheus' own `up`.",
            "A pod that does not answer is starting, ending or stuck; its log says which.",
            (
                Query(f'sum(up{{{RELEASE}, job=~".+-triton"}})', "answer"),
                Query(f'sum(1 - up{{{RELEASE}, job=~".+-triton"}})', "don't"),
            ),
            "none",
            alerts=("InferencePodDown", "InferenceNoPodAnswers"),
            decimals=0,
            stacked=True,
        ),
        Panel(
            "Requests a pod",
            "Requests a second for each pod that answers, by region.",
            "`inference:requests:rate5m` and `up`.",
            "Above `autoscaling.requestsPerSecond` for long, the scaler can't or may not add pods.",
            (
                Query(
                    f"sum by ({WHERE}) (inference:requests:rate5m{{{RELEASE}}})\n"
                    f'/ (sum by ({WHERE}) (up{{{RELEASE}, job=~".+-triton"}}) > 0)',
                    WHO,
                ),
            ),
            "reqps",
            alerts=("InferenceReplicasAtMaximum",),
            width=8,
        ),
        Panel(
            "Asked of the autoscaler: requests",
            "What clients ask for, refused requests included; over `autoscaling.requestsPerSecond` it is "
            "the first of the two numbers of pods of which the larger wins.",
            "`inference:autoscaling:requests`.",
            "See docs/operations.md, Autoscaling.",
            (Query(f"sum by ({WHERE}) (inference:autoscaling:requests{{{RELEASE}}})", WHO),),
            "reqps",
            alerts=("InferenceReplicasAtMaximum",),
            width=8,
        ),
        Panel(
            "Asked of the autoscaler: pods for the objectives",
            "The second: a quarter more pods than answer while an objective is missed, as many while the "
            "queue is above half of its objective, else none.",
            "`inference:autoscaling:replicas_for_objectives`.",
            "Above 0 for long: the objectives are missed with all the pods there are.",
            (
                Query(
                    f"sum by ({WHERE}) (inference:autoscaling:replicas_for_objectives{{{RELEASE}}})",
                    WHO,
                ),
            ),
            "none",
            alerts=("InferenceReplicasAtMaximum",),
            width=8,
        ),
    ),
)

STARTS = Row(
    "Starts and restarts",
    (
        Panel(
            "Pods that are not ready",
            "Pods of Triton that are not ready: starting, draining, or failing their probe.",
            f"`kube_pod_status_ready`, from {STATE}.",
            "Some minutes are a start: model, engine, warm-up. Longer: `kubectl describe pod`.",
            (
                Query(
                    f'sum by (pod) (kube_pod_status_ready{{{PODS}, condition="false"}})',
                    "{{pod}}",
                ),
            ),
            "none",
            alerts=("InferencePodNotReady",),
            decimals=0,
            stacked=True,
            width=8,
        ),
        Panel(
            "What containers wait for",
            "Containers that don't run, by Kubernetes' reason. \"none\" says that the source was asked.",
            f"`kube_pod_container_status_waiting_reason` and that of init containers, from {STATE}.",
            "ImagePullBackOff: the image's name or its registry. CrashLoopBackOff: the container's log. "
            "PodInitializing for long: an engine is built.",
            (
                Query(
                    or_none(
                        f"sum by (reason) (kube_pod_container_status_waiting_reason{{{PODS}}}"
                        f" or kube_pod_init_container_status_waiting_reason{{{PODS}}})",
                        "reason",
                        f"kube_pod_status_ready{{{PODS}}}",
                    ),
                    "{{reason}}",
                ),
            ),
            "none",
            alerts=("InferenceEngineBuildFailed", "InferenceEngineBuildSlow", "InferencePodNotReady"),
            decimals=0,
            width=8,
        ),
        Panel(
            "Restarts",
            "Containers that ended and were started again, within the last hour.",
            f"`kube_pod_container_status_restarts_total`, from {STATE}.",
            "`kubectl logs --previous` and the exit status: 137 is memory, 139 a crash.",
            (
                Query(
                    f"sum by (pod) (increase(kube_pod_container_status_restarts_total{{{PODS}}}[1h]))",
                    "{{pod}}",
                ),
            ),
            "none",
            alerts=("InferencePodRestarts",),
            decimals=0,
            width=8,
        ),
    ),
)

RESOURCES = Row(
    "Processors and memory of the pods",
    (
        Panel(
            "CPU",
            "Processors that each pod uses, with what it asks for.",
            "`container_cpu_usage_seconds_total`, from the kubelet, and "
            f"`kube_pod_container_resource_requests`, from {STATE}.",
            "Above what it asks for, a pod depends on what its neighbours leave: raise "
            "`triton.resources.requests.cpu`.",
            (
                Query(rate("container_cpu_usage_seconds_total", CONTAINERS, "pod"), "{{pod}}"),
                Query(used("cpu", "requests"), "asked for", objective=True),
            ),
            "short",
            width=8,
        ),
        Panel(
            "Memory",
            "The memory that each pod can't give back, with the limit above which the kernel ends it.",
            "`container_memory_working_set_bytes`, from the kubelet, and "
            f"`kube_pod_container_resource_limits`, from {STATE}.",
            "Grows and grows: a leak. Near the limit from the start: raise `triton.resources.limits.memory`.",
            (
                Query(
                    f"sum by (pod) (container_memory_working_set_bytes{{{CONTAINERS}}})",
                    "{{pod}}",
                ),
                Query(used("memory", "limits"), "limit", objective=True),
            ),
            "bytes",
            alerts=("InferencePodRestarts",),
            width=8,
        ),
        Panel(
            "CPU throttling",
            "The part of the scheduler's periods in which a pod had to stop because its CPU limit was used "
            "up. Empty without a CPU limit, as the chart's defaults are.",
            "`container_cpu_cfs_throttled_periods_total` / `container_cpu_cfs_periods_total`, from the "
            "kubelet.",
            "Take the CPU limit away: requests are enough.",
            (
                Query(
                    f"{rate('container_cpu_cfs_throttled_periods_total', CONTAINERS, 'pod')}\n"
                    f"/ {rate('container_cpu_cfs_periods_total', CONTAINERS, 'pod')}",
                    "{{pod}}",
                ),
            ),
            "percentunit",
            maximum=1,
            width=8,
        ),
    ),
)

GPUS = Row(
    "GPUs of the cluster",
    (
        Panel(
            "GPUs",
            "GPUs that nodes offer, that pods of any namespace ask for, and those that this release asks "
            "for.",
            f"`kube_node_status_allocatable` and `kube_pod_container_resource_requests`, from {STATE}.",
            "Asked for above offered: pods are pending until the node pool grows, or for ever at its "
            "maximum.",
            (
                Query(f"sum(kube_node_status_allocatable{{{NODES}, {GPU}}})", "offered", objective=True),
                Query(f"sum(kube_pod_container_resource_requests{{{NODES}, {GPU}}})", "asked for, all pods"),
                Query(
                    f"sum(kube_pod_container_resource_requests{{{PODS}, {GPU}}})", "asked for, this release"
                ),
            ),
            "none",
            alerts=("InferenceGpuMissing", "InferencePodNotReady"),
            decimals=0,
        ),
        Panel(
            "GPUs by node",
            "How many GPUs each node offers; 0 where its driver or device plugin does not answer.",
            f"`kube_node_status_allocatable`, from {STATE}.",
            "0 on a GPU node: the device plugin's pod there, then the node itself.",
            (Query(f"max by (node) (kube_node_status_allocatable{{{NODES}, {GPU}}})", "{{node}}"),),
            "none",
            kind="bargauge",
            alerts=("InferenceGpuMissing",),
        ),
    ),
)

BOARD = Board(
    "capacity",
    "Inference: capacity",
    "Autoscaling, starts, processors, memory and GPUs of the pods that serve.",
    (REPLICAS, STARTS, RESOURCES, GPUS),
    (REGION, NAMESPACE),
)
