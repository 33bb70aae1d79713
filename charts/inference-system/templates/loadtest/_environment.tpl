{{/* Returns the address of Triton for clients in the cluster. Takes (list $ "grpc") or (list $ "http"). */}}
{{- define "inference-system.clientUrl" -}}
{{- $root := first . -}}
{{- $triton := printf "%s-triton" (include "inference-system.fullname" $root) -}}
{{- if $root.Values.triton.tls.secretName }}{{ get (dict "grpc" "grpcs://" "http" "https://") (last .) }}{{ end -}}
{{- /* dns:/// and the headless Service: the channel spreads its requests over all pods. */ -}}
{{- get (dict
      "grpc" (printf "dns:///%s-headless.%s.svc:8001" $triton $root.Release.Namespace)
      "http" (printf "%s.%s.svc:8000" $triton $root.Release.Namespace)) (last .) -}}
{{- end -}}

{{/* Returns what a client trusts, for its environment, its volume mounts and its volumes: a key of the same
     name that the map of the result has. Empty without TLS. Only ca.crt is mounted, never the key. */}}
{{- define "inference-system.clientTrust" -}}
{{- with .Values.triton.tls.secretName -}}
env: [{name: LOADTEST_CA_FILE, value: /tls/ca.crt}]
volumeMounts: [{name: tls, mountPath: /tls, readOnly: true}]
volumes:
  - name: tls
    secret:
      secretName: {{ . }}
      optional: true
      items: [{key: ca.crt, path: ca.crt}]
{{- end -}}
{{- end -}}

{{/* Returns the stages of the load test as SECONDS:TARGET,... */}}
{{- define "inference-system.loadtestStages" -}}
{{- range $index, $stage := .Values.loadtest.stages -}}
{{- if $index }},{{ end }}{{ $stage.seconds }}:{{ $stage.target }}
{{- end -}}
{{- end -}}

{{/* Returns the environment of Locust's master and of its workers, which must agree. */}}
{{- define "inference-system.loadtestEnvironment" -}}
- name: LOADTEST_GRPC_URL
  value: {{ include "inference-system.clientUrl" (list . "grpc") }}
- name: LOADTEST_HTTP_URL
  value: {{ include "inference-system.clientUrl" (list . "http") }}
- name: LOADTEST_MODEL
  value: {{ .Values.model.name | quote }}
- name: LOADTEST_PROTOCOL
  value: {{ .Values.loadtest.protocol }}
- name: LOADTEST_ARRIVAL
  value: {{ .Values.loadtest.arrival }}
- name: LOADTEST_REQUESTS_PER_SECOND
  value: {{ ternary 0 .Values.loadtest.requestsPerSecond (eq .Values.loadtest.arrival "closed") | quote }}
- name: LOADTEST_STAGES
  value: {{ include "inference-system.loadtestStages" . | quote }}
- name: LOADTEST_MAX_IN_FLIGHT
  value: {{ int .Values.loadtest.maxInFlight | quote }}
{{- end -}}
