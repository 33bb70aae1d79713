{{/* Returns the release's error budgets as JSON: the fraction of events that may be bad, by SLO. */}}
{{- define "inference-system.errorBudgets" -}}
{{- $budgets := dict "availability" (subf 1.0 .Values.slo.availability | printf "%.6g") -}}
{{- if .Values.monitoring.serverLatency.enabled -}}
{{- $_ := set $budgets "latency" (subf 1.0 .Values.slo.latency.server.percentile | printf "%.6g") -}}
{{- end -}}
{{- toJson $budgets -}}
{{- end -}}

{{/* Returns the alerts on burn rates as a JSON list: the window that tells how bad it is, the one that tells that
     it goes on, the burn rate, and what share of the budget it takes to get there. The shares and windows are
     those of Google's SRE workbook, "Alerting on SLOs"; for a window of 30 days they give its burn rates of 14.4,
     6, 3 and 1. */}}
{{- define "inference-system.burnRates" -}}
{{- $hours := mulf (regexFind "^[0-9]+" .Values.slo.window | float64) (get (dict "d" 24.0 "w" 168.0) (regexFind "[a-z]$" .Values.slo.window)) -}}
{{- $alerts := list
      (dict "severity" "critical" "long" "1h" "hours" 1.0 "short" "5m" "share" 0.02)
      (dict "severity" "critical" "long" "6h" "hours" 6.0 "short" "30m" "share" 0.05)
      (dict "severity" "warning" "long" "1d" "hours" 24.0 "short" "2h" "share" 0.1)
      (dict "severity" "warning" "long" "3d" "hours" 72.0 "short" "6h" "share" 0.1) -}}
{{- range $alerts -}}
{{- $_ := set . "factor" (divf (mulf .share $hours) .hours | printf "%.6g") -}}
{{- $_ := set . "spent" (mulf .share 100.0 | printf "%.0f %%") -}}
{{- end -}}
{{- toJson $alerts -}}
{{- end -}}

{{/* Returns PromQL for the bad events of an SLO a second. Takes (list $ "availability"|"latency" "window"). */}}
{{- define "inference-system.badEvents" -}}
{{- $root := first . -}}
{{- $triton := printf "job=%q" (include "inference-system.job" (list $root "triton")) -}}
{{- if eq (index . 1) "availability" -}}
{{- /* A request that its own client gave up is not the server's failure. */ -}}
(sum by (namespace, job, region, model) (rate(nv_inference_request_failure{ {{- $triton }}, reason!="CANCELED"}[{{ last . }}])) + {{ include "inference-system.queueFullEvents" (list $root (last .)) }})
{{- else -}}
{{- /* Prometheus 3 writes the bound 2 as 2.0, Prometheus 2 as it was told. */ -}}
{{- $bound := printf "%v" $root.Values.slo.latency.server.threshold | replace "." "[.]" -}}
({{ include "inference-system.allEvents" . }} - sum by (namespace, job, region, model) (rate(inference_server_duration_seconds_bucket{ {{- $triton }}, phase="request", le=~"{{ $bound }}([.]0)?"}[{{ last . }}])))
{{- end -}}
{{- end -}}

{{/* Returns PromQL for the requests a second that find the queue full, by model, or 0 where nothing sees them:
     no counter of Triton's has them, only traces, of one request in so many. Takes (list $ "window"). */}}
{{- define "inference-system.queueFullEvents" -}}
{{- $root := first . -}}
{{- $triton := printf "job=%q" (include "inference-system.job" (list $root "triton")) -}}
{{- $by := "sum by (namespace, job, region, model)" -}}
{{- if $root.Values.monitoring.serverLatency.enabled -}}
({{ $by }} (rate(inference_server_refused_total{ {{- $triton }}}[{{ last . }}])) * {{ int $root.Values.monitoring.serverLatency.sampleEvery }} or {{ $by }} (rate(nv_inference_request_success{ {{- $triton }}}[{{ last . }}])) * 0)
{{- else -}}
0
{{- end -}}
{{- end -}}

{{/* Returns PromQL for all events of an SLO a second. Takes (list $ "availability"|"latency" "window"). */}}
{{- define "inference-system.allEvents" -}}
{{- $root := first . -}}
{{- $triton := printf "job=%q" (include "inference-system.job" (list $root "triton")) -}}
{{- if eq (index . 1) "availability" -}}
(sum by (namespace, job, region, model) (rate(nv_inference_request_success{ {{- $triton }}}[{{ last . }}])) + {{ include "inference-system.badEvents" . }})
{{- else -}}
sum by (namespace, job, region, model) (rate(inference_server_duration_seconds_count{ {{- $triton }}, phase="request"}[{{ last . }}]))
{{- end -}}
{{- end -}}

{{/* Returns the annotation that says where to read what to do. Takes (list $ "Alert"). */}}
{{- define "inference-system.runbook" -}}
runbook_url: {{ (first .).Values.monitoring.rules.runbooks }}/{{ last . }}.md
{{- end -}}

{{/* Returns the labels that an alert adds, as JSON: how bad it is (critical pages, warning is a ticket), and what
     it can't have from its series. Takes (list $ "severity") or (list $ "severity" "name" "value"). */}}
{{- define "inference-system.alertLabels" -}}
{{- $root := first . -}}
{{- $labels := dict "severity" (index . 1) "namespace" $root.Release.Namespace "release" $root.Release.Name -}}
{{- with $root.Values.region -}}
{{- $_ := set $labels "region" . -}}
{{- end -}}
{{- if eq (len .) 4 -}}
{{- $_ := set $labels (index . 2) (index . 3) -}}
{{- end -}}
{{- toJson $labels -}}
{{- end -}}
