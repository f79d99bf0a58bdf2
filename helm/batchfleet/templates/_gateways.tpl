{{/* "yes" if a HorizontalPodAutoscaler sets the number of gateways. One that exists stays, because the API of
metrics may be away for a moment during an upgrade. */}}
{{- define "batchfleet.autoscalesGateways" -}}
{{- $autoscaling := .Values.gateway.autoscaling -}}
{{- $enabled := $autoscaling.enabled -}}
{{- if eq (toString $enabled) "auto" -}}
{{- $name := printf "%s-gateway" (include "batchfleet.fullname" .) -}}
{{- $hasMetrics := .Capabilities.APIVersions.Has "metrics.k8s.io/v1beta1" -}}
{{- $enabled = or $hasMetrics $autoscaling.inFlight (lookup "autoscaling/v2" "HorizontalPodAutoscaler" (include "batchfleet.namespace" .) $name) -}}
{{- end -}}
{{- if $enabled }}yes{{ end -}}
{{- end -}}
