{{/* Returns nothing. Fails for a model's values that can't work together, with one sentence that begins with the
     key to change; model_tools/config.py has the same rules. Takes (list "path of the model's values" model
     .Values). */}}
{{- define "inference-system.validateModel" -}}
{{- $path := first . -}}
{{- $values := last . -}}
{{- $model := index . 1 -}}
{{- with $model -}}

{{- $precisions := get (dict
      "tensorrt" (list "fp32" "fp16" "bf16" "int8")
      "openvino" (list "fp32" "bf16" "int8")
      "onnxruntime" (list "fp32" "fp16" "int8")
      "tensorflow" (list "savedmodel")) .runtime -}}
{{- if not (has .precision $precisions) -}}
{{- fail (printf "%s.precision: %s can't run on %s.runtime %s, which takes %s." $path .precision $path .runtime (join ", " $precisions)) -}}
{{- end -}}

{{- with $values.triton.image -}}
{{- /* NVIDIA's tags are the release: 24.11-py3. Of any other image the chart knows nothing. */ -}}
{{- if and (eq $model.runtime "tensorflow") (hasSuffix "/tritonserver" .repository) (regexMatch "^[0-9]{2}[.][0-9]{2}-" .tag) (gt .tag "25.03") -}}
{{- fail (printf "%s.runtime: tensorflow needs Triton 25.02 or older, and triton.image.tag is %s." $path .tag) -}}
{{- end -}}
{{- end -}}

{{- $kinds := get (dict
      "tensorrt" (list "gpu")
      "openvino" (list "cpu")
      "onnxruntime" (list "gpu" "cpu")
      "tensorflow" (list "gpu" "cpu")) .runtime -}}
{{- if not (has .instances.kind $kinds) -}}
{{- fail (printf "%s.instances.kind: %s.runtime %s runs on %s only." $path $path .runtime (first $kinds)) -}}
{{- end -}}
{{- if and (eq .instances.kind "gpu") (gt (int .instances.threads) 0) -}}
{{- fail (printf "%s.instances.threads: threads are for %s.instances.kind cpu, set 0 for gpu." $path $path) -}}
{{- end -}}
{{- if and (eq .instances.kind "gpu") (eq (int $values.triton.gpu.count) 0) -}}
{{- fail (printf "triton.gpu.count: %s.instances.kind gpu needs at least 1." $path) -}}
{{- end -}}
{{- if and .instances.profiles (ne .runtime "tensorrt") -}}
{{- fail (printf "%s.instances.profiles: only TensorRT engines have profiles, and %s.runtime is %s." $path $path .runtime) -}}
{{- end -}}

{{- with .batching -}}
{{- $batching := . -}}
{{- range .preferredSizes -}}
{{- if gt (int .) (int $batching.maxSize) -}}
{{- fail (printf "%s.batching.preferredSizes: %d is above %s.batching.maxSize %d." $path (int .) $path (int $batching.maxSize)) -}}
{{- end -}}
{{- end -}}
{{- $delay := int64 .maxQueueDelayMicroseconds -}}
{{- $queues := dict "queue" .queue -}}
{{- range $index, $level := .priorities -}}
{{- $_ := set $queues (printf "priorities[%d]" $index) $level -}}
{{- end -}}
{{- range $name, $queue := $queues -}}
{{- $timeout := int64 ($queue.timeoutMicroseconds | default 0) -}}
{{- if and (gt $timeout 0) (ge $delay $timeout) -}}
{{- fail (printf "%s.batching.%s.timeoutMicroseconds: %d is not above %s.batching.maxQueueDelayMicroseconds %d, so a request that waits for its batch is refused." $path $name $timeout $path $delay) -}}
{{- end -}}
{{- end -}}
{{- if gt (int .defaultPriority) (len .priorities) -}}
{{- fail (printf "%s.batching.defaultPriority: %d is no level, %s.batching.priorities has %d." $path (int .defaultPriority) $path (len .priorities)) -}}
{{- end -}}
{{- end -}}

{{- if and (eq .source.type "url") (ne .versionPolicy.kind "specific") -}}
{{- fail (printf "%s.versionPolicy.kind: %s needs a source that holds several versions, and %s.source.type url fetches one." $path .versionPolicy.kind $path) -}}
{{- end -}}

{{- with .source -}}
{{- if and (eq .type "image") (not .image.repository) -}}
{{- fail (printf "%s.source.image.repository: %s.source.type image needs the image that holds the model." $path $path) -}}
{{- end -}}
{{- if and (eq .type "image") (not .image.tag) (not .image.digest) -}}
{{- fail (printf "%s.source.image.tag: give a tag or a digest of the image that holds the model." $path) -}}
{{- end -}}
{{- if and (eq .type "pvc") (not .pvc.claimName) -}}
{{- fail (printf "%s.source.pvc.claimName: %s.source.type pvc needs the claim that holds the model." $path $path) -}}
{{- end -}}
{{- if and (eq .type "url") (not .url) -}}
{{- fail (printf "%s.source.url: %s.source.type url needs the folder that holds the model." $path $path) -}}
{{- end -}}
{{- end -}}

{{- end -}}
{{- end -}}
