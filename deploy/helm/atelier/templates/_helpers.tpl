{{- define "atelier.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "atelier.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "atelier.labels" -}}
{{ include "atelier.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "atelier.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{- define "atelier.weightsClaim" -}}
{{ default (printf "%s-weights" (include "atelier.fullname" .)) .Values.weights.existingClaim }}
{{- end -}}

{{- define "atelier.weightsName" -}}
{{ default .Values.model .Values.weights.fetch }}
{{- end -}}

{{/* Of pods: an unprivileged user, as in the Dockerfile. */}}
{{- define "atelier.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Of containers: nothing to gain, and nothing to write but volumes. */}}
{{- define "atelier.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Refuses what the service would refuse, or lose, later. */}}
{{- define "atelier.check" -}}
{{- if and (not .Values.apiKeys.existingSecret) (not .Values.allowAnonymous) -}}
{{- fail "Set apiKeys.existingSecret to a secret with API keys, or allowAnonymous=true where something in front of the service authenticates." -}}
{{- end -}}
{{- if and (not .Values.redis.existingSecret) (or .Values.autoscaling.enabled (gt (int .Values.replicas) 1)) -}}
{{- fail "Several replicas need one store: set redis.existingSecret to a secret with the URL of a Redis." -}}
{{- end -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas is greater than autoscaling.maxReplicas." -}}
{{- end -}}
{{- range $name := list "ATELIER_REQUEST_TIMEOUT_SECONDS" "ATELIER_DRAIN_SECONDS" -}}
{{- if hasKey $.Values.config $name -}}
{{- fail (printf "%s follows from requestTimeoutSeconds; set that, so that pods get long enough to end." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
