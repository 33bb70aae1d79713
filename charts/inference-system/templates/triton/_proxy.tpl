{{/* Returns the data of the proxy's ConfigMap: its configuration, its scripts, and for each model a request. */}}
{{- define "inference-system.proxyConfigData" -}}
haproxy.cfg: |
  {{- include "inference-system.proxyConfig" . | nindent 2 }}
json.lua: |
  {{- .Files.Get "files/json.lua" | nindent 2 }}
watch-models.lua: |
  {{- .Files.Get "files/watch-models.lua" | nindent 2 }}
{{- range include "inference-system.models" . | fromJsonArray }}
{{ .name }}.json: {{ include "inference-system.exampleRequest" . | quote }}
{{- end }}
{{- end -}}

{{/* Returns the head of a request over HTTP for one row of zeros, as JSON; the tensor follows it. Takes the model. */}}
{{- define "inference-system.exampleRequest" -}}
{{- /* Of BYTES, each element is the length of nothing. */ -}}
{{- $shape := list 1 -}}
{{- $size := get (dict "BOOL" 1 "UINT8" 1 "INT8" 1 "UINT16" 2 "INT16" 2 "FP16" 2 "BF16" 2 "UINT64" 8 "INT64" 8 "FP64" 8) .input.dataType | default 4 -}}
{{- range .input.shape -}}
{{- $shape = append $shape (max 1 (int64 .)) -}}
{{- $size = mul $size (last $shape) -}}
{{- end -}}
{{- $input := dict "name" .input.name "datatype" .input.dataType "shape" $shape "parameters" (dict "binary_data_size" $size) -}}
{{- $parameters := dict "binary_data_output" true -}}
{{- if .batching.priorities -}}
{{- $_ := set $parameters "priority" 1 -}}
{{- end -}}
{{- dict "inputs" (list $input) "parameters" $parameters | toJson -}}
{{- end -}}

{{/* Returns the configuration of the HAProxy in front of Triton's HTTP. */}}
{{- define "inference-system.proxyConfig" -}}
{{- $request := include "inference-system.requestSeconds" . | int -}}
{{- $header := include "inference-system.headerSeconds" . | int -}}
{{- $body := include "inference-system.maxBodyBytes" . | int64 -}}
{{- $maxJson := int64 .Values.triton.httpProxy.maxJsonBytes -}}
{{- $connections := int .Values.triton.httpProxy.maxConnections -}}
{{- $probes := 100 -}}
{{- $names := list -}}
{{- range include "inference-system.models" . | fromJsonArray -}}
{{- $names = append $names .name -}}
{{- end -}}
global
  nbthread 2
  # Probes have connections of their own: a pod whose clients took all of them would be restarted for it.
  maxconn {{ add $connections $probes }}
  # Holds the headers of a request and all of its JSON.
  tune.bufsize {{ add 16384 $maxJson }}
  lua-load-per-thread /config/json.lua
  # After SIGUSR1: this long it serves as before, but for what is said of `stopping` below.
  grace {{ int .Values.triton.drainSeconds }}s
  hard-stop-after {{ add $header $request }}s
  # The key of tls.crt is tls.key, not tls.crt.key.
  ssl-load-extra-del-ext
  ssl-default-bind-options ssl-min-ver TLSv1.2
  setenv WATCHED_MODELS "{{ join " " $names }}"
  setenv WATCHED_FOLDER /config
  setenv REQUEST_SECONDS {{ $request }}
  lua-load /config/watch-models.lua

defaults
  mode http
  # Not `log global`: that would log each look of the script's as well.
  log stdout format raw daemon
  option httplog
  # What went well is in Triton's metrics.
  option dontlog-normal
  option dontlognull
  timeout connect 2s
  timeout http-request {{ $header }}s
  timeout http-keep-alive 60s
  # Between two bytes of a body.
  timeout client 30s
  # Triton has refused or answered a request by then.
  timeout server {{ add $request 5 }}s
  default_backend triton

