"""A load test: what its clients see against what the servers say they did."""

from __future__ import annotations

from grafana.parts import (
    CLUSTER,
    LOADTEST_PODS,
    MODEL,
    MODEL_NAME,
    NAMESPACE,
    REGION,
    RELEASE,
    Board,
    Panel,
    Query,
    Row,
    objective,
    or_none,
    percentiles,
    quantile,
    rate,
)

HISTOGRAM = "loadtest_request_duration_seconds"
LAG = "loadtest_schedule_lag_seconds"
SERVER = "inference_server_duration_seconds"
SUCCESS = 'outcome="success"'
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
WORKERS = f'{CLUSTER}, {LOADTEST_PODS}, container!=""'

LOAD = Row(
    "Load",
    (
        Panel(
            "Asked and answered",
            "Requests a second that an open loop's schedule offers, that clients had an answer or an error "
            "to and that were answered well, what Triton says it answered, and the throughput that is "
            "promised under a load test.",
            "`loadtest_offered_total` (0 in a closed loop), `loadtest_request_duration_seconds_count`, "
            "`nv_inference_request_success` and `inference:slo:objective`.",
            "Asked below offered: the servers are slower than the rate. Answered below asked: see the "
            "failures. Server above clients: there are other clients than the load test.",
            (
                Query(rate("loadtest_offered_total", RELEASE), "offered, schedule"),
                Query(rate(f"{HISTOGRAM}_count", RELEASE), "asked, clients"),
                Query(rate(f"{HISTOGRAM}_count", RELEASE, extra=SUCCESS), "answered, clients"),
                Query(rate("nv_inference_request_success", MODEL), "answered, servers"),
                objective("throughput", "objective", at_least=True),
            ),
            "reqps",
        ),
        Panel(
            "Failures by error",
            "Requests a second that failed, as clients see it: a status of gRPC or HTTP, timeout, "
            'connection, or an answer that is no probability distribution. "none" says that a load ran and '
            "none failed.",
            "`loadtest_request_duration_seconds_count`, by `outcome`.",
            "UNAVAILABLE, 503: a full queue. connection: a pod that went. wrong_answer: the model.",
            (
                Query(
                    or_none(
                        rate(f"{HISTOGRAM}_count", RELEASE, "outcome", 'outcome!="success"'),
                        "outcome",
                        f"{HISTOGRAM}_count{{{RELEASE}}}",
                    ),
                    "{{outcome}}",
                ),
            ),
            "reqps",
            alerts=("InferenceRequestsRejected", "InferenceClientLatency"),
        ),
        Panel(
            "Users",
            "Users that the load test's workers run, each with a connection of its own.",
            "`loadtest_users`.",
            "Fewer than `loadtest.users`: a worker is missing, or users end because the server has no such "
            "model.",
            (Query(f"sum(loadtest_users{{{RELEASE}}})", "users"),),
            "none",
            decimals=0,
            width=8,
        ),
        Panel(
            "Asked by protocol",
            "Requests a second that clients sent, by protocol.",
            "`loadtest_request_duration_seconds_count`.",
            "One protocol is slower: HTTP passes the proxy in the pod, gRPC does not.",
            (Query(rate(f"{HISTOGRAM}_count", RELEASE, "protocol"), "{{protocol}}"),),
            "reqps",
            stacked=True,
            width=8,
        ),
        Panel(
            "Answered by pod",
            "Requests a second that each pod answered.",
            "`nv_inference_request_success`.",
            "Pods should have about the same; a Service balances connections, gRPC clients balance requests.",
            (Query(rate("nv_inference_request_success", MODEL, "pod"), "{{pod}}"),),
            "reqps",
            stacked=True,
            width=8,
        ),
    ),
)

