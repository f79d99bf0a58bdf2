{{/* The connection of programs to Redis, and the egress that the connection needs. */}}

{{- define "batchfleet.redisName" -}}
{{- printf "%s-redis" (include "batchfleet.fullname" .) -}}
{{- end -}}

{{/* Name of the Service of one bundled Redis. Takes (list $ NUMBER). */}}
{{- define "batchfleet.redisHost" -}}
{{- include "batchfleet.redisName" (index . 0) }}{{ with index . 1 }}-{{ . }}{{ end }}
{{- end -}}

{{/* The number of bundled Redises of which programs count the URLs when they start, so that pods are
     replaced when it changes; empty for one. */}}
{{- define "batchfleet.redises" -}}
{{- if and .Values.redis.bundled (gt (int .Values.redis.shards) 1) }}{{ int .Values.redis.shards }}{{ end -}}
{{- end -}}

{{/* Name of the secret that holds a program's Redis URL. Takes (list $ PROGRAM). */}}
{{- define "batchfleet.redisSecret" -}}
{{- $root := index . 0 -}}
{{- $program := index . 1 -}}
{{- if $root.Values.redis.bundled -}}
{{- get $root.Values.redis.existingSecrets $program | default (printf "%s-user-%s" (include "batchfleet.redisName" $root) $program) -}}
{{- else -}}
{{- get $root.Values.redis.external (printf "%sSecret" $program)
    | required (printf "redis.bundled is false, so redis.external.%sSecret must name the secret that holds the Redis URL" $program) -}}
{{- end -}}
{{- end -}}

{{/* Key of the URL in these secrets. */}}
{{- define "batchfleet.redisSecretKey" -}}
{{- ternary "url" .Values.redis.external.secretKey .Values.redis.bundled -}}
{{- end -}}

{{/* Name of the secret that the controller fills with the users of models. */}}
{{- define "batchfleet.modelUsersSecret" -}}
{{- printf "%s-model-users" (include "batchfleet.redisName" .) -}}
{{- end -}}

{{/* Takes (list $ PROGRAM), or (list $ PROGRAM VOLUME). */}}
{{- define "batchfleet.redisUrlVolume" -}}
- name: {{ if gt (len .) 2 }}{{ index . 2 }}{{ else }}redis{{ end }}
  secret:
    secretName: {{ include "batchfleet.redisSecret" . | quote }}
    defaultMode: 0440
    items: [{key: {{ include "batchfleet.redisSecretKey" (index . 0) | quote }}, path: url}]
{{- end -}}

{{/* Names of the secrets with the certificates of the bundled Redis and of its clients. */}}
{{- define "batchfleet.redisServerTls" -}}
{{- .Values.redis.tls.existingSecret | default (printf "%s-tls" (include "batchfleet.redisName" .)) -}}
{{- end -}}

{{- define "batchfleet.redisClientTls" -}}
{{- .Values.redis.tls.existingClientSecret | default (printf "%s-client-tls" (include "batchfleet.redisName" .)) -}}
{{- end -}}

{{/* Name of the secret with the certificates that programs use with Redis; empty without any. */}}
{{- define "batchfleet.redisTls" -}}
{{- $external := .Values.redis.external.tls -}}
{{- $bundled := .Values.redis.tls -}}
{{- if and $bundled.enabled (not .Values.redis.bundled) -}}
{{- fail "redis.tls.enabled is for the bundled Redis only: for another Redis, set redis.external.tls and use a URL that starts with rediss://" -}}
{{- end -}}
{{- if and (or $bundled.existingSecret $bundled.existingClientSecret $bundled.certManagerIssuer) (not $bundled.enabled) -}}
{{- fail "certificates in redis.tls have no effect without redis.tls.enabled=true" -}}
{{- end -}}
{{- if .Values.redis.bundled -}}
{{- if .Values.redis.tls.enabled }}{{ include "batchfleet.redisClientTls" . }}{{ end -}}
{{- else -}}
{{- if and $external.clientCertificate (not $external.secret) -}}
{{- fail "redis.external.tls.clientCertificate needs redis.external.tls.secret, the secret with the certificate and its key" -}}
{{- end -}}
{{- $external.secret -}}
{{- end -}}
{{- end -}}

