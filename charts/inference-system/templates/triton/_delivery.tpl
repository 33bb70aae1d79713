{{/* Returns the init containers that put all models into /models. */}}
{{- define "inference-system.modelDelivery" -}}
{{- range include "inference-system.models" . | fromJsonArray }}
{{ include "inference-system.deliverModel" (list $ .) | trim }}
{{- end }}
{{- end -}}

{{/* Returns the init containers of one model. The last one is the same for every source but for its image and
     what is mounted at its source; it checks the files' digests on every start. Takes (list $ model). */}}
{{- define "inference-system.deliverModel" -}}
{{- $root := first . -}}
{{- $suffix := include "inference-system.modelSuffix" . -}}
{{- with last . -}}
{{- $source := .source -}}
{{- $image := ternary $source.image $root.Values.tools.image (eq $source.type "image") -}}
{{- if eq $source.type "url" }}
- name: fetch-model{{ $suffix }}
  image: {{ include "inference-system.image" $root.Values.tools.image }}
  imagePullPolicy: {{ $root.Values.tools.image.pullPolicy }}
  command: [model-tools, fetch, {{ $source.url | quote }}, /source]
  {{- include "inference-system.modelDeliveryCommon" . | nindent 2 }}
    - name: source{{ $suffix }}
      mountPath: /source
    - name: tmp
      mountPath: /tmp
{{- end }}
- name: deliver-model{{ $suffix }}
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
      value: {{ .name | quote }}
    - name: MODEL_VERSION
      value: {{ int64 .version | quote }}
    - name: VERSION_POLICY
      value: {{ .versionPolicy.kind }}
    - name: VERSION_COUNT
      value: {{ int64 .versionPolicy.count | quote }}
    - name: MODEL_FILE
      value: {{ include "inference-system.sourceFile" (list $root .) }}
    - name: WARMUP_FILE
      value: {{ ternary "warmup/sample" "" (and .warmup.enabled (eq .warmup.data "sample")) | quote }}
  {{- include "inference-system.modelDeliveryCommon" . | nindent 2 }}
    - name: models
      mountPath: /models
    - name: model-config
      mountPath: /config
      readOnly: true
    {{- if ne $source.type "image" }}
    - name: source{{ $suffix }}
      mountPath: /source
      readOnly: true
    {{- end }}
{{- end -}}
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

{{/* Returns the volumes that the models come from. */}}
{{- define "inference-system.modelSources" -}}
{{- range $model := include "inference-system.models" . | fromJsonArray }}
{{- $name := printf "source%s" (include "inference-system.modelSuffix" (list $ $model)) }}
{{- with $model.source }}
{{- if eq .type "pvc" }}
- name: {{ $name }}
  persistentVolumeClaim:
    claimName: {{ .pvc.claimName }}
    readOnly: true
{{- else if eq .type "url" }}
- name: {{ $name }}
  emptyDir: {}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
