{{- define "tcc.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "tcc.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: coordinator
{{- end }}

{{- define "tcc.labels" -}}
{{ include "tcc.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "tcc.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{- define "tcc.podSecurity" -}}
runAsNonRoot: true
# As in the image.
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "tcc.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* Of coordinators and of the migration: both read the same configuration. */}}
{{- define "tcc.environment" -}}
- name: TCC_LOG__URL
  valueFrom: { secretKeyRef: { name: {{ .Values.log.secretName | quote }}, key: {{ .Values.log.key | quote }} } }
{{- with .Values.log.serversKey }}
- name: TCC_LOG__SERVERS
  valueFrom: { secretKeyRef: { name: {{ $.Values.log.secretName | quote }}, key: {{ . | quote }} } }
{{- end }}
- { name: TCC_LISTEN__ADDRESS, value: "0.0.0.0:50050" }
- { name: TCC_ADMIN__LISTEN, value: "0.0.0.0:7091" }
- { name: TCC_METRICS__LISTEN, value: "0.0.0.0:9464" }
- { name: TCC_DRAIN_S, value: {{ .Values.drainSeconds | quote }} }
# One process in a pod; more pods instead of more workers.
- { name: TCC_WORKERS, value: "1" }
{{- if .Values.insecure }}
- { name: TCC_INSECURE, value: "true" }
{{- end }}
{{- if .Values.tls.secretName }}
{{- range tuple "LISTEN" "ADMIN" }}
- { name: TCC_{{ . }}__TLS__CERTIFICATE_FILE, value: /etc/tcc/tls/tls.crt }
- { name: TCC_{{ . }}__TLS__KEY_FILE, value: /etc/tcc/tls/tls.key }
- { name: TCC_{{ . }}__TLS__CLIENT_CA_FILE, value: /etc/tcc/tls/ca.crt }
{{- end }}
{{- end }}
{{- end }}

{{/* The volume `config` is each pod's own. */}}
{{- define "tcc.mounts" -}}
- { name: config, mountPath: /etc/tcc/config, readOnly: true }
- { name: tmp, mountPath: /tmp }
{{- if .Values.tls.secretName }}
- { name: tls, mountPath: /etc/tcc/tls, readOnly: true }
{{- end }}
{{- range .Values.secrets }}
- { name: {{ printf "secret-%s" . | quote }}, mountPath: {{ printf "/etc/tcc/secrets/%s" . | quote }}, readOnly: true }
{{- end }}
{{- end }}

{{/* Without `config`. */}}
{{- define "tcc.volumes" -}}
- { name: tmp, emptyDir: { medium: Memory, sizeLimit: 64Mi } }
{{- with .Values.tls.secretName }}
- { name: tls, secret: { secretName: {{ . | quote }}, defaultMode: 0440 } }
{{- end }}
{{- range .Values.secrets }}
- { name: {{ printf "secret-%s" . | quote }}, secret: { secretName: {{ . | quote }}, defaultMode: 0440 } }
{{- end }}
{{- end }}
