{{/* Parts that the pods of all components share. */}}

{{/* The values of a component: its own over those for all components. Maps are merged. Takes
     (list $ COMPONENT). Returns YAML. */}}
{{- define "batchfleet.values" -}}
{{- $all := (index . 0).Values -}}
{{- $own := get $all (index . 1) | default dict -}}
{{- $values := dict -}}
{{- range list "podAnnotations" "podLabels" "podSecurityContext" "securityContext" "serviceAccount"
    "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName"
    "runtimeClassName" "schedulerName" "dnsPolicy" "dnsConfig" "hostAliases" "revisionHistoryLimit"
    "livenessProbe" "readinessProbe" "startupProbe" "extraEnv" "extraEnvFrom" "extraVolumes"
    "extraVolumeMounts" "extraInitContainers" "extraContainers" -}}
{{- $value := get $all . -}}
{{- if and (hasKey $own .) (kindIs "map" $value) -}}
{{- $value = deepCopy $value -}}
{{- range $key, $replacement := get $own . -}}
{{- if kindIs "invalid" $replacement -}}
{{- $_ := unset $value $key -}}
{{- else -}}
{{- $_ := set $value $key $replacement -}}
{{- end -}}
{{- end -}}
{{- else if hasKey $own . -}}
{{- $value = get $own . -}}
{{- end -}}
{{- $_ := set $values . $value -}}
{{- end -}}
{{- toYaml $values -}}
{{- end -}}

{{/* Whether the cluster, OpenShift, assigns the user and groups of pods. */}}
{{- define "batchfleet.assignsUsers" -}}
{{- $adapt := dig "compatibility" "openshift" "adaptSecurityContext" "auto" (.Values.global | default dict) -}}
{{- $isOpenShift := .Capabilities.APIVersions.Has "security.openshift.io/v1" -}}
{{- if or (eq $adapt "force") (and (eq $adapt "auto") $isOpenShift) }}yes{{ end -}}
{{- end -}}

{{/* Security context of a pod. Takes (list $ SECURITY-CONTEXT). */}}
{{- define "batchfleet.podSecurity" -}}
{{- $context := index . 1 -}}
{{- if include "batchfleet.assignsUsers" (index . 0) -}}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{/* Name of a component's service account. Takes (list $ COMPONENT). */}}
{{- define "batchfleet.serviceAccount" -}}
{{- if eq (index . 1) "secrets" -}}
{{- include "batchfleet.redisName" (index . 0) }}-secrets
{{- else -}}
{{- $account := (include "batchfleet.values" . | fromYaml).serviceAccount -}}
{{- $own := printf "%s-%s" (include "batchfleet.fullname" (index . 0)) (index . 1) -}}
{{- $account.name | default (ternary $own "default" $account.create) -}}
{{- end -}}
{{- end -}}

{{/* Metadata of a pod. Without the chart's version, which would restart pods at every chart upgrade.
     Takes a dict: `root`, `component`, `values` and `mounted`, the content of mounted objects that the
     chart renders: when it changes, pods are replaced. */}}
{{- define "batchfleet.podMetadata" -}}
{{- $labels := include "batchfleet.selector" (list .root .component) | fromYaml -}}
{{- $_ := set $labels "app.kubernetes.io/part-of" "batchfleet" -}}
labels: {{- merge $labels .values.podLabels .root.Values.commonLabels | toYaml | nindent 2 }}
{{- $annotations := deepCopy .values.podAnnotations -}}
{{- with .mounted -}}
{{- $_ := set $annotations "batchfleet.dev/checksum" (sha256sum .) -}}
{{- end -}}
{{- with $annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Annotations with the reasons why an object does not pass two checks of checkov that depend on the
     user's registry. Takes (list $ IMAGE). Returns YAML. */}}
{{- define "batchfleet.audit" -}}
{{- $images := (index . 0).Values.images -}}
{{- $reasons := dict -}}
{{- if not (get $images.digests (index . 1)) -}}
{{- $_ := set $reasons "checkov.io/skip1" "CKV_K8S_43=a digest is known once the image is in a registry: set images.digests" -}}
{{- end -}}
{{- if ne $images.pullPolicy "Always" -}}
{{- $_ := set $reasons "checkov.io/skip2" "CKV_K8S_15=digests and tags of releases do not move: set images.pullPolicy where they do" -}}
{{- end -}}
{{- toYaml $reasons -}}
{{- end -}}

{{- define "batchfleet.pullSecrets" -}}
{{- with include "batchfleet.pullSecretNames" . | fromJsonArray }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Fields of a pod except its containers and volumes. Takes a dict: `root`, `component`, `values`, and
     `spread`, whether the pods are spread over nodes and zones. */}}
{{- define "batchfleet.pod" -}}
serviceAccountName: {{ include "batchfleet.serviceAccount" (list .root .component) }}
# Only the controller calls the Kubernetes API.
automountServiceAccountToken: {{ has .component (list "controller" "secrets") }}
enableServiceLinks: false
{{- include "batchfleet.pullSecrets" .root }}
securityContext: {{- include "batchfleet.podSecurity" (list .root .values.podSecurityContext) | nindent 2 }}
{{- if .values.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else if .spread }}
topologySpreadConstraints: {{- include "batchfleet.spread" (list .root .component) | indent 2 }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "dnsConfig" "hostAliases"
    "priorityClassName" "runtimeClassName" "schedulerName" "dnsPolicy" }}
{{- with get $.values $key }}
{{ dict $key . | toYaml }}
{{- end }}
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

{{/* A probe of the chart with the fields of a value. Takes (list KEY PROBE VALUE), PROBE as YAML. */}}
{{- define "batchfleet.probe" -}}
{{- $probe := index . 1 | fromYaml -}}
{{- $value := index . 2 -}}
{{- range list "exec" "httpGet" "tcpSocket" "grpc" -}}
{{- if hasKey $value . -}}{{- $probe = dict -}}{{- end -}}
{{- end -}}
{{- with merge (deepCopy $value) $probe }}
{{ dict (index $ 0) . | toYaml }}
{{- end }}
{{- end -}}

{{/* Environment and security context of a program's container. Takes the component's values. */}}
{{- define "batchfleet.container" -}}
securityContext: {{- toYaml .securityContext | nindent 2 }}
{{- with .extraEnv }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Elements of a list, indented below its key. Takes the list. */}}
{{- define "batchfleet.more" -}}
{{- with . }}
{{ toYaml . }}
{{- end }}
{{- end -}}
