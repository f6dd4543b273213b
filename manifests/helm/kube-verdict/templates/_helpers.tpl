{{- define "kube-verdict.labels" -}}
{{ include "kube-verdict.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "kube-verdict.selector" -}}
app.kubernetes.io/name: kube-verdict
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Cluster-wide names: two releases don't share a role. */ -}}
{{- define "kube-verdict.name" -}}
{{ if contains "kube-verdict" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-kube-verdict{{ end }}
{{- end }}

{{- define "kube-verdict.metricsPort" -}}
{{ regexFind "[0-9]+$" .Values.metrics.address }}
{{- end }}
