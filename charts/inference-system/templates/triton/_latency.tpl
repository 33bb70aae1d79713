{{/* Latency of the server as histograms: Triton sends traces of some requests to a container beside it. */}}

{{/* Returns Triton's options for it, or nothing where it is off. */}}
{{- define "inference-system.latencyTracing" -}}
{{- with .Values.monitoring.serverLatency -}}
{{- if .enabled -}}
- --trace-config=mode=opentelemetry
- --trace-config=level=TIMESTAMPS
- --trace-config=rate={{ int .sampleEvery }}
- --trace-config=opentelemetry,url=http://127.0.0.1:4318/v1/traces
# Soon enough for the next scrape. What nobody takes is dropped: at most 2048 spans wait.
- --trace-config=opentelemetry,bsp_schedule_delay=1000
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Returns Triton's environment for it, or nothing where it is off. */}}
{{- define "inference-system.latencyEnvironment" -}}
{{- if .Values.monitoring.serverLatency.enabled -}}
# Triton waits so long for an exporter that doesn't answer, also when it ends: its own 10 s would exceed the
# margin in which the pod has to be gone.
- name: OTEL_EXPORTER_OTLP_TRACES_TIMEOUT
  value: 1s
# 24.11 sends JSON anyhow.
- name: OTEL_EXPORTER_OTLP_TRACES_PROTOCOL
  value: http/json
{{- end -}}
{{- end -}}

{{/* Returns the container that makes histograms of the traces, or nothing where it is off. */}}
{{- define "inference-system.latencyContainer" -}}
{{- with .Values.monitoring.serverLatency -}}
{{- if .enabled -}}
- name: latency
  image: {{ include "inference-system.image" $.Values.tools.image }}
  imagePullPolicy: {{ $.Values.tools.image.pullPolicy }}
  # A pod with a container that isn't running gets no requests, so this one restarts what it runs by itself.
  # For the same reason there are no probes: Prometheus' `up` tells of one that hangs.
  command:
    - sh
    - -c
    - |
      trap 'kill $child; exit 0' TERM
      while :; do
        model-tools latency-exporter "$@" & child=$!
        wait $child
        echo "latency-exporter ended with status $?, again in 5 s" >&2
        sleep 5 & child=$!
        wait $child
      done
    - latency-exporter
    - --host=0.0.0.0
    - --port=8004
    - --listen=127.0.0.1:4318
    - --bucket={{ $.Values.slo.latency.server.threshold }}
    - --sample-every={{ int .sampleEvery }}
  ports:
    - name: latency
      containerPort: 8004
  resources:
    {{- toYaml .resources | nindent 4 }}
  lifecycle:
    # As long as Triton still serves.
    preStop:
      sleep:
        seconds: {{ add (int $.Values.triton.drainSeconds) (include "inference-system.headerSeconds" $ | int) }}
  securityContext:
    {{- include "inference-system.containerSecurityContext" $ | nindent 4 }}
  volumeMounts:
    - name: tmp
      mountPath: /tmp
{{- end -}}
{{- end -}}
{{- end -}}
