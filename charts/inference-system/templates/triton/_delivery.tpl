{{/* Returns the init containers that put the model into /models. The last one is the same for every source
     but for its image and what is mounted at its source; it checks the files' digests on every start. */}}
{{- define "inference-system.modelDelivery" -}}
{{- $source := .Values.model.source -}}
{{- $image := ternary $source.image .Values.tools.image (eq $source.type "image") -}}
{{- if eq $source.type "url" }}
- name: fetch-model
  image: {{ include "inference-system.image" .Values.tools.image }}
  imagePullPolicy: {{ .Values.tools.image.pullPolicy }}
  command: [model-tools, fetch, {{ $source.url | quote }}, /source]
  {{- include "inference-system.modelDeliveryCommon" . | nindent 2 }}
    - name: source
      mountPath: /source
    - name: tmp
      mountPath: /tmp
{{- end }}
- name: deliver-model
  image: {{ include "inference-system.image" $image }}
  imagePullPolicy: {{ $image.pullPolicy }}
  command: [sh, /config/deliver-model.sh]
  env:
    - name: SOURCE
      value: {{ get (dict
          "image" (printf "image %s" (include "inference-system.image" $source.image))
          "pvc" (printf "claim %s" $source.pvc.claimName)
          "url" $source.url) $source.type | quote }}
    - name: SOURCE_DIRECTORY
      value: {{ get (dict
          "image" $source.path
          "pvc" (printf "/source/%s" (trimPrefix "/" $source.path))
          "url" "/source") $source.type | quote }}
    - name: MODEL_NAME
      value: {{ .Values.model.name | quote }}
    - name: MODEL_VERSION
      value: {{ int64 .Values.model.version | quote }}
    - name: VERSION_POLICY
      value: {{ .Values.model.versionPolicy.kind }}
    - name: VERSION_COUNT
      value: {{ int64 .Values.model.versionPolicy.count | quote }}
    - name: WARMUP_FILE
      value: {{ ternary "warmup/sample" "" (and .Values.model.warmup.enabled (eq .Values.model.warmup.data "sample")) | quote }}
    - name: MODEL_FILE
      value: {{ include "inference-system.modelFile" .Values.model }}
  {{- include "inference-system.modelDeliveryCommon" . | nindent 2 }}
    - name: models
      mountPath: /models
    - name: model-config
      mountPath: /config
      readOnly: true
    {{- if ne $source.type "image" }}
    - name: source
      mountPath: /source
      readOnly: true
    {{- end }}
{{- end -}}

{{/* Returns what both init containers end with, up to their own volume mounts. */}}
{{- define "inference-system.modelDeliveryCommon" -}}
resources:
  requests: {cpu: 100m, memory: 128Mi}
  limits: {memory: 512Mi}
# What the last line of the log says appears in `kubectl describe pod`.
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  {{- include "inference-system.containerSecurityContext" . | nindent 2 }}
volumeMounts:
{{- end -}}
