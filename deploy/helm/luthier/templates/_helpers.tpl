{{- define "luthier.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "luthier.labels" -}}
app.kubernetes.io/name: luthier
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "luthier.selector" -}}
app.kubernetes.io/name: luthier
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "luthier.claim" -}}
{{- .Values.data.existingClaim | default (printf "%s-data" (include "luthier.name" .)) -}}
{{- end -}}

{{- define "luthier.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "luthier.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "luthier.environment" -}}
{{- $name := include "luthier.name" . -}}
{{- with .Values.store }}
- {name: LUTHIER_STORE, value: {{ . | quote }}}
{{- end }}
{{- if or .Values.database.enabled .Values.database.externalUrl }}
- name: LUTHIER_LEDGER
  value: {{ .Values.database.externalUrl | default (printf "postgresql://luthier@%s-database/luthier" $name) | quote }}
{{- end }}
{{- if or .Values.database.enabled .Values.database.existingSecret }}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ required "database.existingSecret names a secret with the key password" .Values.database.existingSecret | quote }}
      key: password
{{- end }}
{{- end -}}

{{- define "luthier.envFrom" -}}
{{- range .Values.secrets }}
- secretRef: {name: {{ . | quote }}}
{{- end }}
{{- end -}}

{{- define "luthier.mounts" -}}
- {name: data, mountPath: /data}
- {name: cache, mountPath: /cache}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "luthier.volumes" -}}
- name: data
  persistentVolumeClaim: {claimName: {{ include "luthier.claim" . }}}
- name: cache
  emptyDir: {sizeLimit: {{ .Values.cacheSize }}}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
{{- end -}}

{{/* The pod of a job; its argument is a list of the root and the job. */}}
{{- define "luthier.jobPod" -}}
{{- $root := index . 0 -}}
{{- $job := index . 1 -}}
metadata:
  labels:
    {{- include "luthier.labels" $root | nindent 4 }}
    app.kubernetes.io/component: jobs
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  serviceAccountName: {{ include "luthier.name" $root }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "luthier.podSecurity" $root | nindent 4 }}
  terminationGracePeriodSeconds: 60
  {{- with $job.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $job.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: luthier
      image: "{{ $root.Values.image.repository }}:{{ $root.Values.image.tag }}"
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: {{- toYaml $job.args | nindent 8 }}
      workingDir: /data
      env: {{- include "luthier.environment" $root | nindent 8 }}
      {{- with (include "luthier.envFrom" $root) }}
      envFrom: {{- . | nindent 8 }}
      {{- end }}
      securityContext: {{- include "luthier.containerSecurity" $root | nindent 8 }}
      {{- with $job.resources }}
      resources: {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts: {{- include "luthier.mounts" $root | nindent 8 }}
  volumes: {{- include "luthier.volumes" $root | nindent 4 }}
{{- end -}}
