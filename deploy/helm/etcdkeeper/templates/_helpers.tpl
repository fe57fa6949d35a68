{{- define "etcdkeeper.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "etcdkeeper.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "etcdkeeper.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "etcdkeeper.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "etcdkeeper.selectorLabels" -}}
app.kubernetes.io/name: {{ include "etcdkeeper.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "etcdkeeper.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "etcdkeeper.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "etcdkeeper.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{- define "etcdkeeper.serviceAccountName" -}}
{{- default (include "etcdkeeper.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{/* Labels of the pods that the keeper runs in. */}}
{{- define "etcdkeeper.podLabels" -}}
{{- if eq .Values.mode "deployment" -}}
{{ include "etcdkeeper.selectorLabels" . }}
app.kubernetes.io/component: keeper
{{- else -}}
{{- if not .Values.podLabels }}
{{- fail "mode sidecar: podLabels, the labels of your etcd pods, are wanted by podMonitor and networkPolicy" }}
{{- end }}
{{- toYaml .Values.podLabels }}
{{- end }}
{{- end }}

{{/* The configuration file: the values of the chart on top of config. */}}
{{- define "etcdkeeper.config" -}}
{{- if eq (int .Values.listen.port) (int .Values.listen.probePort) }}
{{- fail "listen.port and listen.probePort are the same: the probes have a port of their own" }}
{{- end }}
{{- $etcd := dict "endpoints" .Values.etcd.endpoints }}
{{- if .Values.etcd.tls.enabled }}
{{- $_ := set $etcd "cacert" (printf "%s/%s" .Values.etcd.tls.mountPath .Values.etcd.tls.ca) }}
{{- $_ := set $etcd "cert" (printf "%s/%s" .Values.etcd.tls.mountPath .Values.etcd.tls.cert) }}
{{- $_ := set $etcd "key" (printf "%s/%s" .Values.etcd.tls.mountPath .Values.etcd.tls.key) }}
{{- end }}
{{- if and (eq .Values.mode "sidecar") .Values.etcd.dataVolume.name }}
{{- $_ := set $etcd "memberDataDir" .Values.etcd.dataVolume.mountPath }}
{{- end }}
{{- $listen := dict "address" (printf ":%d" (int .Values.listen.port)) "probeAddress" (printf ":%d" (int .Values.listen.probePort)) }}
{{- if .Values.listen.webConfigSecretName }}
{{- $_ := set $listen "webConfigFile" "/etc/etcdkeeper-web/web-config.yaml" }}
{{- end }}
{{- $set := dict "etcd" $etcd "listen" $listen }}
{{- if .Values.state.enabled }}
{{- $_ := set $set "stateDir" .Values.state.mountPath }}
{{- end }}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) $set) }}
{{- end }}

{{/* What etcd is reached with, for every container of the keeper. */}}
{{- define "etcdkeeper.etcdMounts" -}}
- name: etcdkeeper-config
  mountPath: /etc/etcdkeeper
  readOnly: true
{{- if .Values.etcd.tls.enabled }}
- name: {{ default "etcdkeeper-tls" .Values.etcd.tls.volumeName }}
  mountPath: {{ .Values.etcd.tls.mountPath }}
  readOnly: true
{{- end }}
{{- end }}

{{- define "etcdkeeper.etcdVolumes" -}}
- name: etcdkeeper-config
  configMap:
    name: {{ include "etcdkeeper.fullname" . }}
{{- if and .Values.etcd.tls.enabled (not .Values.etcd.tls.volumeName) }}
- name: etcdkeeper-tls
  secret:
    secretName: {{ required "etcd.tls: name the Secret with the client certificate (secretName) or a volume of your pod that has it (volumeName), or set enabled: false" .Values.etcd.tls.secretName }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{- define "etcdkeeper.authEnv" -}}
{{- with .Values.etcd.authSecretName }}
envFrom:
  - secretRef:
      name: {{ . }}
{{- end }}
{{- end }}
