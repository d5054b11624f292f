{{- define "dwarf-nats.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "dwarf-nats.labels" -}}
app.kubernetes.io/name: dwarf-nats
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dwarf-nats.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "dwarf-nats.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "dwarf-nats.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: ["ALL"]}
{{- end }}

{{- define "dwarf-nats.graphs" -}}
{{- if .Values.existingGraphsConfigMap }}{{ .Values.existingGraphsConfigMap }}
{{- else if .Values.graphs }}{{ include "dwarf-nats.name" . }}-graphs
{{- end }}
{{- end }}
