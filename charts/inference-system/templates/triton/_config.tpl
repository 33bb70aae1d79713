{{/* Returns the model's config.pbtxt, a model_config_pb2.ModelConfig in protobuf's text format. Names and
     types are quoted or enumerated by the schema, so no value can break out of its field. */}}
{{- define "inference-system.modelConfig" -}}
{{- $types := dict "BYTES" "STRING" -}}
{{- with .Values.model -}}
name: {{ .name | quote }}
backend: {{ .runtime | quote }}
default_model_filename: {{ include "inference-system.modelFile" $ | splitList "/" | first | quote }}
max_batch_size: {{ int .batching.maxSize }}
version_policy { specific { versions: {{ int64 .version }} } }
input { name: {{ .input.name | quote }} data_type: TYPE_{{ get $types .input.dataType | default .input.dataType }} dims: {{ toJson .input.shape }} }
output { name: {{ .output.name | quote }} data_type: TYPE_{{ get $types .output.dataType | default .output.dataType }} dims: {{ toJson .output.shape }} }
instance_group { count: {{ int .instances.count }} kind: KIND_{{ upper .instances.kind }} }
dynamic_batching {
  preferred_batch_size: {{ toJson .batching.preferredSizes }}
  max_queue_delay_microseconds: {{ int64 .batching.maxQueueDelayMicroseconds }}
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: {{ int64 .batching.queue.timeoutMicroseconds }}
    max_queue_size: {{ int64 .batching.queue.maxSize }}
  }
}
{{- if eq .runtime "openvino" }}
{{- /* An INT8 graph carries its own Q/DQ nodes: what is left of it is computed in f32. */}}
parameters { key: "INFERENCE_PRECISION" value { string_value: {{ ternary "bf16" "f32" (eq .precision "bf16") | quote }} } }
parameters { key: "INFERENCE_NUM_THREADS" value { string_value: {{ int .instances.threads | quote }} } }
{{- else if and (eq .instances.kind "cpu") (gt (int .instances.threads) 0) }}
parameters { key: {{ ternary "TF_NUM_INTRA_THREADS" "intra_op_thread_count" (eq .runtime "tensorflow") | quote }} value { string_value: {{ int .instances.threads | quote }} } }
{{- end }}
{{- end }}
{{- end -}}