frontend http
  bind :8000{{ if .Values.triton.tls.secretName }} ssl crt /tls/tls.crt alpn http/1.1{{ end }}
  maxconn {{ $connections }}
  {{- with int .Values.triton.httpProxy.maxConnectionsPerClient }}
  stick-table type ipv6 size 100k expire 1m store conn_cur
  tcp-request connection track-sc0 src
  tcp-request connection reject if { sc0_conn_cur gt {{ . }} }
  {{- end }}
  # What Triton would fall over; docs/hostile-input.md has the reasons. To HAProxy's integers 4294967296 is 0.
  {{ include "inference-system.refusal" (list 503 "this server is shutting down") }} if { stopping } { path_beg /v2/health }
  {{ include "inference-system.refusal" (list 405 "GET and POST are what there is") }} unless METH_GET or METH_POST
  {{ include "inference-system.refusal" (list 404 "there is nothing but /v2") }} unless { path /v2 } or { path_beg /v2/ }
  {{ include "inference-system.refusal" (list 414 "the address is longer than 4096 bytes") }} if { url,length gt 4096 }
  {{ include "inference-system.refusal" (list 431 "the headers are larger than 8192 bytes") }} if { req.hdrs,length gt 8192 }
  {{ include "inference-system.refusal" (list 411 "a body needs a Content-Length") }} if { req.hdr(Transfer-Encoding) -m found }
  {{ include "inference-system.refusal" (list 411 "a POST needs a Content-Length") }} if METH_POST !{ req.fhdr(Content-Length) -m found }
  {{ include "inference-system.refusal" (list 415 "a compressed body is not taken") }} if { req.hdr(Content-Encoding) -m found } !{ req.hdr(Content-Encoding) -i identity }
  {{- $large := printf "the body is larger than %d bytes" $body }}
  {{ include "inference-system.refusal" (list 413 $large) }} if { req.fhdr(Content-Length) -m found } !{ req.fhdr(Content-Length) -m reg ^[0-9]{1,9}$ }
  {{ include "inference-system.refusal" (list 413 $large) }} if { req.hdr_val(Content-Length) gt {{ $body }} }
  # An inference says how much of its body is JSON; where it does not, and anywhere else, all of it may be.
  acl says_json req.fhdr(Inference-Header-Content-Length) -m found
  {{- $number := "Inference-Header-Content-Length has to be one number" }}
  {{ include "inference-system.refusal" (list 400 $number) }} if says_json !{ req.fhdr(Inference-Header-Content-Length) -m reg ^[0-9]{1,9}$ }
  {{ include "inference-system.refusal" (list 400 $number) }} if { req.fhdr_cnt(Inference-Header-Content-Length) gt 1 }
  {{ include "inference-system.refusal" (list 400 "Inference-Header-Content-Length is for inferences") }} if says_json !{ path_end /infer }
  {{- $json := printf "more than %d bytes of JSON: send tensors as binary data" $maxJson }}
  {{ include "inference-system.refusal" (list 413 $json) }} if says_json { req.hdr_val(Inference-Header-Content-Length) gt {{ $maxJson }} }
  {{ include "inference-system.refusal" (list 413 $json) }} if !says_json { req.hdr_val(Content-Length) gt {{ $maxJson }} }
  http-request wait-for-body time {{ $header }}s at-least {{ $maxJson }} if METH_POST
  http-request set-var(txn.json) lua.json_problem({{ $body }}) if METH_POST
  http-request return status 400 content-type application/json lf-string "{\"error\":\"%[var(txn.json)]\"}" if METH_POST !{ var(txn.json) -m str ok }
  # What Triton refuses is in its metrics and the clients'; a line for each would make an overload dearer.
  http-response set-log-level silent if { status 503 }
  # An answer of Triton's own. Where it gives none, or has a problem, the client is to come again by another
  # connection, which the Service leads to another pod.
  http-response set-var(txn.answered) bool(true)
  http-after-response set-header Connection close if { stopping } || !{ var(txn.answered) -m found } { status ge 500 } || { var(proc.problem) -m len gt 0 }

# For probes and load balancers: never TLS, nothing but health.
frontend health
  bind :8003
  maxconn {{ $probes }}
  # A prober that leaves its connections open would take them from the kubelet.
  option httpclose
  # A probe that fails is an event of the pod's already.
  no log
  monitor-uri /proxy
  http-request deny unless { path /v2/health/live /v2/health/ready }
  http-request return status 503 if { stopping }
  # For the clients' responses as well: to ask the script for each of them would cost a tenth of what small ones do.
  http-request set-var(proc.problem) lua.problem
  http-request return status 503 content-type text/plain lf-string "%[var(proc.problem)]\n" if { var(proc.problem) -m len gt 0 }

backend triton
  # Requests of all clients share connections: Triton pays for each.
  http-reuse always
  server triton 127.0.0.1:8080
{{- end -}}

{{/* Returns the proxy's own answer to a request that it does not pass on. Takes (list status sentence). */}}
{{- define "inference-system.refusal" -}}
http-request return status {{ first . }} content-type application/json string "{\"error\":\"{{ last . }}\"}"
{{- end -}}

{{/* Returns the size of the largest body: that of the values, or, where that is 0, what the largest batch of any
     model takes in Triton's binary form. 64 MiB where a shape or a type leaves that open. */}}
{{- define "inference-system.maxBodyBytes" -}}
{{- $sizes := dict "BOOL" 1 "UINT8" 1 "INT8" 1 "UINT16" 2 "INT16" 2 "FP16" 2 "BF16" 2 "UINT32" 4 "INT32" 4 "FP32" 4 "UINT64" 8 "INT64" 8 "FP64" 8 -}}
{{- $largest := 0 -}}
{{- range include "inference-system.models" . | fromJsonArray -}}
{{- $bytes := mul (max 1 (int64 .batching.maxSize)) (get $sizes .input.dataType | default 0) -}}
{{- range .input.shape -}}
{{- $bytes = mul $bytes (max 0 (int64 .)) -}}
{{- end -}}
{{- $largest = max $largest ($bytes | default 67108864) -}}
{{- end -}}
{{- int64 .Values.triton.httpProxy.maxBodyBytes | default (add $largest (int64 .Values.triton.httpProxy.maxJsonBytes)) -}}
{{- end -}}
