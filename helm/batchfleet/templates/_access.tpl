{{/* Access to gateways: TLS, client certificates, tokens and API keys. */}}

{{/* Whether requests need an API key, a token or a client certificate. */}}
{{- define "batchfleet.authenticated" -}}
{{- with .Values.gateway -}}
{{- if or .apiKeysSecret .jwt.issuer .tls.clientCaSecret }}yes{{ end -}}
{{- end -}}
{{- end -}}

{{/* What makes gateways reachable from outside the cluster, in words. */}}
{{- define "batchfleet.exposure" -}}
{{- with .Values.gateway -}}
{{- if ne .service.type "ClusterIP" -}}
gateway.service.type={{ .service.type }}
{{- else if .ingress.enabled -}}
gateway.ingress.enabled=true
{{- else if .httpRoute.enabled -}}
gateway.httpRoute.enabled=true
{{- else if .grpcRoute.enabled -}}
gateway.grpcRoute.enabled=true
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Refuses contradictory values, and a gateway that any client outside the cluster may use. */}}
{{- define "batchfleet.checkAccess" -}}
{{- $exposure := include "batchfleet.exposure" . -}}
{{- with .Values.gateway -}}
{{- if and $exposure (not (include "batchfleet.authenticated" $)) (not .allowAnonymous) -}}
{{- fail (printf "%s lets any client outside the cluster use all models: set gateway.apiKeysSecret, gateway.jwt.issuer or gateway.tls.clientCaSecret, or gateway.allowAnonymous=true if this is intended or a proxy authenticates clients" $exposure) -}}
{{- end -}}
{{- if and .tls.clientCaSecret (not .tls.secret) -}}
{{- fail "gateway.tls.clientCaSecret needs gateway.tls.secret, the secret with the certificate of gateways" -}}
{{- end -}}
{{- with .jwt -}}
{{- if and .issuer (not .audiences) -}}
{{- fail "gateway.jwt.issuer needs gateway.jwt.audiences, one of which a token must name" -}}
{{- end -}}
{{- if and (or .audiences .jwksUrl .jwksSecret .caSecret) (not .issuer) -}}
{{- fail "settings of gateway.jwt have no effect without gateway.jwt.issuer, so the gateway would check no token" -}}
{{- end -}}
{{- if and .jwksUrl .jwksSecret -}}
{{- fail "gateway.jwt.jwksUrl and gateway.jwt.jwksSecret both name the keys of the issuer: set one" -}}
{{- end -}}
{{- if and .issuer (not .jwksUrl) (not .jwksSecret) (not (regexMatch "^https?://" .issuer)) -}}
{{- fail "gateway.jwt.issuer is no URL, at which the keys could be found: set gateway.jwt.jwksUrl or gateway.jwt.jwksSecret" -}}
{{- end -}}
{{- if and .caSecret .jwksSecret -}}
{{- fail "gateway.jwt.caSecret has no effect with gateway.jwt.jwksSecret" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "batchfleet.accessFlags" -}}
{{- include "batchfleet.checkAccess" . -}}
{{- with .Values.gateway }}
{{- if .apiKeysSecret }}
- --api-keys=/etc/batchfleet/keys/keys
{{- end }}
{{- if .tls.secret }}
- --tls-cert=/etc/batchfleet/tls/tls.crt
- --tls-key=/etc/batchfleet/tls/tls.key
{{- end }}
{{- if .tls.clientCaSecret }}
- --tls-client-ca=/etc/batchfleet/client-ca/ca.crt
{{- end }}
{{- with .jwt }}
{{- if .issuer }}
- {{ printf "--jwt-issuer=%s" .issuer | quote }}
- {{ printf "--jwt-audience=%s" (join "," .audiences) | quote }}
{{- if .jwksUrl }}
- {{ printf "--jwt-jwks-url=%s" .jwksUrl | quote }}
{{- else if .jwksSecret }}
- --jwt-jwks-file=/etc/batchfleet/jwks/jwks.json
{{- end }}
{{- if .caSecret }}
- --jwt-jwks-ca=/etc/batchfleet/jwks-ca/ca.crt
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Names and secrets of the volumes, as YAML. */}}
{{- define "batchfleet.accessSecrets" -}}
{{- with .Values.gateway -}}
{{- with .apiKeysSecret }}
keys: {{ . | quote }}
{{- end }}
{{- with .tls.secret }}
tls: {{ . | quote }}
{{- end }}
{{- with .tls.clientCaSecret }}
client-ca: {{ . | quote }}
{{- end }}
{{- if .jwt.issuer }}
{{- with .jwt.jwksSecret }}
jwks: {{ . | quote }}
{{- end }}
{{- with .jwt.caSecret }}
jwks-ca: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "batchfleet.accessMounts" -}}
{{- range $name, $secret := include "batchfleet.accessSecrets" . | fromYaml }}
- {name: {{ $name }}, mountPath: /etc/batchfleet/{{ $name }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "batchfleet.accessVolumes" -}}
{{- range $name, $secret := include "batchfleet.accessSecrets" . | fromYaml }}
- name: {{ $name }}
  secret:
    secretName: {{ $secret | quote }}
    defaultMode: 0440
    {{- if eq $name "keys" }}
    items: [{key: {{ $.Values.gateway.apiKeysSecretKey | quote }}, path: keys}]
    {{- end }}
{{- end }}
{{- end -}}

{{/* Egress to the URL of the issuer's keys. */}}
{{- define "batchfleet.toIssuer" -}}
{{- with .Values.gateway.jwt }}
{{- if and .issuer (not .jwksSecret) }}
{{- $url := .jwksUrl | default .issuer }}
# The issuer of tokens. No selector: it may be outside the cluster.
- ports: [{port: {{ include "batchfleet.port" $url }}}]
{{- end }}
{{- end }}
{{- end -}}
