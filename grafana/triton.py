"""What Triton does, by pod and model: who gets which requests, where their time goes, what fails."""

from __future__ import annotations

from grafana.parts import (
    MODEL,
    MODEL_NAME,
    NAMESPACE,
    POD,
    REGION,
    Board,
    Panel,
    Query,
    Row,
    objective,
    quantile,
    rate,
)

PODS = f'{MODEL}, pod=~"$pod"'
MACHINES = 'namespace=~"$namespace", region=~"$region", pod=~"$pod"'  # of series that have no model
SUCCESS, FAILURE = "nv_inference_request_success", "nv_inference_request_failure"
PARTS = {
    "queue": "nv_inference_queue_duration_us",
    "input": "nv_inference_compute_input_duration_us",
    "infer": "nv_inference_compute_infer_duration_us",
    "output": "nv_inference_compute_output_duration_us",
}
HISTOGRAM = "inference_server_duration_seconds"


def a_request(duration: str, by: str = "") -> str:
    """The mean of a duration over the requests that ended well, in seconds."""
    return f"{rate(duration, PODS, by)} / 1e6\n/ ({rate(SUCCESS, PODS, by)} > 0)"


REQUESTS = Row(
    "Requests",
    (
        Panel(
            "Requests by pod",
            "Requests a second that each pod answered.",
            "`nv_inference_request_success`.",
            "Pods of one release should have about the same: clients that stick to one pod don't ask DNS "
            "again.",
            (Query(rate(SUCCESS, PODS, "pod"), "{{pod}}"),),
            "reqps",
            alerts=("InferencePodDown",),
            stacked=True,
        ),
        Panel(
            "Requests by model",
            "Requests a second that each model answered, all pods together.",
            "`nv_inference_request_success`.",
            "A model that nobody asks for still takes its memory: see `extraModels`.",
            (Query(rate(SUCCESS, PODS, "model"), "{{model}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Failures by reason",
            "Requests a second that were not answered. CANCELED: the client gave up, which no objective "
            "counts.",
            "`nv_inference_request_failure`. What found the queue full is not in it: see Refused requests.",
            "REJECTED: the queue's timeout passed. BACKEND, OTHER: the pod's log says what.",
            (Query(rate(FAILURE, PODS, "reason"), "{{reason}}"),),
            "reqps",
            alerts=("InferenceRequestsRejected", "InferenceErrorBudgetBurn"),
        ),
        Panel(
            "Failures by pod",
            "Requests a second that each pod did not answer, but for those that clients gave up.",
            "`nv_inference_request_failure` without CANCELED.",
            "One pod fails alone: delete it, and keep its log. All fail: see what was rolled out last.",
            (Query(rate(FAILURE, PODS, "pod", extra='reason!="CANCELED"'), "{{pod}}"),),
            "reqps",
            alerts=("InferenceRequestsRejected", "InferenceErrorBudgetBurn"),
        ),
    ),
)

TIME = Row(
    "Time",
    (
        Panel(
            "Where a request's time goes",
            "The mean time of a request in Triton: wait in the queue, input, inference, output. They add up.",
            "`nv_inference_*_duration_us` / `nv_inference_request_success`.",
            "Queue grows: too few pods. Infer grows: another engine, a hot or capped GPU. Input or output: "
            "copies, CPU.",
            tuple(Query(a_request(duration), name) for name, duration in PARTS.items()),
            "s",
            alerts=("InferenceQueueTime",),
            stacked=True,
        ),
        Panel(
            "Latency percentiles",
            "Percentiles of the time in Triton, all pods of a model together, with the objective's "
            "threshold.",
            "`inference:server_seconds:*` (from a histogram, so it holds over all pods) and "
            "`inference:slo:objective`.",
            "The panels on the right and below say which pod and which part of the way.",
            (
                *(
                    Query(
                        f"max by (model) (inference:server_seconds:{name}_5m{{{MODEL}}})",
                        f"{name} {{{{model}}}}",
                    )
                    for name in ("p50", "p95", "p99")
                ),
                objective("latency.server.threshold", "objective"),
            ),
            "s",
            alerts=("InferenceErrorBudgetBurn",),
        ),
        Panel(
            "Latency by pod, p99",
            "The time in Triton that 99 of 100 requests stay below, in each pod.",
            'The histogram `inference_server_duration_seconds{phase="request"}`, a sample of the requests.',
            "One slow pod: its GPU (GPU dashboard), its node's CPU, or more than its share of requests.",
            (Query(quantile(0.99, HISTOGRAM, f'{PODS}, phase="request"', "pod"), "{{pod}}"),),
            "s",
        ),
        Panel(
            "Latency by part, p99",
            "The 99th percentile of each part of a request's way. Percentiles don't add up.",
            "The histogram `inference_server_duration_seconds`, by its label `phase`.",
            "Compare with the means: a long tail in the queue alone means bursts.",
            (Query(quantile(0.99, HISTOGRAM, f'{PODS}, phase!="request"', "phase"), "{{phase}}"),),
            "s",
        ),
        Panel(
            "Time in the queue by pod",
            "How long a request waits in each pod's queue, as a mean, with the objective.",
            "`nv_inference_queue_duration_us` / `nv_inference_request_success`, and "
            "`inference:slo:objective`.",
            "All pods: add replicas. One pod: it gets more than its share, or it is slower than the others.",
            (Query(a_request(PARTS["queue"], "pod"), "{{pod}}"), objective("queueTime", "objective")),
            "s",
            alerts=("InferenceQueueTime",),
        ),
        Panel(
            "Time of a request by pod",
            "The mean time of a request in each pod, from its arrival to its answer.",
            "`nv_inference_request_duration_us` / `nv_inference_request_success`.",
            "Pods of one kind of GPU should agree.",
            (Query(a_request("nv_inference_request_duration_us", "pod"), "{{pod}}"),),
            "s",
        ),
    ),
)

BATCHES = Row(
    "Queue and batches",
    (
        Panel(
            "Pending requests by pod",
            "Requests that wait in each pod for a place in a batch, all models together.",
            "`nv_inference_pending_request_count`.",
            "Near `model.batching.queue.maxSize` the next ones are refused.",
            (
                Query(
                    f"sum by (pod) (nv_inference_pending_request_count{{{PODS}}})",
                    "{{pod}}",
                ),
            ),
            "short",
            alerts=("InferenceQueueNearlyFull",),
            width=8,
        ),
        Panel(
            "Refused requests by pod",
            "Requests a second that each pod refused because they waited for longer than the queue's "
            "timeout; "
            "and all that were refused, those that found the queue full among them.",
            '`nv_inference_request_failure{reason="REJECTED"}`, which leaves out what found the queue full; '
            "`inference:requests_refused:rate5m` has both.",
            "Add replicas. A longer queue only makes the same requests late.",
            (
                Query(rate(FAILURE, PODS, "pod", extra='reason="REJECTED"'), "{{pod}}"),
                Query(f"sum(inference:requests_refused:rate5m{{{MODEL}}})", "all pods, with a full queue's"),
            ),
            "reqps",
            alerts=("InferenceRequestsRejected", "InferenceQueueNearlyFull"),
            width=8,
        ),
        Panel(
            "Batch size by pod",
            "The mean number of requests that Triton executes at once. The objective is for a loaded "
            "service.",
            "`nv_inference_count` / `nv_inference_exec_count`, and `inference:slo:objective`.",
            "Small under load: see `model.batching.maxQueueDelayMicroseconds` and the number of instances.",
            (
                Query(
                    f"{rate('nv_inference_count', PODS, 'pod')}\n"
                    f"/ ({rate('nv_inference_exec_count', PODS, 'pod')} > 0)",
                    "{{pod}}",
                ),
                objective("batchSize", "objective under load", at_least=True),
            ),
            "short",
            width=8,
        ),
    ),
)

MACHINE = Row(
    "Machine",
    (
        Panel(
            "CPU of the node",
            "How busy the processors of each pod's node are, by whatever runs there.",
            "`nv_cpu_utilization`.",
            "Near 100 %: pre- and postprocessing wait. Where the node has other tenants, raise "
            "`triton.resources.requests.cpu`.",
            (Query(f"max by (pod) (nv_cpu_utilization{{{MACHINES}}})", "{{pod}}"),),
            "percentunit",
            maximum=1,
            width=8,
        ),
        Panel(
            "Memory of the node",
            "The part of the node's memory that is used, by whatever runs there.",
            "`nv_cpu_memory_used_bytes` / `nv_cpu_memory_total_bytes`.",
            "The kubelet evicts pods when little is left; the Capacity dashboard has each pod's own use.",
            (
                Query(
                    f"max by (pod) (nv_cpu_memory_used_bytes{{{MACHINES}}})\n"
                    f"/ max by (pod) (nv_cpu_memory_total_bytes{{{MACHINES}}})",
                    "{{pod}}",
                ),
            ),
            "percentunit",
            maximum=1,
            width=8,
        ),
        Panel(
            "Pinned memory",
            "Memory that is used of the pool through which Triton copies to the GPU, and the pool's size.",
            "`nv_pinned_memory_pool_used_bytes`, `nv_pinned_memory_pool_total_bytes`.",
            "Full: copies fall back to slower memory. `--pinned-memory-pool-byte-size` of Triton sets its "
            "size.",
            (
                Query(f"max by (pod) (nv_pinned_memory_pool_used_bytes{{{MACHINES}}})", "{{pod}}"),
                Query(f"max(nv_pinned_memory_pool_total_bytes{{{MACHINES}}})", "size of the pool"),
            ),
            "bytes",
            width=8,
        ),
    ),
)

BOARD = Board(
    "triton",
    "Inference: Triton",
    "Requests, failures, time, batches and machines of the pods that serve.",
    (REQUESTS, TIME, BATCHES, MACHINE),
    (REGION, NAMESPACE, MODEL_NAME, POD),
)
