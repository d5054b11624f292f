"""Limits: who may begin, who waits, and who follows (K1).

`Limiter` is what one replica does about limits. A claim passes `admit` before its dispatch, the end of a limited step comes
through `over`; `work` hands what was freed on to those that wait. `LimitSweep` heals what a crash leaves.
"""
