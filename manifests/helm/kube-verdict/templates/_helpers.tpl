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

{{- define "kube-verdict.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
{{- end }}

{{- /* For objects that run, and are deleted, before the chart's other objects are deleted. */ -}}
{{- define "kube-verdict.hook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{- define "kube-verdict.cleanup.name" -}}
{{ include "kube-verdict.name" . }}-cleanup
{{- end }}

{{- define "kube-verdict.cleanup.selector" -}}
app.kubernetes.io/name: kube-verdict-cleanup
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kube-verdict.cleanup.labels" -}}
{{ include "kube-verdict.cleanup.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- /* The marks that agents use, and the records that go. */ -}}
{{- define "kube-verdict.cleanup.flags" -}}
{{- range .Values.extraArgs }}
{{- if hasPrefix "--connection-marks=" . }}
- {{ . | quote }}
{{- end }}
{{- end }}
{{- with .Values.stateDir }}
- --state-dir={{ . }}
{{- end }}
{{- if .Values.uninstall.removeAuditLog }}
- --audit-log={{ .Values.audit.folder }}/audit.log
{{- end }}
{{- end }}

{{/* The number of the audit log's group; empty if there is none. Group 0 is one. */}}
{{- define "kube-verdict.auditGroup" -}}
{{- if not (kindIs "invalid" .Values.audit.group) }}{{ int64 .Values.audit.group }}{{ end }}
{{- end }}

{{/* "true" if records go to a file; empty if not. */}}
{{- define "kube-verdict.auditFile" -}}
{{- if and .Values.audit.enabled (eq .Values.audit.output "file") }}true{{ end }}
{{- end }}
