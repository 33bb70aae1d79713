{{/* Returns "true" where the pods build the engine of any model, "" otherwise. */}}
{{- define "inference-system.buildsEngines" -}}
{{- range include "inference-system.models" . | fromJsonArray -}}
{{- if include "inference-system.buildsEngine" (list $ .) -}}
true
{{- break -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Returns "true" where the pods build the engine of a model, "" otherwise. Takes (list $ model). */}}
{{- define "inference-system.buildsEngine" -}}
{{- $root := first . -}}
{{- if and $root.Values.engine.enabled (has (last .).runtime (list "tensorrt" "openvino")) -}}
true
{{- end -}}
{{- end -}}

{{/* Returns the file that a model's source has to hold, inside the folder of a version: what Triton loads, or
     what its engine is built from. Takes (list $ model). */}}
{{- define "inference-system.sourceFile" -}}
{{- if include "inference-system.buildsEngine" . -}}
model.onnx
{{- else -}}
{{- include "inference-system.modelFile" (last .) -}}
{{- end -}}
{{- end -}}

{{/* Returns the init containers of all models that have engines. They come after the models' delivery. */}}
{{- define "inference-system.engineInits" -}}
{{- range include "inference-system.models" . | fromJsonArray }}
{{- if include "inference-system.buildsEngine" (list $ .) }}
{{ include "inference-system.engineInit" (list $ .) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Returns the init container that puts a model's engine beside the model: out of the cache, or built on
     this node's own processor or GPU. Takes (list $ model). */}}
{{- define "inference-system.engineInit" -}}
{{- $root := first . -}}
{{- $model := last . -}}
{{- $engine := $root.Values.engine -}}
{{- $image := ternary $engine.image $root.Values.triton.image (ne $engine.image.repository "") -}}
- name: build-engine{{ include "inference-system.modelSuffix" . }}
  image: {{ include "inference-system.image" $image }}
  imagePullPolicy: {{ $image.pullPolicy }}
  # Arguments of the image's own entrypoint, as Triton's: on a GPU it sets up the driver's libraries.
  args:
    - model-tools
    - engine
    - build
    - --model=/models/{{ $model.name }}
    - --runtime={{ $model.runtime }}
    - --precision={{ $model.precision }}
    - --max-batch={{ int $model.batching.maxSize }}
    {{- range include "inference-system.enginePreferredSizes" $model | fromJsonArray }}
    - --preferred-batch={{ int . }}
    {{- end }}
    {{- if ne $engine.cache.type "none" }}
    - --cache={{ ternary $engine.cache.url "/engines" (eq $engine.cache.type "url") }}
    - --wait={{ int $engine.waitSeconds }}
    {{- end }}
    {{- if include "inference-system.engineVolume" $root }}
    - --keep-days={{ int $engine.cache.keepDays }}
    {{- end }}
  # What Triton gets: a pod asks for the larger of both, not for their sum, and the GPU is the same one.
  resources:
    {{- include "inference-system.tritonResources" $root | nindent 4 }}
  # What the last line of the log says appears in `kubectl describe pod`.
  terminationMessagePolicy: FallbackToLogsOnError
  securityContext:
    {{- include "inference-system.containerSecurityContext" $root | nindent 4 }}
  volumeMounts:
    - name: models
      mountPath: /models
    - name: tmp
      mountPath: /tmp
    {{- if include "inference-system.engineVolume" $root }}
    - name: engines
      mountPath: /engines
    {{- end }}
{{- end -}}

{{/* Returns, as a JSON list, the batch sizes that a model's engine is tuned for, each in an optimization profile:
     the largest preferred one, or where instances name profiles, the preferred sizes up to the last of these,
     for a profile's number is its place among them. model_tools/engine/command.py has the same rule. Takes the
     model. */}}
{{- define "inference-system.enginePreferredSizes" -}}
{{- $sizes := .batching.preferredSizes -}}
{{- if .instances.profiles -}}
{{- $last := 0 -}}
{{- range .instances.profiles -}}
{{- $last = max $last (int .) -}}
{{- end -}}
{{- slice $sizes 0 (min (add1 $last) (len $sizes)) | toJson -}}
{{- else -}}
{{- $largest := 0 -}}
{{- range $sizes -}}
{{- $largest = max $largest (int .) -}}
{{- end -}}
{{- list ($largest | default (int .batching.maxSize)) | toJson -}}
{{- end -}}
{{- end -}}

{{/* Returns the pod's volume with the cache of engines, or nothing where there is none. */}}
{{- define "inference-system.engineVolume" -}}
{{- with .Values.engine.cache -}}
{{- if eq .type "pvc" -}}
- name: engines
  persistentVolumeClaim:
    claimName: {{ .pvc.claimName | default (printf "%s-engines" (include "inference-system.fullname" $)) }}
{{- else if eq .type "hostPath" -}}
- name: engines
  hostPath:
    path: {{ .hostPath.path }}
    type: Directory
{{- end -}}
{{- end -}}
{{- end -}}
