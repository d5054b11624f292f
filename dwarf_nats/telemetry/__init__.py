"""Metrics, traces and what goes with them: the only room that knows OpenTelemetry (T1, T2).

`catalogue` lists the metrics, `tally` counts, `meters` shows the counts to whoever listens, `traces` makes the spans, `context`
carries them from process to process. `otlp`, which needs the extra `otel`, sends it all somewhere. Nothing is imported here:
`context` is for the SDK too, and loads OpenTelemetry only when there is something to carry.
"""
