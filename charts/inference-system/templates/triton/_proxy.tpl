{{/* Returns the configuration of the HAProxy in front of Triton's HTTP. */}}
{{- define "inference-system.proxyConfig" -}}
{{- $request := include "inference-system.requestSeconds" . | int -}}
{{- $header := include "inference-system.headerSeconds" . | int -}}
global
  log stdout format raw daemon
  nbthread 2
  maxconn 2000
  # After SIGUSR1: this long it serves as before, but for what is said of `stopping` below.
  grace {{ int .Values.triton.drainSeconds }}s
  hard-stop-after {{ add $header $request }}s
  # The key of tls.crt is tls.key, not tls.crt.key.
  ssl-load-extra-del-ext
  ssl-default-bind-options ssl-min-ver TLSv1.2

defaults
  mode http
  log global
  option httplog
  # What went well is in Triton's metrics.
  option dontlog-normal
  option dontlognull
  timeout connect 2s
  timeout http-request {{ $header }}s
  timeout http-keep-alive 60s
  # Between two bytes of a body, so that a slow client holds a connection but nothing of Triton's.
  timeout client 30s
  # Triton has refused or answered a request by then.
  timeout server {{ add $request 5 }}s
  default_backend triton

frontend http
  bind :8000{{ if .Values.triton.tls.secretName }} ssl crt /tls/tls.crt alpn http/1.1{{ end }}
  http-request return status 503 content-type application/json string "{\"error\":\"this server is shutting down\"}" if { stopping } { path_beg /v2/health }
  http-request return status 411 content-type application/json string "{\"error\":\"a body needs a Content-Length\"}" if { req.hdr(Transfer-Encoding) -m found }
  http-request return status 413 content-type application/json string "{\"error\":\"the body is larger than {{ int64 .Values.triton.httpProxy.maxBodyBytes }} bytes\"}" if { req.hdr_val(Content-Length) gt {{ int64 .Values.triton.httpProxy.maxBodyBytes }} }
  http-after-response set-header Connection close if { stopping }

# For probes and load balancers: never TLS, nothing but health.
frontend health
  bind :8003
  # A probe that fails is an event of the pod's already.
  no log
  monitor-uri /proxy
  http-request deny unless { path /v2/health/live /v2/health/ready }
  http-request return status 503 if { stopping }

backend triton
  # Requests of all clients share connections: Triton pays for each.
  http-reuse always
  server triton 127.0.0.1:8080
{{- end -}}