LATENCY = Row(
    "Latency: client against server",
    (
        Panel(
            "Percentiles, client and server",
            "Percentiles that clients see and the servers' own, over 5 minutes. What lies between is "
            "network, proxy and client.",
            "`inference:client_seconds:*` and `inference:server_seconds:*`.",
            "Both rise: the servers. The clients' alone: a load generator at its limit (last row), network "
            "or proxy.",
            (
                *percentiles("client", RELEASE, "client "),
                *percentiles("server", MODEL, "server "),
                objective("latency.client.p99", "objective, client p99"),
            ),
            "s",
            alerts=("InferenceClientLatency",),
        ),
        Panel(
            "Percentiles at the client, at this graph's resolution",
            "The same, clients alone, not smoothed over 5 minutes: for loads of a minute or so. Each with "
            "its objective.",
            "The histogram `loadtest_request_duration_seconds` of requests that succeeded.",
            "As on the left.",
            (
                *(
                    Query(quantile(fraction, HISTOGRAM, f"{RELEASE}, {SUCCESS}"), name)
                    for name, fraction in PERCENTILES.items()
                ),
                *(objective(f"latency.client.{name}", f"objective {name}") for name in PERCENTILES),
            ),
            "s",
            alerts=("InferenceClientLatency",),
        ),
        Panel(
            "Mean time, client and server",
            "The mean time of a request as clients see it and as Triton does.",
            "`loadtest_request_duration_seconds` (sum / count) and `inference:request_seconds:mean5m`.",
            "The difference is spent outside Triton.",
            (
                Query(
                    f"{rate(f'{HISTOGRAM}_sum', RELEASE, extra=SUCCESS)}\n"
                    f"/ ({rate(f'{HISTOGRAM}_count', RELEASE, extra=SUCCESS)} > 0)",
                    "client",
                ),
                Query(f"max(inference:request_seconds:mean5m{{{MODEL}}})", "server"),
            ),
            "s",
            width=8,
        ),
        Panel(
            "Percentiles at the client by protocol, p99",
            "The time that 99 of 100 answered requests stay below, by protocol, with its objective.",
            "`inference:client_seconds:p99_5m` and `inference:slo:objective`.",
            "HTTP alone: the proxy in the pod. gRPC alone: channels that have not found the new pods.",
            (
                Query(f"max by (protocol) (inference:client_seconds:p99_5m{{{RELEASE}}})", "{{protocol}}"),
                objective("latency.client.p99", "objective"),
            ),
            "s",
            alerts=("InferenceClientLatency",),
            width=8,
        ),
        Panel(
            "Time in the queue",
            "How long a request waits in Triton's queue, as a mean, with the objective.",
            "`inference:queue_seconds:mean5m` and `inference:slo:objective`.",
            "The load is more than the pods can serve; docs/operations.md says how to find what they can.",
            (
                Query(f"max by (model) (inference:queue_seconds:mean5m{{{MODEL}}})", "{{model}}"),
                objective("queueTime", "objective"),
            ),
            "s",
            alerts=("InferenceQueueTime",),
            width=8,
        ),
    ),
)

MEANS = Row(
    "How it is served",
    (
        Panel(
            "Batch size",
            "The mean number of requests that Triton executes at once, with the objective for a loaded "
            "service.",
            "`inference:batch_size:mean5m` and `inference:slo:objective`.",
            "Small: too few users to fill a batch, or too short a queue delay.",
            (
                Query(f"min by (model) (inference:batch_size:mean5m{{{MODEL}}})", "{{model}}"),
                objective("batchSize", "objective", at_least=True),
            ),
            "short",
        ),
        Panel(
            "CPU of the load test's workers",
            "Processors that each worker uses. A worker is one process: at 1 it measures itself.",
            "`container_cpu_usage_seconds_total`, from the kubelet.",
            "Near 1: raise `loadtest.workers`, or the latencies are the load test's own.",
            (Query(rate("container_cpu_usage_seconds_total", WORKERS, "pod"), "{{pod}}"),),
            "short",
        ),
        Panel(
            "How late requests left",
            "How much later than its schedule said an open loop sent its requests: latencies contain it. "
            "A closed loop has 0.",
            "The histogram `loadtest_schedule_lag_seconds`.",
            "Beyond a tenth of the latency's p99, `loadtest run` gives no numbers: raise `loadtest.workers`, "
            "or give them processors that nothing else uses.",
            tuple(
                # No request of an open loop makes NaN of a percentile; a closed loop has no lag.
                Query(
                    f"{quantile(PERCENTILES[name], LAG, RELEASE)} >= 0\nor\n0 * sum({LAG}_sum{{{RELEASE}}})",
                    f"{name}, sent after due",
                )
                for name in ("p50", "p99")
            ),
            "s",
        ),
        Panel(
            "Requests in flight",
            "Requests of an open loop that have no answer yet, by worker.",
            "`loadtest_in_flight`.",
            "It grows: the servers are slower than the rate. At `loadtest.maxInFlight` requests wait in the "
            "worker, and their latency with them.",
            (Query(f"sum by (pod) (loadtest_in_flight{{{RELEASE}}})", "{{pod}}"),),
            "none",
            decimals=0,
            stacked=True,
        ),
    ),
)

BOARD = Board(
    "loadtest",
    "Inference: load test",
    "What a load test's clients see against what the servers say.",
    (LOAD, LATENCY, MEANS),
    (REGION, NAMESPACE, MODEL_NAME),
    since="now-30m",
)
