{{/* Returns nothing. Fails for values of routing that can't work together, with one sentence that begins with
     the key to change. */}}
{{- define "inference-system.validateRouting" -}}
{{- with .Values.routing -}}

{{- if eq .kind "multiClusterGateway" -}}
{{- if not .configCluster -}}
{{- fail "routing.configCluster: routing.kind multiClusterGateway needs the region whose cluster holds the Gateway." -}}
{{- end -}}
{{- if not $.Values.region -}}
{{- fail "region: routing.kind multiClusterGateway needs it, to tell the cluster of routing.configCluster from the others." -}}
{{- end -}}
{{- if eq (float64 $.Values.autoscaling.requestsPerSecond) 0.0 -}}
{{- fail "autoscaling.requestsPerSecond: routing.kind multiClusterGateway needs it: without it no region is ever full, and none spills over to the next." -}}
{{- end -}}
{{- end -}}

{{- if include "inference-system.throughGateway" $ -}}
{{- range include "inference-system.routes" $ | fromJsonArray -}}
{{- if not .host -}}
{{- fail (printf "routing.hosts.%s: routing.kind %s needs the name that clients ask for." .protocol $.Values.routing.kind) -}}
{{- end -}}
{{- end -}}
{{- if eq .hosts.http .hosts.grpc -}}
{{- fail (printf "routing.hosts.grpc: %s is routing.hosts.http as well, and a Gateway has a host for one kind of route alone." .hosts.grpc) -}}
{{- end -}}
{{- $certificates := without (list .gateway.certificateMap .gateway.secretName (join "," .gateway.certificates)) "" -}}
{{- if ne (len $certificates) 1 -}}
{{- fail (printf "routing.gateway.certificateMap: give one of it, routing.gateway.certificates and routing.gateway.secretName; %d are given." (len $certificates)) -}}
{{- end -}}
{{- if and (eq .healthCheck.grpc "grpc") $.Values.triton.tls.secretName -}}
{{- fail "routing.healthCheck.grpc: grpc asks port 8001 without TLS, and triton.tls.secretName gives it TLS; take http." -}}
{{- end -}}
{{- if gt (int .healthCheck.timeoutSeconds) (int .healthCheck.intervalSeconds) -}}
{{- fail (printf "routing.healthCheck.timeoutSeconds: %d is above routing.healthCheck.intervalSeconds %d." (int .healthCheck.timeoutSeconds) (int .healthCheck.intervalSeconds)) -}}
{{- end -}}
{{- $found := include "inference-system.foundOutSeconds" $ | int -}}
{{- if ge $found (int $.Values.triton.drainSeconds) -}}
{{- fail (printf "triton.drainSeconds: %d must be more than the %d s in which routing.healthCheck finds out that a pod ends." (int $.Values.triton.drainSeconds) $found) -}}
{{- end -}}
{{- if and .iap.clientId (not .iap.secretName) -}}
{{- fail "routing.iap.secretName: routing.iap.clientId needs the Secret that holds the client's secret." -}}
{{- end -}}
{{- if and .iap.secretName (not .iap.clientId) -}}
{{- fail "routing.iap.clientId: routing.iap.secretName is of no use without it." -}}
{{- end -}}
{{- end -}}

{{- if and (eq .kind "loadBalancer") (not .loadBalancer.sourceRanges) -}}
{{- fail "routing.loadBalancer.sourceRanges: routing.kind loadBalancer needs the networks of its clients; 0.0.0.0/0 is everybody." -}}
{{- end -}}

{{- end -}}
{{- end -}}
