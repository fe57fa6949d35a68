{{/*
The keeper's container, an item of a pod template's initContainers: a native sidecar.
In mode deployment it is the pod's container.

  initContainers:
    {{- include "etcdkeeper.sidecar" .Subcharts.etcdkeeper | nindent 8 }}
*/}}
{{- define "etcdkeeper.sidecar" -}}
- name: etcdkeeper
  image: {{ include "etcdkeeper.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- if eq .Values.mode "sidecar" }}
  restartPolicy: Always
  {{- end }}
  args:
    - run
    - --config=/etc/etcdkeeper/etcdkeeper.yaml
    {{- with .Values.extraArgs }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  env:
    - name: GOMEMLIMIT
      value: {{ .Values.goMemLimit | quote }}
    {{- if eq .Values.mode "sidecar" }}
    - name: ETCDKEEPER_VPA_POD
      valueFrom:
        fieldRef:
          fieldPath: metadata.name
    - name: ETCDKEEPER_VPA_NAMESPACE
      valueFrom:
        fieldRef:
          fieldPath: metadata.namespace
    {{- end }}
    {{- with .Values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with include "etcdkeeper.authEnv" . }}
  {{- . | nindent 2 }}
  {{- end }}
  ports:
    - name: keeper-metrics
      containerPort: {{ .Values.listen.port }}
      protocol: TCP
    - name: keeper-probes
      containerPort: {{ .Values.listen.probePort }}
      protocol: TCP
  livenessProbe:
    httpGet:
      path: /livez
      port: keeper-probes
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  readinessProbe:
    httpGet:
      path: /readyz
      port: keeper-probes
    periodSeconds: 10
    timeoutSeconds: 5
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  volumeMounts:
    {{- include "etcdkeeper.etcdMounts" . | nindent 4 }}
    {{- if and (eq .Values.mode "sidecar") .Values.etcd.dataVolume.name }}
    - name: {{ .Values.etcd.dataVolume.name }}
      mountPath: {{ .Values.etcd.dataVolume.mountPath }}
      readOnly: true
    {{- end }}
    {{- if .Values.state.enabled }}
    - name: etcdkeeper-state
      mountPath: {{ .Values.state.mountPath }}
    {{- end }}
    {{- if .Values.listen.webConfigSecretName }}
    - name: etcdkeeper-web
      mountPath: /etc/etcdkeeper-web
      readOnly: true
    {{- end }}
{{- end }}

{{/* The volumes that the container wants, items of a pod template's volumes. */}}
{{- define "etcdkeeper.volumes" -}}
{{ include "etcdkeeper.etcdVolumes" . }}
{{- if .Values.state.enabled }}
- name: etcdkeeper-state
  emptyDir:
    sizeLimit: 256Mi
{{- end }}
{{- with .Values.listen.webConfigSecretName }}
- name: etcdkeeper-web
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}