{{- define "batchfleet.redisTlsFlags" -}}
{{- if include "batchfleet.redisTls" . }}
- --redis-ca=/etc/batchfleet/redis-tls/ca.crt
{{- if or .Values.redis.bundled .Values.redis.external.tls.clientCertificate }}
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
{{- with include "batchfleet.redisTls" . }}
- name: redis-tls
  secret: {secretName: {{ . | quote }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* Which secrets of the bundled Redis the Job makes, as flags of `batchfleet-controller secrets`. */}}
{{- define "batchfleet.madeSecrets" -}}
{{- if .Values.redis.bundled }}
{{- range $program, $existing := .Values.redis.existingSecrets }}
{{- if and (not $existing) (or $.Values.redis.modelUsers (ne $program "admin")) }}
- --user={{ $program }}
{{- end }}
{{- end }}
{{- with .Values.redis.tls }}
{{- if and .enabled (not .existingSecret) (not .certManagerIssuer) }}
{{- if .existingClientSecret }}
{{- fail "redis.tls.existingClientSecret needs redis.tls.existingSecret, because one authority signs both certificates" }}
{{- end }}
- --certificates
{{- else if and .enabled .existingSecret (not .existingClientSecret) }}
{{- fail "redis.tls.existingSecret needs redis.tls.existingClientSecret, the certificates of the clients" }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Rules of the network policies. */}}

{{- define "batchfleet.dns" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
    # The port of the DNS pods of OpenShift.
    - {port: 5353, protocol: UDP}
    - {port: 5353, protocol: TCP}
  {{- with .Values.networkPolicy.dns }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "batchfleet.toRedis" -}}
{{- if .Values.redis.bundled -}}
- to: [{podSelector: {matchLabels: {{ include "batchfleet.selector" (list . "redis") | fromYaml | toJson }}}}]
  ports: [{port: redis}]
{{- else -}}
- ports:
    - {port: {{ .Values.redis.external.port }}}
    {{- with .Values.redis.external.sentinelPort }}
    - {port: {{ . }}}
    {{- end }}
  {{- with .Values.networkPolicy.redis }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end }}

{{/* Port of a URL: as written, or the usual port of its scheme. */}}
{{- define "batchfleet.port" -}}
{{- $usual := ternary 80 443 (eq (urlParse .).scheme "http") -}}
{{- regexFind ":[0-9]+$" (urlParse .).host | trimPrefix ":" | default $usual -}}
{{- end -}}

{{- define "batchfleet.toCollector" -}}
{{- with .Values.tracing.endpoint -}}
# The OpenTelemetry collector.
- ports: [{port: {{ include "batchfleet.port" . }}}]
  {{- with $.Values.networkPolicy.collector }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end }}

{{- define "batchfleet.toApiServer" -}}
# The API server. No selector matches it.
- ports: [{port: 443}, {port: 6443}]
  {{- with .Values.networkPolicy.apiServer }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "batchfleet.toObjectStores" -}}
{{- $ports := list -}}
{{- range .Values.models -}}
{{- with dig "source" "objectStore" "url" "" .model -}}
{{- $ports = append $ports (include "batchfleet.port" . | int) -}}
{{- end -}}
{{- end -}}
{{- with $ports | uniq -}}
# The object stores of the fleets.
- ports:
    {{- range . }}
    - {port: {{ . }}}
    {{- end }}
  {{- with $.Values.networkPolicy.objectStore }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end }}

{{- define "batchfleet.fromPrometheus" -}}
- from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ .Values.networkPolicy.prometheusNamespace | quote }}}}}]
  ports: [{port: admin}]
{{- end }}
