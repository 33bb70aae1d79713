{{/* Returns whether something other than the chart sets the number of pods: "true" or nothing. */}}
{{- define "inference-system.autoscaled" -}}
{{- if ne .Values.autoscaling.kind "none" }}true{{ end -}}
{{- end -}}

{{/* Returns the metrics that an autoscaler takes the number of pods from, as YAML: the recorded series, the name
     under which a metrics adapter serves it, and the share of it that one pod is to have. Both add up over pods
     and say nothing where there is no data, so that the scaler holds. */}}
{{- define "inference-system.scalingMetrics" -}}
- name: load
  series: inference:autoscaling:requests
  adapterName: inference_autoscaling_requests
  perPod: {{ .Values.autoscaling.requestsPerSecond | printf "%.6g" | quote }}
- name: objectives
  series: inference:autoscaling:replicas_for_objectives
  adapterName: inference_autoscaling_replicas_for_objectives
  perPod: "1"
{{- end -}}

{{/* Returns the seconds of a duration that has one unit, such as 500ms, 15s or 2m. Takes the duration. */}}
{{- define "inference-system.seconds" -}}
{{- $number := regexFind "^[0-9]+" . | float64 -}}
{{- get (dict "ms" (divf $number 1000.0) "s" $number "m" (mulf $number 60.0)) (regexFind "[a-z]+$" .) -}}
{{- end -}}
