{{/* How a pod ends, in seconds from the moment when it is told to:
       0                     the endpoints forget it; the proxy says "Connection: close" and is no longer ready
       drainSeconds          the proxy's socket closes; what it has accepted goes on
       + headerSeconds       every such request has reached Triton: SIGTERM, its sockets close
       + requestSeconds      every request is answered, or has been refused for its age */}}

{{/* Returns the seconds in which a client must have sent a request's headers. */}}
{{- define "inference-system.headerSeconds" -}}
5
{{- end -}}

{{/* Returns the seconds that a request may live: in the slowest queue of all models, then in a
     batch. */}}
{{- define "inference-system.requestSeconds" -}}
{{- $queue := 0 -}}
{{- range include "inference-system.models" . | fromJsonArray -}}
{{- range prepend .batching.priorities .batching.queue -}}
{{- $queue = max $queue (.timeoutMicroseconds | default 0) -}}
{{- end -}}
{{- end -}}
{{- add (divf $queue 1000000 | ceil | int) .Values.triton.executionSeconds -}}
{{- end -}}

{{/* Returns the milliseconds after which Triton asks a gRPC client to connect anew, which then asks for the
     pods' addresses anew. A quarter of the drain leaves the rest of it for DNS to forget the pod. */}}
{{- define "inference-system.connectionAge" -}}
{{- max 1000 (mul .Values.triton.drainSeconds 250) -}}
{{- end -}}
