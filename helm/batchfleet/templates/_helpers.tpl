{{/* Names, labels, images and settings that all objects share. */}}

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

{{- define "batchfleet.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end -}}

{{/* Selector labels of a component's pods. Takes (list $ COMPONENT). */}}
{{- define "batchfleet.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "batchfleet.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Metadata of an object. Takes a dict: `root`, `component` and `name`; optionally `labels` and
     `annotations`, and `global` for an object without a namespace. The chart's labels take precedence
     over others, so that selectors always match. */}}
{{- define "batchfleet.metadata" -}}
{{- $root := .root -}}
{{- $own := include "batchfleet.selector" (list $root .component) | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" $root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "batchfleet" -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") -}}
name: {{ .name }}
{{- if not .global }}
namespace: {{ include "batchfleet.namespace" $root }}
{{- end }}
labels: {{- merge $own (.labels | default dict) $root.Values.commonLabels | toYaml | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) $root.Values.commonAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Selector labels of the workers, which the controller creates. */}}
{{- define "batchfleet.workers" -}}
app.kubernetes.io/name: batchfleet-worker
app.kubernetes.io/component: worker
{{- end -}}

{{/* Image of a component. Takes (list $ NAME). */}}
{{- define "batchfleet.image" -}}
{{- $root := index . 0 -}}
{{- $images := $root.Values.images -}}
{{- $image := get $images (index . 1) -}}
{{- $registry := dig "imageRegistry" "" ($root.Values.global | default dict) | default $images.registry -}}
{{- $host := regexFind "^([^/]+[.:][^/]*|localhost)/" $image -}}
{{- if and $registry (or (not $host) (eq $host "docker.io/")) -}}
{{- $image = printf "%s/%s" (trimSuffix "/" $registry) (trimPrefix "docker.io/" $image) -}}
{{- end -}}
{{- if get $images.digests (index . 1) -}}
{{- regexReplaceAll "[:@][^/]*$" $image "" }}@{{ get $images.digests (index . 1) -}}
{{- else if regexMatch "[:@][^/]*$" $image -}}
{{- $image -}}
{{- else -}}
{{- $image }}:{{ $images.tag | default $root.Chart.AppVersion -}}
{{- end -}}
{{- end -}}

{{/* Names of all image pull secrets, as JSON. */}}
{{- define "batchfleet.pullSecretNames" -}}
{{- $names := list -}}
{{- $global := dig "imagePullSecrets" list (.Values.global | default dict) -}}
{{- range concat .Values.images.pullSecrets .Values.imagePullSecrets $global -}}
{{- $names = append $names (ternary . (get (ternary dict . (kindIs "string" .)) "name") (kindIs "string" .)) -}}
{{- end -}}
{{- $names | uniq | toJson -}}
{{- end -}}

{{/* Address on which programs listen, without the port. Where the node has no IPv6, programs listen on
     IPv4 instead. */}}
{{- define "batchfleet.anyAddress" -}}[::]{{- end -}}

{{/* IP families of a Service. */}}
{{- define "batchfleet.ipFamilies" -}}
{{- with .Values.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.ipFamilies }}
ipFamilies: {{- toYaml . | nindent 2 }}
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
