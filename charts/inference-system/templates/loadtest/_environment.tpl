{{/* Returns the environment of Locust's master and of its workers, which must agree. */}}
{{- define "inference-system.loadtestEnvironment" -}}
{{- $triton := printf "%s-triton" (include "inference-system.fullname" .) -}}
# dns:/// and the headless Service: the channel spreads its requests over all pods.
- name: LOADTEST_GRPC_URL
  value: dns:///{{ $triton }}-headless.{{ .Release.Namespace }}.svc:8001
- name: LOADTEST_HTTP_URL
  value: {{ $triton }}.{{ .Release.Namespace }}.svc:8000
- name: LOADTEST_MODEL
  value: {{ .Values.model.name | quote }}
- name: LOADTEST_PROTOCOL
  value: {{ .Values.loadtest.protocol }}
- name: LOADTEST_ARRIVAL
  value: {{ .Values.loadtest.arrival }}
- name: LOADTEST_REQUESTS_PER_SECOND
  value: {{ ternary .Values.loadtest.requestsPerSecond 0 (eq .Values.loadtest.arrival "constant") | quote }}
{{- end -}}
