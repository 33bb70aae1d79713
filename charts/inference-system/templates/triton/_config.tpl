{{/* Returns the data of the ConfigMap that the models are delivered with: NAME.pbtxt for each, and the script. */}}
{{- define "inference-system.modelConfigData" -}}
{{- range include "inference-system.models" . | fromJsonArray -}}
{{ .name }}.pbtxt: |
  {{- include "inference-system.modelConfig" . | nindent 2 }}
{{ end -}}
deliver-model.sh: |
  {{- .Files.Get "files/deliver-model.sh" | nindent 2 }}
{{- end -}}

{{/* Returns a model's config.pbtxt, a model_config_pb2.ModelConfig in protobuf's text format. Names and types
     are quoted or enumerated by the schema, so no value can break out of its field. Takes the model. */}}
{{- define "inference-system.modelConfig" -}}
{{- $types := dict "BYTES" "STRING" -}}
name: {{ .name | quote }}
backend: {{ .runtime | quote }}
default_model_filename: {{ include "inference-system.modelFile" . | splitList "/" | first | quote }}
max_batch_size: {{ int .batching.maxSize }}
version_policy { {{- get (dict
    "specific" (printf "specific { versions: %d }" (int64 .version))
    "latest" (printf "latest { num_versions: %d }" (int64 .versionPolicy.count))
    "all" "all { }") .versionPolicy.kind -}} }
input { name: {{ .input.name | quote }} data_type: TYPE_{{ get $types .input.dataType | default .input.dataType }} dims: {{ toJson .input.shape }} }
output { name: {{ .output.name | quote }} data_type: TYPE_{{ get $types .output.dataType | default .output.dataType }} dims: {{ toJson .output.shape }} }
instance_group { count: {{ int .instances.count }} kind: KIND_{{ upper .instances.kind }} profile: {{ toStrings .instances.profiles | toJson }} }
{{ include "inference-system.dynamicBatching" .batching }}
{{- if .warmup.enabled }}
{{- $model := . }}
{{- $data := get (dict "sample" "input_data_file: \"sample\"" "random" "random_data: true") .warmup.data }}
{{- range uniq (list 1 (int .batching.maxSize)) }}
model_warmup { name: "batch of {{ . }}" batch_size: {{ . }} inputs { key: {{ $model.input.name | quote }} value { data_type: TYPE_{{ get $types $model.input.dataType | default $model.input.dataType }} dims: {{ toJson $model.input.shape }} {{ $data }} } } }
{{- end }}
{{- end }}
{{- if gt (int64 .responseCache) 0 }}
response_cache { enable: true }
{{- end }}
{{- if eq .runtime "openvino" }}
{{- /* An INT8 graph carries its own Q/DQ nodes: what is left of it is computed in f32. */}}
parameters { key: "INFERENCE_PRECISION" value { string_value: {{ ternary "bf16" "f32" (eq .precision "bf16") | quote }} } }
parameters { key: "INFERENCE_NUM_THREADS" value { string_value: {{ int .instances.threads | quote }} } }
{{- else if and (eq .instances.kind "cpu") (gt (int .instances.threads) 0) }}
parameters { key: {{ ternary "TF_NUM_INTRA_THREADS" "intra_op_thread_count" (eq .runtime "tensorflow") | quote }} value { string_value: {{ int .instances.threads | quote }} } }
{{- end }}
{{- end -}}

{{/* Returns its dynamic_batching. A level of priorities is numbered from 1, the highest, and has the limits of
     the common queue where it states none. Takes model.batching. */}}
{{- define "inference-system.dynamicBatching" -}}
{{- $queue := .queue -}}
dynamic_batching {
  preferred_batch_size: {{ toJson .preferredSizes }}
  max_queue_delay_microseconds: {{ int64 .maxQueueDelayMicroseconds }}
  default_queue_policy { {{- include "inference-system.queuePolicy" $queue -}} }
  {{- with .priorities }}
  priority_levels: {{ len . }}
  default_priority_level: {{ int $.defaultPriority | default (len .) }}
  {{- range $index, $level := . }}
  priority_queue_policy { key: {{ add1 $index }} value { {{- include "inference-system.queuePolicy" (include "inference-system.overlaid" (list $queue $level) | fromJson) -}} } }
  {{- end }}
  {{- end }}
}
{{- end -}}

{{/* Returns the fields of a queue's policy. Takes its limits. */}}
{{- define "inference-system.queuePolicy" }}
    timeout_action: REJECT
    default_timeout_microseconds: {{ int64 .timeoutMicroseconds }}
    max_queue_size: {{ int64 .maxSize }}
  {{ end -}}

{{/* Returns the size in bytes of the cache that the models share, to which each adds its own; 0 is none. */}}
{{- define "inference-system.responseCache" -}}
{{- $size := 0 -}}
{{- range include "inference-system.models" . | fromJsonArray -}}
{{- $size = add $size (int64 .responseCache) -}}
{{- end -}}
{{- $size -}}
{{- end -}}
