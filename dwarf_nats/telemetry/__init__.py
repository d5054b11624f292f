"""Metrics, traces and what goes with them: the only room that knows OpenTelemetry (T1, T2).

`catalogue` lists the metrics, `counters` counts, `instruments` reports the counts to readers, `traces` makes the spans,
`context` carries them from process to process. `otlp`, which needs the extra `otel`, exports all of it. Nothing is imported
here: the SDK uses `context` too, which loads OpenTelemetry only when there is something to carry.
"""
