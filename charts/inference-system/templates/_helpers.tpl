{{/* Returns the prefix of every object's name: the release's name, which "inference-system" is part of.
     45 characters leave room for the longest suffix within a Service's 63. */}}
{{- define "inference-system.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Returns the labels that never change in an object's life, for selectors and pods.
     Takes (list $ "component"). */}}
{{- define "inference-system.selectorLabels" -}}
{{- $root := first . -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end -}}

{{/* Returns the labels of an object: its selector labels and what made it. Takes (list $ "component"). */}}
{{- define "inference-system.labels" -}}
{{- $root := first . -}}
{{ include "inference-system.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Returns the list of peers that Prometheus is, for a NetworkPolicy. */}}
{{- define "inference-system.prometheusPeer" -}}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ .Values.monitoring.prometheus.namespace }}
{{- end -}}

{{/* Returns the rule of a NetworkPolicy's `egress` that lets pods ask for names; nothing where
     networkPolicy.dns is empty. */}}
{{- define "inference-system.dnsEgress" -}}
{{- with .Values.networkPolicy.dns -}}
- to: {{ toJson . }}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}
{{- end -}}

{{/* Returns an image reference: the digest if there is one, else the tag. Takes an image of the values. */}}
{{- define "inference-system.image" -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository .tag -}}
{{- end -}}
{{- end -}}

{{/* Returns the pod's part of the restricted Pod Security Standard. */}}
{{- define "inference-system.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Returns a container's part of it, with a root file system that nothing can write to. */}}
{{- define "inference-system.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Returns, as JSON, a mapping with another laid over it, as Helm lays one values file over another: sprig's
     own merge takes 0, false and [] for values that are not set. Takes (list under over). */}}
{{- define "inference-system.overlaid" -}}
{{- $result := deepCopy (first .) -}}
{{- range $key, $value := last . -}}
{{- $under := get $result $key -}}
{{- if and (kindIs "map" $under) (kindIs "map" $value) -}}
{{- $value = include "inference-system.overlaid" (list $under $value) | fromJson -}}
{{- end -}}
{{- $_ := set $result $key $value -}}
{{- end -}}
{{- toJson $result -}}
{{- end -}}

{{/* Returns all models of the release as a JSON list: model, then each of extraModels laid over it, under its
     own name. model_tools/values.py says the same. */}}
{{- define "inference-system.models" -}}
{{- $models := list .Values.model -}}
{{- range $name, $changes := .Values.extraModels -}}
{{- $model := include "inference-system.overlaid" (list $.Values.model $changes) | fromJson -}}
{{- $models = append $models (set $model "name" $name) -}}
{{- end -}}
{{- toJson $models -}}
{{- end -}}

{{/* Returns where a model's values stand: model, or extraModels.NAME. Takes (list $ model). */}}
{{- define "inference-system.modelPath" -}}
{{- $name := (last .).name -}}
{{- ternary "model" (printf "extraModels.%s" $name) (eq $name (first .).Values.model.name) -}}
{{- end -}}

{{/* Returns what the names of a model's containers and volumes end with: nothing for `model`. Takes
     (list $ model). */}}
{{- define "inference-system.modelSuffix" -}}
{{- $name := (last .).name -}}
{{- if ne $name (first .).Values.model.name -}}
{{- printf "-%s" (regexReplaceAll "[^a-z0-9]+" (lower $name) "-") | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Returns the file that a runtime loads, inside the folder of the model's version. Takes the model. */}}
{{- define "inference-system.modelFile" -}}
{{- get (dict
      "tensorrt" "model.plan"
      "openvino" "model.onnx"
      "onnxruntime" "model.onnx"
      "tensorflow" "model.savedmodel/saved_model.pb") .runtime -}}
{{- end -}}

{{/* Returns what a container that uses the GPU asks for: triton.resources with the GPU in its limits. */}}
{{- define "inference-system.tritonResources" -}}
{{- $resources := deepCopy .Values.triton.resources -}}
{{- with .Values.triton.gpu -}}
{{- if gt (int .count) 0 -}}
{{- $resources = mergeOverwrite $resources (dict "limits" (dict .resourceName (int .count))) -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Returns the job label under which Prometheus keeps what a PodMonitor scrapes. Takes (list $ "triton"). */}}
{{- define "inference-system.job" -}}
{{- $root := first . -}}
{{- printf "%s/%s-%s" $root.Release.Namespace (include "inference-system.fullname" $root) (last .) -}}
{{- end -}}

{{/* Returns the affinity of Triton's pods as JSON: the one of the values, and two pods never on one node. */}}
{{- define "inference-system.affinity" -}}
{{- $selector := dict "matchLabels" (include "inference-system.selectorLabels" (list . "triton") | fromYaml) -}}
{{- $apart := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" $selector -}}
{{- $default := dict "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $apart)) -}}
{{- ternary (mustMerge (dict) .Values.triton.affinity $default) .Values.triton.affinity .Values.triton.onePodPerNode | toJson -}}
{{- end -}}
