{{/* Returns the requests a second that one pod serves within its objectives; 0 where nobody has measured it.
     autoscaling.requestsPerSecond is 70 % of it by its definition, so a region adds pods from 70 % on, and is
     full, for a load balancer that spills over, at 100 %. */}}
{{- define "inference-system.podCapacity" -}}
{{- divf .Values.autoscaling.requestsPerSecond 0.7 -}}
{{- end -}}

{{/* Returns what clients outside may speak, as a JSON list: protocol, port of the pod, host, appProtocol of a
     Service's port, and the requests a second that fill a pod's part for it (0: nobody knows). */}}
{{- define "inference-system.routes" -}}
{{- $capacity := include "inference-system.podCapacity" . | float64 -}}
{{- $share := float64 .Values.routing.grpcShare -}}
{{- $tls := .Values.triton.tls.secretName -}}
{{- $http := dict "protocol" "http" "port" 8000 "host" .Values.routing.hosts.http
      "appProtocol" (ternary "HTTPS" "HTTP" (not (empty $tls)))
      "share" (subf 1.0 $share) -}}
{{- $grpc := dict "protocol" "grpc" "port" 8001 "host" .Values.routing.hosts.grpc
      "appProtocol" (ternary "HTTP2" "kubernetes.io/h2c" (not (empty $tls)))
      "share" $share -}}
{{- $routes := list -}}
{{- range list $http $grpc -}}
{{- if gt .share 0.0 -}}
{{- $rate := round (mulf $capacity .share) 0 | int64 -}}
{{- $rate = ternary (max 1 $rate) 0 (gt $capacity 0.0) -}}
{{- $routes = append $routes (set . "rate" $rate) -}}
{{- end -}}
{{- end -}}
{{- toJson $routes -}}
{{- end -}}

{{/* Returns whether clients come through a Gateway: "true" or nothing. */}}
{{- define "inference-system.throughGateway" -}}
{{- if has .Values.routing.kind (list "gateway" "multiClusterGateway") }}true{{ end -}}
{{- end -}}

{{/* Returns whether this release holds the Gateway: "true" or nothing. */}}
{{- define "inference-system.holdsGateway" -}}
{{- with .Values.routing -}}
{{- if or (eq .kind "gateway") (and (eq .kind "multiClusterGateway") (eq .configCluster $.Values.region)) }}true{{ end -}}
{{- end -}}
{{- end -}}

{{/* Returns the Gateway's class. */}}
{{- define "inference-system.gatewayClass" -}}
{{- with .Values.routing -}}
{{- .gateway.className | default (ternary "gke-l7-global-external-managed-mc" "gke-l7-global-external-managed" (eq .kind "multiClusterGateway")) -}}
{{- end -}}
{{- end -}}

{{/* Returns what a route sends to and a policy is about, as YAML without its port: the Service of one protocol,
     or all regions' Services together. Takes (list $ "http"). */}}
{{- define "inference-system.routedTo" -}}
{{- $root := first . -}}
{{- if eq $root.Values.routing.kind "multiClusterGateway" -}}
group: net.gke.io
kind: ServiceImport
{{- else -}}
group: ""
kind: Service
{{- end }}
name: {{ include "inference-system.fullname" $root }}-{{ last . }}
{{- end -}}

{{/* Returns who reaches the pods by what routing renders, as the `from` of a NetworkPolicy in JSON. */}}
{{- define "inference-system.routedFrom" -}}
{{- $ranges := list -}}
{{- with .Values.routing -}}
{{- if eq .kind "loadBalancer" -}}
{{- $ranges = .loadBalancer.sourceRanges -}}
{{- else if include "inference-system.throughGateway" $ -}}
{{- $ranges = .gateway.sourceRanges -}}
{{- end -}}
{{- end -}}
{{- $peers := list -}}
{{- range $ranges -}}
{{- $peers = append $peers (dict "ipBlock" (dict "cidr" .)) -}}
{{- end -}}
{{- toJson $peers -}}
{{- end -}}

{{/* Returns the seconds within which a load balancer has found out that a pod's health says no. */}}
{{- define "inference-system.foundOutSeconds" -}}
{{- with .Values.routing.healthCheck -}}
{{- add (mul (int .intervalSeconds) (int .unhealthyThreshold)) (int .timeoutSeconds) -}}
{{- end -}}
{{- end -}}
