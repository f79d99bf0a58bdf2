{{/* Names, labels and parts that pods share. */}}

{{- define "batchfleet.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Prefix of all object names: at most 40 of 63 characters, to leave room for suffixes. */}}
{{- define "batchfleet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "batchfleet.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "batchfleet.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Selector labels of a component's pods. Takes (list $ COMPONENT). */}}
{{- define "batchfleet.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "batchfleet.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object. Takes (list $ COMPONENT). */}}
{{- define "batchfleet.labels" -}}
{{- $root := index . 0 -}}
{{ include "batchfleet.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: batchfleet
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Labels of a pod. Without the chart's version, which would restart pods at every chart upgrade.
     Takes (list $ COMPONENT). */}}
{{- define "batchfleet.podLabels" -}}
{{ include "batchfleet.selector" . }}
app.kubernetes.io/part-of: batchfleet
{{- end -}}

{{/* Selector labels of the workers, which the controller creates. */}}
{{- define "batchfleet.workers" -}}
app.kubernetes.io/name: batchfleet-worker
app.kubernetes.io/component: worker
{{- end -}}

{{/* Image of a Batchfleet program. Takes (list $ NAME). */}}
{{- define "batchfleet.image" -}}
{{- $root := index . 0 -}}
{{- $images := $root.Values.images -}}
{{- with $images.registry }}{{ . | trimSuffix "/" }}/{{ end -}}
{{- get $images (index . 1) }}:{{ $images.tag | default $root.Chart.AppVersion -}}
{{- end -}}

{{/* Security contexts that satisfy the restricted pod security standard. */}}
{{- define "batchfleet.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "batchfleet.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "batchfleet.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Scheduling constraints of a component's pods. Takes the component's values. */}}
{{- define "batchfleet.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Spreads pods over nodes and zones where possible. Takes (list $ COMPONENT). */}}
{{- define "batchfleet.spread" -}}
{{- $pods := include "batchfleet.selector" . -}}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- $pods | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Converts settings in camel case to flags. `toJson`, because a template prints 1000000 as 1e+06. */}}
{{- define "batchfleet.flags" -}}
{{- range $name, $value := . }}
{{- if kindIs "slice" $value }}
- {{ printf "--%s=%s" (kebabcase $name) (join "," $value) | quote }}
{{- else if kindIs "string" $value }}
- {{ printf "--%s=%s" (kebabcase $name) $value | quote }}
{{- else }}
- {{ printf "--%s=%s" (kebabcase $name) (toJson $value) | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Name of the secret that holds a program's Redis URL. Takes (list $ PROGRAM). */}}
{{- define "batchfleet.redisSecret" -}}
{{- $root := index . 0 -}}
{{- $program := index . 1 -}}
{{- if $root.Values.redis.bundled -}}
{{- include "batchfleet.fullname" $root }}-redis-{{ $program }}
{{- else -}}
{{- get $root.Values.redis.external (printf "%sSecret" $program)
    | required (printf "redis.bundled is false, so redis.external.%sSecret must name the secret that holds the Redis URL" $program) -}}
{{- end -}}
{{- end -}}

{{/* TLS to an existing Redis: the flags of a program, and the files that the flags name. */}}

{{- define "batchfleet.redisTls" -}}
{{- if and (not .Values.redis.bundled) .Values.redis.external.tls.secret }}yes{{ end -}}
{{- if and .Values.redis.external.tls.clientCertificate (not .Values.redis.external.tls.secret) -}}
{{- fail "redis.external.tls.clientCertificate needs redis.external.tls.secret, the secret with the certificate and its key" -}}
{{- end -}}
{{- end -}}

{{- define "batchfleet.redisTlsFlags" -}}
{{- if include "batchfleet.redisTls" . }}
- --redis-ca=/etc/batchfleet/redis-tls/ca.crt
{{- if .Values.redis.external.tls.clientCertificate }}
- --redis-cert=/etc/batchfleet/redis-tls/tls.crt
- --redis-key=/etc/batchfleet/redis-tls/tls.key
{{- end }}
{{- end }}
{{- end -}}

{{- define "batchfleet.redisTlsMount" -}}
{{- if include "batchfleet.redisTls" . }}
- {name: redis-tls, mountPath: /etc/batchfleet/redis-tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "batchfleet.redisTlsVolume" -}}
{{- if include "batchfleet.redisTls" . }}
- name: redis-tls
  secret: {secretName: {{ .Values.redis.external.tls.secret | quote }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* Rules of the network policies. */}}

{{- define "batchfleet.dns" -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end }}

{{- define "batchfleet.toRedis" -}}
{{- if .Values.redis.bundled -}}
- to: [{podSelector: {matchLabels: {{ include "batchfleet.selector" (list . "redis") | fromYaml | toJson }}}}]
  ports: [{port: redis}]
{{- else -}}
# An existing Redis has no selector.
- ports:
    - {port: {{ .Values.redis.external.port }}}
    {{- with .Values.redis.external.sentinelPort }}
    - {port: {{ . }}}
    {{- end }}
{{- end -}}
{{- end }}

{{- define "batchfleet.toCollector" -}}
{{- with .Values.tracing.endpoint -}}
{{- $usual := eq (urlParse .).scheme "https" | ternary 443 80 -}}
# The OpenTelemetry collector. No selector: it may be outside the cluster.
- ports: [{port: {{ regexFind ":[0-9]+$" (urlParse .).host | trimPrefix ":" | default $usual }}}]
{{- end -}}
{{- end }}

{{- define "batchfleet.fromPrometheus" -}}
- from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ .Values.networkPolicy.prometheusNamespace | quote }}}}}]
  ports: [{port: admin}]
{{- end }}
